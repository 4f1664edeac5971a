"""Makes the tiny Janus from nothing with one seed: image tokenizer, copying, then the supervised warm-up."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.models.janus import JanusPolicy
from corl_cli.world import tiny
from corl_cli.world.items import world_item
from corl_cli.world.language import caption
from corl_cli.world.vq import Report, faithful, train_vq
from corl_cli.world.warmup import Ability, WarmUp, initialise, learn_copying, measure, seen_items, unseen_items

PhaseReport = Callable[[str, int, int, str], None]  # phase, steps done, steps at most, what to tell


TARGET = Ability(draw=0.47, oe=0.55, mc=0.48, caption=0.82)  # imperfect on purpose, so that GRPO has work


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much each phase gets, and when the warm-up is good enough."""

    tokenizer_images: int = 2048
    tokenizer_steps: int = 1500
    tokenizer_floor: float = 0.9  # share of reconstructions that must still show their prompt
    copy_steps: int = 1500
    pool_size: int = 6000
    warm_up_steps: int = 2500
    measure_every: int = 50
    probe_items: int = 400
    target: Ability = TARGET
    test_items: int = 800


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Tiny gradients of the first steps would make them several times slower."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # the process is its caller's


@_without_denormals()
def build(
    out: Path, *, seed: int = 0, resume: bool = False, report: PhaseReport = lambda *_: None, plan: Plan | None = None
) -> dict[str, Any]:
    """Write the tiny Janus to `out` and return what build.json says of it.

    Phases are kept in `out`/.build until the end; with `resume` those that are there are not done again. UsageError
    when `out` holds something and `resume` is not set.
    """
    plan = plan or Plan()
    work = out / ".build"
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file.", "Give a folder with --out.")
    if out.exists() and any(out.iterdir()) and not (resume and work.exists()):
        raise UsageError(f"{out} is not empty.", "Add --resume to go on with a build, or give another --out.")
    work.mkdir(parents=True, exist_ok=True)
    processor = tiny.build_processor()
    torch.manual_seed(seed)
    policy = JanusPolicy(tiny.build_model(processor), processor)
    policy.model.requires_grad_(True)
    record: dict[str, Any] = {"seed": seed, "phases": {}}
    for name, phase in (("tokenizer", _tokenizer), ("copying", _copying), ("warm-up", _warm_up)):
        saved = work / f"{name}.pt"
        if saved.exists():
            state = torch.load(saved, weights_only=True)
            if state["seed"] != seed:
                raise UsageError(f"{out} was begun with seed {state['seed']}.", f"Add --seed {state['seed']}.")
            policy.model.load_state_dict(state["model"])
            record["phases"][name] = state["record"]
            report(name, 1, 1, "done before")
            continue
        start = time.perf_counter()
        torch.manual_seed(seed)  # a resumed build draws the same numbers
        told = phase(policy, seed, plan, partial(report, name))
        record["phases"][name] = {**told, "seconds": round(time.perf_counter() - start)}
        _keep(saved, {"seed": seed, "model": policy.model.state_dict(), "record": record["phases"][name]})
    record["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    tiny.save(policy.model, tiny.build_processor(), out)  # a used tokenizer would save its last padding
    record["test"] = _examine(JanusPolicy.load(out), seed, plan, report)  # as rounded to 16 bits
    (out / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(work)
    return record


def _tokenizer(policy: JanusPolicy, seed: int, plan: Plan, report: Report) -> dict[str, Any]:
    vq = policy.model.model.vqmodel
    images = [item.triplet.image for item in seen_items(seed, plan.tokenizer_images)]
    train_vq(vq, images, seed=seed, num_steps=plan.tokenizer_steps, report=report)
    unseen = unseen_items(seed, 200)
    kept = faithful(vq, [caption(item.spec) for item in unseen], [item.triplet.image for item in unseen])
    if kept < plan.tokenizer_floor:
        raise CorlError(f"Only {kept:.0%} of the images survive the tokenizer.", "Build with another --seed.")
    return {"steps": plan.tokenizer_steps, "faithful": kept}


def _copying(policy: JanusPolicy, seed: int, plan: Plan, report: Report) -> dict[str, Any]:
    initialise(policy)
    return {"steps": learn_copying(policy, seed=seed, max_steps=plan.copy_steps, report=report)}


def _warm_up(policy: JanusPolicy, seed: int, plan: Plan, report: Report) -> dict[str, Any]:
    warm_up = WarmUp(policy, seed=seed, pool_size=plan.pool_size, probe_items=plan.probe_items)
    ability = None
    while warm_up.steps < plan.warm_up_steps:
        warm_up.step()
        report(warm_up.steps, plan.warm_up_steps, str(ability or "learning"))
        if warm_up.steps % plan.measure_every == 0:
            ability = warm_up.measure(plan.target)
            if warm_up.done:
                return {"steps": warm_up.steps}
    raise CorlError(
        f"The warm-up stopped after {plan.warm_up_steps} steps short of its target: {ability}.",
        "Build with another --seed.",
    )


def _examine(policy: JanusPolicy, seed: int, plan: Plan, report: PhaseReport) -> dict[str, Any]:
    """Shares of right outputs on held-out items, sampled at temperature 1 and at a low one."""
    items = [world_item("test", seed, index) for index in range(plan.test_items)]
    readings = {}
    for done, temperature in enumerate((1.0, 0.3)):
        report("examination", done, 2, f"temperature {temperature:g}")
        shares = asdict(measure(policy, items, temperature=temperature))
        readings[f"temperature {temperature:g}"] = {name: round(share, 4) for name, share in shares.items()}
    report("examination", 2, 2, "done")
    return {"items": len(items), **readings}


def _keep(path: Path, state: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.replace(path)
