"""Whether a recipe fits into GPUs, how long it takes there, and what to change where it does not fit."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Task
from corl_cli.pipelines import build, costs, estimate, plan
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.estimate import Peak
from corl_cli.pipelines.machine import Machine

# What of its bound, by bandwidth or arithmetic, a phase reaches where no bench says it: assumed, not measured.
ASSUMED = {"rollout": 0.5, "update": 0.4}
LEFT_OUT = "Left out: rewards, held-out readings, pictures from tokens, checkpoints, and traffic between GPUs."


@dataclass(frozen=True, kw_only=True)
class Change:
    """A way to need less memory: what to add to the command, what is then needed, and whether that fits."""

    add: str
    needed: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A recipe on so many GPUs: seconds of one step by phase, of all steps in hours where their number is known.

    `basis` says in sentences what the numbers stand on.
    """

    machine: Machine
    gpus: int
    micro_batch_size: int
    peak: Peak
    fits: bool
    seconds: dict[str, float]
    steps: int | None
    changes: list[Change]
    basis: list[str]

    @property
    def hours(self) -> float | None:
        """Of the whole run."""
        return self.steps * sum(self.seconds.values()) / 3600 if self.steps else None


@dataclass(frozen=True)
class Efficiency:
    """What share of its bound each phase reaches, by phase or by phase and task, and where that is from."""

    shares: Mapping[str, float]
    source: str

    def of(self, phase: str, task: Task) -> float:
        """That of one task, else of the phase, else the assumed one."""
        return self.shares.get(f"{phase} {task}", self.shares.get(phase, ASSUMED[phase]))

    @classmethod
    def read(cls, files: Sequence[Path]) -> Efficiency:
        """From reports of corl bench rollout, update or step --json; UsageError for other files."""
        found: dict[str, list[float]] = {}
        machines = set()
        for file in files:
            try:
                report = json.loads(file.read_text(encoding="utf-8"))
                command = report["command"]
                machines.add(f"{report['machine']['name']} ({file.name})")
                for row in report["rows"]:
                    for phase, share in _shares(command, row):
                        found.setdefault(phase, []).append(share)
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise UsageError(
                    f"{file} is no report of a bench: {error}.", "Make one: corl bench step --json > step.json"
                ) from error
        if not files:
            return cls({}, "assumed, not measured (--bench takes what corl bench step --json prints)")
        lacking = [phase for phase in ASSUMED if not any(name.startswith(phase) for name in found)]
        assumed = f"; of {' and '.join(lacking)} assumed, not measured" if lacking else ""
        return cls(
            {name: statistics.median(shares) for name, shares in found.items()},
            f"measured on {', '.join(sorted(machines))}{assumed}",
        )


