"""From what was typed to orders that can be carried out, and what is said about them and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import load, refuse
from corl_cli.core.recipe import Recipe
from corl_cli.core.requirements import Requirement, demand
from corl_cli.core.types import AnswerType
from corl_cli.data import templates
from corl_cli.eval import BENCHMARKS, bind, resolve
from corl_cli.eval.base import Benchmark, Setting
from corl_cli.eval.store import Store
from corl_cli.models import fitness
from corl_cli.pipelines import build, evaluate
from corl_cli.pipelines.evaluate import STEPS, Order, Step
from corl_cli.pipelines.evaluated import Checkpoint, draft, instruction


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line of an evaluation."""

    recipe: str | None = None
    overrides: Sequence[str] = ()
    checkpoint: str | None = None
    out: Path | None = None
    limit: int | None = None
    only: Step | None = None
    resume: bool = False
    allow_partial: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done: everything, or one step."""
        return (self.only,) if self.only else STEPS


def take(asked: Asked, names: Sequence[str] | None) -> list[Order]:
    """An order for each benchmark of these names, or for all that the recipe lists; UsageError with all faults at once.

    A single benchmark's folder is `out` itself, of several its folders are inside.
    """
    for name in names or ():
        resolve(name)
    generating = "generate" in asked.steps
    there = Store(asked.out) if asked.out and (asked.resume or not generating) else None
    found, checkpoint = draft(asked.recipe, asked.overrides, asked.checkpoint, there, generating=generating)
    recipe = found.recipe
    wanted = list(recipe.eval.benchmarks) if names is None else list(names)
    if not wanted:
        raise UsageError(
            f"The recipe {found.source} lists no benchmarks.", "Add some under eval.benchmarks, or take eval/world."
        )
    setting = settle(recipe, checkpoint)
    bound: list[Benchmark] = []
    attempts: list[Callable[[], object]] = [partial(_bind, name, recipe, setting, bound) for name in wanted]
    attempts += [partial(resolve, name) for name in recipe.eval.benchmarks]
    attempts.append(partial(templates.check, instruction(recipe, checkpoint)))
    if generating:
        attempts += [partial(build.policy_class, recipe.model.family), partial(_check_weights, checkpoint)]
    faults, hints = build.failures(attempts)
    if found.faults or faults:
        if not found.faults:
            raise UsageError("\n".join(faults), "\n".join(hints) or None)
        raise refuse(found.source, [*found.faults, *faults])
    recipe = recipe.model_copy(
        update={"eval": recipe.eval.model_copy(update={"instruction": instruction(recipe, checkpoint)})}
    )
    return [
        Order(
            recipe=recipe,
            benchmark=benchmark,
            checkpoint=checkpoint if generating or asked.checkpoint else None,
            store=Store(_folder(asked.out, checkpoint, benchmark, single=names is not None)),
            steps=asked.steps,
            limit=asked.limit,
            resume=asked.resume,
            allow_partial=asked.allow_partial,
        )
        for benchmark in bound
    ]


def _bind(name: str, recipe: Recipe, setting: Setting, bound: list[Benchmark]) -> None:
    bound.append(bind(name, recipe.eval.benchmarks.get(name, {}), setting))


def settle(recipe: Recipe, checkpoint: Checkpoint) -> Setting:
    """What the recipe says to every benchmark, about this checkpoint."""
    words = instruction(recipe, checkpoint)
    instructions: dict[AnswerType, str] = {
        "mc": templates.INSTRUCTIONS.get(words.mc, ""),
        "oe": templates.INSTRUCTIONS.get(words.oe, ""),
    }
    return Setting(
        seed=recipe.seed,
        drawing=recipe.eval.t2i,
        answering=recipe.eval.mm2t,
        judge=recipe.eval.judge,
        instructions=instructions,
    )


def check_all(orders: Sequence[Order]) -> None:
    """UsageError with what any of several orders needs and this machine lacks: nothing is begun."""
    faults, hints = build.failures([partial(evaluate.check, order) for order in orders])
    if faults:
        many = "What to do about each is told by the same command with --dry-run."
        raise UsageError("\n".join(faults), "\n".join(hints) if len(hints) < 2 else many)


def remarks(order: Order, asked: Asked) -> Iterator[str]:
    """What to know before it begins, told by the first process."""
    if not evaluate.is_main_process():
        return
    if order.checkpoint and asked.checkpoint is None and order.checkpoint.asked == "world":
        yield "No --checkpoint was given: this is the shipped tiny Janus of the embedded world."
    checkpoint = f" of {order.checkpoint.name}" if order.checkpoint else ""
    yield f"{order.benchmark.title}{checkpoint} in {order.store.folder}"


def describe(order: Order, num_processes: int) -> dict[str, Any]:
    """What would be done, without reading the data."""
    benchmark = order.benchmark
    data, scorers = benchmark.requirements(), benchmark.scorers()
    return {
        "benchmark": benchmark.title + (f" ({benchmark.variant})" if benchmark.variant else ""),
        "checkpoint": order.checkpoint.name if order.checkpoint else "as in the folder",
        "steps": ", ".join(order.steps),
        "folder": str(order.store.folder),
        "sampling": _told(evaluate.sampling(order.recipe, benchmark)),
        "prompts": _told(benchmark.protocol()) if all(need.met for need in data) else "not here yet",
        "scorer": _told(benchmark.scorer()) if all(need.met for need in scorers) else "not here yet",
        "limit": order.limit,
        "processes": num_processes,
        "needs": _needs(evaluate.needs(order)) or "nothing more",
    }


def outlook(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What stands of a plan in a table of several."""
    return {name: plan[name] for name in ("benchmark", "checkpoint", "folder", "needs")}


