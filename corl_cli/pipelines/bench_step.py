"""What training steps cost: seconds of each phase, tokens per second and memory, by the real loop."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Task
from corl_cli.data.batches import ShuffledBatches
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import build, costs
from corl_cli.pipelines.bench import Bench, Held, Peak, Shares, percent, tidy
from corl_cli.pipelines.bench_models import Subject, fitting, prompt_tokens, require
from corl_cli.pipelines.bench_rollout import least_work
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import free_memory
from corl_cli.trainer.distributed import Replicated
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.loop import Trainer
from corl_cli.trainer.probes import Reading

PHASES = ("rollout", "reward", "reference", "update")


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Means over the steps after a warm-up: seconds of each phase and of them all; tokens are those of completions.

    The shortest step and the longest are told as well. Shares are of the machine's measured rates by the least work of
    a phase (costs.py): a rollout has no decoding to pixels in it, an update no optimiser step. `identity` is the
    largest difference of a token's log-prob between sampler and trainer, by task, in nats. Memory is above what was
    held before the model was made; see Peak.
    """

    stage: str
    dtype: str
    prompts: int
    group_size: int
    micro_batch_size: int | None
    steps: int
    rollout: float
    reward: float
    reference: float
    update: float
    step: float
    step_least: float
    step_largest: float
    images_per_second: float
    tokens_per_second: float
    rollout_bandwidth_share: float
    rollout_arithmetic_share: float
    update_bandwidth_share: float
    update_arithmetic_share: float
    identity: dict[str, float]
    peak_gib: float | None
    reserved_gib: float | None


def bench_step(subject: Subject, recipes: Sequence[Recipe], bench: Bench) -> Iterator[StepCost]:
    """Take as many steps of each recipe as the bench says, after one that does not count.

    CorlError where memory does not suffice, before any step.
    """
    for recipe in [require(recipe, free_memory(bench.device)) for recipe in recipes]:
        held = fitting(recipe.name, recipe.train.batch_size, recipe.sampling.group_size)
        with tempfile.TemporaryDirectory(prefix="corl-bench-") as folder, held:
            yield _measure(subject, recipe, RunDir(Path(folder)), bench)