def _shares(command: str, row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The phases that a row tells of, and the larger of the two shares: that of the bound that held."""
    if command == "step":
        return [(phase, max(row[f"{phase}_bandwidth_share"], row[f"{phase}_arithmetic_share"])) for phase in ASSUMED]
    if command not in ASSUMED:
        raise ValueError(f"corl bench {command} tells of no shares")
    return [(f"{command} {row['task']}", max(row["bandwidth_share"], row["arithmetic_share"]))]


def forecast(
    changed: Callable[[Sequence[str]], Recipe], machine: Machine, gpus: int, efficiency: Efficiency
) -> Forecast:
    """What the recipe that `changed` makes of no more changes takes; CorlError where its model is not known."""
    with readable(changed) as (changed, remarks):
        recipe = changed([])
        _check_share(recipe, gpus)
        size, peak = sized(recipe, machine, gpus)
        steps, why = _steps(recipe)
        fits = peak.total <= plan.MARGIN * machine.memory
        found = seconds(recipe, machine, gpus, efficiency)
        return Forecast(
            machine=machine,
            gpus=gpus,
            micro_batch_size=size,
            peak=peak,
            fits=fits,
            seconds=found,
            steps=steps,
            changes=[] if fits else list(remedies(changed, machine, gpus)),
            basis=[
                *remarks,
                f"Memory is estimated; it fits where it takes {plan.MARGIN:.0%} of the GPU's at most.",
                f"Seconds: the least work by bandwidth and arithmetic rate, by the share of them that is reached: "
                f"{_told(found, efficiency, recipe)}; {efficiency.source}. Prompts and answers are taken to be as "
                "long as the longest.",
                LEFT_OUT,
                *why,
            ],
        )


def sized(recipe: Recipe, machine: Machine, gpus: int) -> tuple[int, Peak]:
    """The micro-batches of the recipe, or as many triplets as fit, 1 where none does; and the peak with them."""

    def need(size: int) -> int:
        return estimate.peak(recipe, gpus, size).total

    share = recipe.train.batch_size // gpus
    set_by_hand = share if recipe.algo.loss == "bnpo" else None
    size = recipe.train.micro_batch_size or set_by_hand or plan.largest(share, plan.MARGIN * machine.memory, need) or 1
    return size, estimate.peak(recipe, gpus, size)


def seconds(recipe: Recipe, machine: Machine, gpus: int, efficiency: Efficiency) -> dict[str, float]:
    """Seconds of each phase of a step; where tasks take turns, of a mean step."""
    config = estimate.configuration(path := build.locate(recipe.model.checkpoint))
    read, learn = estimate.longest(recipe, path), estimate.counted(recipe, path).learn
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    rates = machine.bandwidth, machine.arithmetic[recipe.model.dtype]
    prompts = recipe.train.batch_size / gpus
    group = recipe.sampling.group_size if recipe.train.method == "rl" else 1
    turns = len(recipe.train.tasks) if recipe.train.cycle else 1
    found = {}
    for task in recipe.train.tasks:
        rows = (prompts, group, read[task], estimate.new_tokens(recipe, config, task))
        if recipe.train.method == "rl":
            halves = 2 if task == "t2i" and recipe.sampling.t2i.cfg_weight != 1 else 1
            sampled = (
                costs.drawing(config, *rows, halves, width) if task == "t2i" else costs.writing(config, *rows, width)
            )
            found[f"rollout {task}"] = sampled.seconds(*rates) / efficiency.of("rollout", task)
        scored = (recipe.algo.beta > 0) + (recipe.algo.num_iterations > 1)
        if scored:
            once = costs.scoring(config, task, *rows, width)
            found[f"reference {task}"] = (once * scored).seconds(*rates) / efficiency.of("update", task)
        passes = _updating(recipe, config, task, rows, width) * recipe.algo.num_iterations
        found[f"update {task}"] = passes.seconds(*rates) / efficiency.of("update", task)
    shards = gpus if recipe.distributed.strategy == "fsdp" else 1
    step = costs.stepping(learn // shards) * recipe.algo.num_iterations
    found = {phase: value / turns for phase, value in found.items()}
    return found | {"optimiser": step.seconds(*rates) / ASSUMED["rollout"]}


def remedies(changed: Callable[[Sequence[str]], Recipe], machine: Machine, gpus: int) -> Iterator[Change]:
    """What makes a recipe need less, the least harmful first: time alone, then GPUs, then what is learnt."""
    recipe, kept = changed([]), list[str]()
    for add, wanted in (
        ("model.gradient_checkpointing=true", not recipe.model.gradient_checkpointing),
        ("train.micro_batch_size=1", recipe.train.micro_batch_size != 1),
    ):
        if wanted:
            kept.append(add)
            yield _change(changed, kept, machine, gpus)
    more = [many for many in (2, 4, 8) if many > gpus and recipe.train.batch_size % many == 0]
    for many in more:
        sharded = _change(changed, [*kept, "distributed.strategy=fsdp"], machine, many, f" --gpus {many}")
        if sharded.fits or many == more[-1]:
            yield sharded
            break
    if not recipe.model.lora and recipe.model.train == ["language_model"]:
        kept.append("model.lora={}")
        yield _change(changed, kept, machine, gpus)
    if recipe.sampling.group_size > 2:
        yield _change(changed, [*kept, f"sampling.group_size={max(2, recipe.sampling.group_size // 2)}"], machine, gpus)


def _change(
    changed: Callable[[Sequence[str]], Recipe], adds: Sequence[str], machine: Machine, gpus: int, more: str = ""
) -> Change:
    _, peak = sized(changed(adds), machine, gpus)
    words = " ".join(f"--set {add}" for add in adds) + more
    return Change(add=words, needed=peak.total, fits=peak.total <= plan.MARGIN * machine.memory)


@contextmanager
def readable(
    changed: Callable[[Sequence[str]], Recipe],
) -> Iterator[tuple[Callable[[Sequence[str]], Recipe], list[str]]]:
    """Recipes whose model's configuration can be read, and what to say where it is one that corl knows."""
    from corl_cli.pipelines.random_weights import JANUS, janus_config

    checkpoint = changed([]).model.checkpoint
    known = checkpoint.rpartition("/")[2].lower()
    try:
        estimate.configuration(build.locate(checkpoint))
    except CorlError:
        if known not in JANUS:
            raise
    else:
        yield changed, []
        return
    with tempfile.TemporaryDirectory(prefix="corl-plan-") as folder:
        janus_config(JANUS[known]).save_pretrained(folder)
        yield partial(_placed, changed, folder), [f"{checkpoint} cannot be read here: shapes as corl knows them."]


def _placed(changed: Callable[[Sequence[str]], Recipe], folder: str, adds: Sequence[str]) -> Recipe:
    recipe = changed(adds)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"checkpoint": folder})})


def _updating(recipe: Recipe, config: Any, task: Task, rows: tuple[float, int, float, float], width: int) -> Work:
    """Both passes, and those of the unconditional half where it is scored."""
    checkpointing, adapters = recipe.model.gradient_checkpointing, recipe.model.lora is not None
    work = costs.updating(config, task, *rows, width, checkpointing, adapters)
    drawing = recipe.sampling.t2i
    if task == "mm2t" or drawing.cfg_weight == 1 or drawing.scoring == "conditional":
        return work
    return work * 2 if drawing.scoring == "guided" else work + costs.scoring(config, task, *rows, width)


def _steps(recipe: Recipe) -> tuple[int | None, list[str]]:
    """Steps of the run, where the data say how many, and what to say where not."""
    if recipe.train.max_steps:
        return recipe.train.max_steps, []
    try:
        return plan.num_steps(recipe), []
    except CorlError as error:
        return None, [f"How many steps is not known: {error.message} Say how many: --set train.max_steps=N"]


def _check_share(recipe: Recipe, gpus: int) -> None:
    if recipe.train.batch_size % gpus:
        raise UsageError(
            f"train.batch_size: {recipe.train.batch_size} triplets cannot be shared evenly by {gpus} GPUs.",
            f"Use a multiple: --set train.batch_size={-(-recipe.train.batch_size // gpus) * gpus}",
        )


def _told(seconds: Mapping[str, float], efficiency: Efficiency, recipe: Recipe) -> str:
    """The shares that were used, in words."""
    phases = [phase for phase in ASSUMED if any(name.startswith(phase) for name in seconds)]
    parts = [f"{phase} {task} {efficiency.of(phase, task):.0%}" for phase in phases for task in recipe.train.tasks]
    return ", ".join(parts)