def catalogue() -> list[dict[str, Any]]:
    """Every benchmark with what it measures, and what it lacks here for the embedded world and for Janus-Pro."""
    small = load("eval/world").eval.benchmarks
    rows = []
    for name in BENCHMARKS:
        benchmark = bind(name, {}, Setting())
        lacking = [need for need in (*benchmark.requirements(), *benchmark.scorers()) if need.state != "ok"]
        rows.append(
            {
                "name": name,
                "title": benchmark.title,
                "asks": " and ".join({"t2i": "drawings", "mm2t": "answers"}[task] for task in benchmark.tasks),
                "number": benchmark.measure,
                "embedded world": "ready" if name in small else "-",
                "Janus-Pro": _needs(lacking) or "ready",
            }
        )
    return rows


def _needs(requirements: Sequence[Requirement]) -> str:
    return ", ".join(dict.fromkeys(f"{need.name} ({need.state})" for need in requirements))


def overview(result: dict[str, Any]) -> dict[str, Any]:
    """One line for one result."""
    return {
        "benchmark": result["title"] + (f" ({result['variant']})" if result["variant"] else ""),
        "overall": result["overall"],
        "±": result["stderr"],
        "items": result["items"] if result["limit"] is None else f"{result['items']} of {result['items_of']}",
        "failed": result["failed"],
        "checkpoint": result["checkpoint"]["name"],
    }


def breakdown(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of a result, its further numbers, and the overall one last."""
    name = "overall (partial)" if result["partial"] else "overall"
    return [
        *(_row(group["name"], group["mean"], group) for group in result["groups"]),
        *(_row(metric, value, {}) for metric, value in result["metrics"].items()),
        *([_row("cut at the token limit", result["truncated"], {})] if result["truncated"] else []),
        _row(name, result["overall"], result),
    ]


def _row(name: str, score: float | None, about: Mapping[str, Any]) -> dict[str, Any]:
    return {"": name, "score": score, "±": about.get("stderr")} | {key: about.get(key) for key in ("items", "failed")}


def protocol(result: dict[str, Any]) -> Iterator[str]:
    """Lines that say what a number was made of, so that nobody takes it for another."""
    some = "" if result["limit"] is None else f", {result['items']} of its {result['items_of']} items only"
    variant = f" ({result['variant']})" if result["variant"] else ""
    yield f"{result['title']}{variant}{some}: {result['measure']}"
    yield f"checkpoint: {result['checkpoint']['name']}, weights {result['checkpoint']['weights'][:12]}"
    yield f"prompts: {_told(result['prompts'])}"
    yield f"sampling: {_told(result['sampling'])}"
    yield f"scorer: {_told(result['scorer'])}"


def self_test(order: Order) -> list[dict[str, Any]]:
    """What the benchmark's scorer makes of what has a known score; CorlError where there is nothing to try."""
    demand(order.benchmark.scorers(), order.benchmark.name)
    order.benchmark.load(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    checks = order.benchmark.self_test()
    if not checks:
        raise UsageError(f"{order.benchmark.title} has no self-test.", "Try a few items: --limit 8")
    return [
        {
            "check": check.name,
            "passed": "yes" if check.passed else "no",
            "found": check.found,
            "remedy": "" if check.passed else check.remedy,
        }
        for check in checks
    ]


def _check_weights(checkpoint: Checkpoint) -> None:
    if Path(checkpoint.path).expanduser().is_dir():
        fitness.check(checkpoint.path)


def _folder(out: Path | None, checkpoint: Checkpoint, benchmark: Benchmark, *, single: bool) -> Path:
    if out and single:
        return out
    name = benchmark.name.replace(":", "-") + (f"-{benchmark.variant}" if benchmark.variant else "")
    return (out or checkpoint.results) / "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _told(facts: Any) -> str:
    """Facts in one line: key value, key value."""
    if not isinstance(facts, dict):
        return str(facts)
    parts = []
    for name, value in facts.items():
        if value is None or value == "":
            continue
        words = f"({_told(value)})" if isinstance(value, dict) else str(value)
        if words != "()":
            parts.append(f"{name.replace('_', ' ')} {words}")
    return ", ".join(parts)
