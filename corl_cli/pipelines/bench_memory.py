"""How much memory a training step takes at its peak, by phase, next to the estimate that `corl plan` makes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.pipelines import estimate
from corl_cli.pipelines.bench import Bench, Held, Peak, tidy
from corl_cli.pipelines.bench_models import Subject, fitting, require
from corl_cli.pipelines.bench_step import Meter, build_trainer
from corl_cli.pipelines.machine import GIB, free_memory
from corl_cli.trainer.loop import Trainer

WHOLE = "step"
ROUNDS = 2  # in the second the optimiser has its state


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The peak while a phase lasted, above what the process held before it made the model; see Peak.

    The phase `step` is the largest of all, and has the estimate beside it.
    """

    stage: str
    phase: str
    dtype: str
    prompts: int
    group_size: int
    micro_batch_size: int | None
    lora: bool
    peak_gib: float | None
    reserved_gib: float | None
    estimated_gib: float | None


def bench_memory(subject: Subject, recipes: Sequence[Recipe], bench: Bench) -> Iterator[PeakMemory]:
    """Load each recipe's model, and take two steps with it; CorlError where memory does not suffice."""
    for recipe in [require(recipe, free_memory(bench.device)) for recipe in recipes]:
        held = fitting(recipe.name, recipe.train.batch_size, recipe.sampling.group_size)
        with tempfile.TemporaryDirectory(prefix="corl-bench-") as folder, held:
            found = _measure(subject, recipe, RunDir(Path(folder)), bench)
        whole = reduce(Peak.or_larger, found.values())
        guess = estimate.peak(recipe, 1, recipe.train.micro_batch_size).total / GIB
        for phase, peak in (found | {WHOLE: whole}).items():
            yield PeakMemory(
                stage=recipe.name,
                phase=phase,
                dtype=recipe.model.dtype,
                prompts=recipe.train.batch_size,
                group_size=recipe.sampling.group_size,
                micro_batch_size=recipe.train.micro_batch_size,
                lora=recipe.model.lora is not None,
                peak_gib=peak.peak_gib,
                reserved_gib=peak.reserved_gib,
                estimated_gib=guess if phase == WHOLE else None,
            )


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for the eye."""
    return {name: row[name] for name in ("stage", "phase", "peak_gib", "reserved_gib", "estimated_gib")}


def _measure(subject: Subject, recipe: Recipe, run: RunDir, bench: Bench) -> dict[str, Peak]:
    """By phase."""
    accelerator = Accelerator(cpu=bench.device.type == "cpu", mixed_precision="no")
    tidy(bench.device)  # of the stage before
    peaks = Peaks(bench.device)
    with peaks.during("loaded"):
        trainer = build_trainer(subject, recipe, run, accelerator, Meter(recipe.name, bench.shown), ROUNDS)
    trainer.strategy.learner.eval()
    for step in range(ROUNDS):
        _step(trainer, step, peaks)
        bench.shown.advance(note=recipe.name)
    return peaks.found


def _step(trainer: Trainer, step: int, peaks: Peaks) -> None:
    """What Trainer.fit does in a step, one phase at a time."""
    recipe, actor = trainer.recipe, trainer.strategy.actor
    rollouts, rewards = {}, {}
    for task in recipe.train.tasks:
        with peaks.during(f"rollout {task}"):
            rollouts[task] = actor.sample(task, trainer.batches[step], recipe.sampling.of(task), key=f"bench|{step}")
    with peaks.during("reward"):
        for task, rollout in rollouts.items():
            rewards[task] = trainer.rubrics[task](rollout, actor)
    with peaks.during("reference"):
        batch = trainer.experience(rollouts, rewards)
    with peaks.during("update"):
        trainer.updater.accumulate(batch, apart=len(batch) > 1)  # as a run does now and then
    with peaks.during("optimizer"):
        trainer.strategy.clip(recipe.optim.max_grad_norm)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad(set_to_none=True)
        trainer.strategy.refresh()


class Peaks:
    """The peak of each phase above what was held when this was made; the largest of phases with one name."""

    def __init__(self, device: torch.device) -> None:
        self.start = Held(device)
        self.found: dict[str, Peak] = {}

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Measure what is done inside."""
        held = Held(self.start.device)
        yield
        peak = held.peak(self.start)
        self.found[phase] = peak.or_larger(self.found.get(phase, peak))