def readable(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for the eye: a line for each phase."""
    lines = [
        {
            "stage": row["stage"],
            "phase": phase,
            "seconds": row[phase],
            "of the step": percent(row[phase] / row["step"]),
            "bandwidth": percent(row.get(f"{phase}_bandwidth_share")),
            "arithmetic": percent(row.get(f"{phase}_arithmetic_share")),
            "tokens/s": None,
            "images/s": None,
            "peak_gib": None,
        }
        for phase in (*PHASES, "step")
    ]
    speeds = {"tokens/s": f"{row['tokens_per_second']:.0f}", "images/s": row["images_per_second"]}
    return [*lines[:-1], lines[-1] | speeds | {"peak_gib": row["peak_gib"]}]


def remarks(row: Mapping[str, Any]) -> Iterator[str]:
    """How far sampler and trainer were apart, and on a GPU what torch took of it, in words."""
    found = ", ".join(f"{task} {largest:.1e}" for task, largest in row["identity"].items())
    yield f"{row['stage']}: sampler and trainer differ by at most, in nats a token: {found}"
    if row["reserved_gib"] is not None:
        yield f"{row['stage']}: torch took {row['reserved_gib']:.1f} GiB of the GPU, fragments and graphs included."


def _measure(subject: Subject, recipe: Recipe, run: RunDir, bench: Bench) -> StepCost:
    accelerator = Accelerator(cpu=bench.device.type == "cpu", mixed_precision="no")
    tidy(bench.device)  # of the stage before
    held = Held(bench.device)
    meter = Meter(recipe.name, bench.shown)
    trainer = build_trainer(subject, recipe, run, accelerator, meter, bench.repeats)
    lengths = _prompt_lengths(trainer, bench.repeats)
    trainer.fit(start=bench.repeats)  # see build_trainer
    peak = held.peak()
    return _cost(subject, recipe, meter.steps[1:], lengths, _identity(run), peak, bench)


def _cost(
    subject: Subject,
    recipe: Recipe,
    steps: Sequence[Mapping[str, float]],
    lengths: Mapping[Task, float],
    identity: dict[str, float],
    peak: Peak,
    bench: Bench,
) -> StepCost:
    phases = {phase: _mean(steps, f"time/{phase}") for phase in PHASES}
    prompts, group = recipe.train.batch_size, recipe.sampling.group_size
    written = {task: _mean(steps, f"length/{task}") for task in recipe.train.tasks}  # a mean over turns, too
    images = prompts * group * sum("length/t2i" in step for step in steps) / len(steps)
    seconds = sum(phases.values())
    each = [sum(step.get(f"time/{phase}", 0.0) for phase in PHASES) for step in steps]
    rolled, updated = least(subject, recipe, lengths, steps)
    rollout = Shares.of(rolled, phases["rollout"], bench.machine, recipe.model.dtype)
    update = Shares.of(updated, phases["update"], bench.machine, recipe.model.dtype)
    return StepCost(
        stage=recipe.name,
        dtype=recipe.model.dtype,
        prompts=prompts,
        group_size=group,
        micro_batch_size=recipe.train.micro_batch_size,
        steps=len(steps),
        **phases,
        step=seconds,
        step_least=min(each),
        step_largest=max(each),
        images_per_second=images / seconds,
        tokens_per_second=prompts * group * sum(written.values()) / seconds,
        rollout_bandwidth_share=rollout.bandwidth,
        rollout_arithmetic_share=rollout.arithmetic,
        update_bandwidth_share=update.bandwidth,
        update_arithmetic_share=update.arithmetic,
        identity=identity,
        peak_gib=peak.peak_gib,
        reserved_gib=peak.reserved_gib,
    )


def least(
    subject: Subject, recipe: Recipe, lengths: Mapping[Task, float], steps: Sequence[Mapping[str, float]]
) -> tuple[Work, Work]:
    """The least work of a step's rollouts, and of its update; of a mean step where tasks take turns."""
    prompts, size = recipe.train.batch_size, getattr(torch, recipe.model.dtype).itemsize
    rolled = updated = Work(0, 0)
    for task, read in lengths.items():
        written = [step[f"length/{task}"] for step in steps if f"length/{task}" in step]
        if not written:
            continue
        sampling, share, new = recipe.sampling.of(task), len(written) / len(steps), max(1.0, statistics.fmean(written))
        rolled += least_work(subject, task, sampling, prompts, read, new, size) * share
        passes = costs.updating(
            subject.config,
            task,
            prompts,
            sampling.group_size,
            read,
            new,
            size,
            recipe.model.gradient_checkpointing,
            recipe.model.lora is not None,
        )
        updated += passes * share
    return rolled, updated * recipe.algo.num_iterations


def _mean(steps: Sequence[Mapping[str, float]], name: str) -> float:
    """The mean over all steps of something that some of them may lack."""
    return statistics.fmean(step.get(name, 0.0) for step in steps)


def _identity(run: RunDir) -> dict[str, float]:
    """The largest difference that the journal tells, by task."""
    found: dict[str, float] = {}
    for line in run.metrics_file.read_text(encoding="utf-8").splitlines():
        if told := json.loads(line).get("identity"):
            found[told["task"]] = max(told["largest"], found.get(told["task"], 0.0))
    return found


def _prompt_lengths(trainer: Trainer, step: int) -> dict[Task, float]:
    policy = trainer.strategy.actor
    assert isinstance(policy, JanusPolicy)
    return {task: prompt_tokens(policy, task, trainer.batches[step]) for task in trainer.recipe.train.tasks}


def build_trainer(
    subject: Subject, recipe: Recipe, run: RunDir, accelerator: Accelerator, meter: Meter, steps: int
) -> Trainer:
    """A trainer whose step number `steps` is the warm-up and `2 * steps` the last.

    The warm-up looks at each task's own gradient, as a run does now and then: the peak has it, the times do not. The
    journal waits for one step more, with which it would save a checkpoint.
    """
    tracking = recipe.tracking.model_copy(update={"gradients_every": steps + 1, "trackers": []})
    saving = recipe.checkpoint.model_copy(update={"every": 2 * steps + 2})
    recipe = recipe.model_copy(update={"tracking": tracking, "checkpoint": saving})
    policy = subject.learner(recipe, accelerator.device)
    reference = subject.reference(recipe, policy)
    strategy = Replicated(policy)
    optimizer = build.build_optimizer(policy, recipe.optim)
    journal = Journal(
        run=run,
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        optimizer=optimizer,
        probes=None,
        samples=[],
        display=meter,
        num_steps=2 * steps + 2,
    )
    return Trainer(
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        reference=reference,
        rubrics=build.build_rubrics(recipe.rewards, recipe.train.tasks, accelerator.device, reference),
        batches=batches(subject, recipe, steps),
        optimizer=optimizer,
        journal=journal,
        num_steps=2 * steps + 1,
    )


def batches(subject: Subject, recipe: Recipe, steps: int) -> ShuffledBatches:
    """Batches of the recipe for so many steps and one more."""
    size = recipe.train.batch_size
    found = subject.triplets(recipe.data, recipe.seed, size * (steps + 1))
    return ShuffledBatches(found, size, epochs=1, seed=recipe.seed)


@dataclass
class Meter:
    """Keeps the metrics of every step of a run, and shows that it goes on."""

    name: str
    shown: Progress
    steps: list[dict[str, float]] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Nothing: a preflight is no news here."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Display.step."""
        self.steps.append(dict(metrics))
        self.shown.advance(note=self.name)

    def readings(self, step: int, readings: Sequence[Reading]) -> None:
        """Nothing: there are no probes."""
