"""Does a run learn, or does it cheat: the statistics of its groups, and alarms with the samples that raised them."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from PIL import Image

from corl_cli.core import pages
from corl_cli.core.types import Task
from corl_cli.pipelines.alarms import Alarm, raise_alarms
from corl_cli.pipelines.evidence import FEWEST_STEPS, Evidence, Record, Seen
from corl_cli.pipelines.recordings import Recordings, pooled
from corl_cli.scoring.agreement import correlation, tied_pairs
from corl_cli.scoring.appearance import appearance
from corl_cli.scoring.groups import zero_variance
from corl_cli.trainer import metrics
from corl_cli.trainer.rollout import Recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 256  # pixels of a drawing in the page, at most
UNITS = {"brightness": "mean luminance", "contrast": "deviation of luminance", "entropy": "bits of colour"}


@dataclass(frozen=True, kw_only=True)
class RewardStatistics:
    """One reward, a part of one, or the total of a task, over the recorded rollouts and (the last two) all steps.

    `first` and `last` are the mean scores of the first and the last recorded step; `zero_variance` is a share of
    groups, `ties` of the pairs within groups, `failed` of the rows, `share` of the variance that advantages follow
    (None for parts and totals); `seconds` is the median of a step (None where it was not timed).
    """

    task: Task
    reward: str
    first: float
    last: float
    zero_variance: float
    ties: float
    share: float | None
    failed: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How two rewards of a task go together within groups (Pearson)."""

    task: Task
    one: str
    other: str
    value: float


@dataclass(frozen=True, kw_only=True)
class TaskStatistics:
    """The groups of a task as advantages see them: shares of groups without an advantage, and of rows left out."""

    task: Task
    groups: int
    rows: int
    zero_variance: float
    masked: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What there is to know; `unchecked` names what could not be checked, and why."""

    run: str
    steps: list[int]
    tasks: list[TaskStatistics]
    rewards: list[RewardStatistics]
    correlations: list[Correlation]
    alarms: list[Alarm]
    unchecked: list[str]


class Progress(Protocol):
    """Told of each step that is done."""

    def advance(self, steps: int = 1, note: str = "") -> None: ...


def audit(recordings: Recordings, page: Path, progress: Progress | None = None) -> Audit:
    """The audit of a run; the same, with pictures, is written to `page` (HTML)."""
    record = _record(recordings, progress)
    whole = {task: pooled([seen.recorded for seen in steps]) for task, steps in record.steps.items()}
    found = Audit(
        run=str(recordings.run.path),
        steps=recordings.steps,
        tasks=[_task(task, each) for task, each in whole.items()],
        rewards=_rewards(record, whole),
        correlations=_correlations(whole),
        alarms=raise_alarms(record),
        unchecked=_unchecked(record),
    )
    pages.write(
        page,
        "audit.html",
        audit=found,
        tables=tables(found),
        pictures=_pictures(recordings, found.alarms),
        figures=_figures(record),
    )
    return found


def tables(found: Audit) -> dict[str, list[dict[str, Any]]]:
    """The statistics as titled tables for people."""
    return {
        "Groups": [
            {
                "task": task.task,
                "groups": task.groups,
                "samples": task.rows,
                "zero variance": f"{task.zero_variance:.1%}",
                "masked": f"{task.masked:.1%}",
            }
            for task in found.tasks
        ],
        "Rewards": [
            {
                "task": reward.task,
                "reward": reward.reward,
                f"step {found.steps[0]}": f"{reward.first:.3f}",
                f"step {found.steps[-1]}": f"{reward.last:.3f}",
                "zero variance": f"{reward.zero_variance:.1%}",
                "ties": f"{reward.ties:.1%}",
                "share of variance": None if reward.share is None else f"{reward.share:.1%}",
                "failed": None if reward.failed is None else f"{reward.failed:.1%}",
                "seconds": None if reward.seconds is None else f"{reward.seconds:.3f}",
            }
            for reward in found.rewards
        ],
        "Correlations within groups": [
            {"task": pair.task, "reward": pair.one, "and": pair.other, "correlation": f"{pair.value:+.2f}"}
            for pair in found.correlations
        ],
    }


def _record(recordings: Recordings, progress: Progress | None) -> Record:
    steps: dict[Task, list[Seen]] = {task: [] for task in recordings.recipe.train.tasks}
    for step in recordings.steps:
        for task, recorded in recordings.read(step).items():
            steps[task].append(_seen(step, task, recorded))
        if progress:
            progress.advance()
    return Record(recipe=recordings.recipe, steps=steps, metrics=recordings.run.read_metrics())


def _seen(step: int, task: Task, recorded: Recorded) -> Seen:
    samples = recorded.samples
    drawings = [output for output in samples.outputs if isinstance(output, Image.Image)]
    real = [triplet.image for triplet in samples.triplets[:: samples.sampling.group_size]]
    return Seen(
        step=step,
        task=task,
        recorded=pooled([recorded]),
        prompts=[triplet.prompt for triplet in samples.triplets],
        questions=[triplet.question for triplet in samples.triplets],
        outputs=[_digest(output) if isinstance(output, Image.Image) else output for output in samples.outputs],
        notes=recorded.rewards.notes,
        looks=appearance(drawings) if drawings else {},
        real=appearance(real) if drawings else {},
    )


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


def _task(task: Task, recorded: Recorded) -> TaskStatistics:
    size = recorded.samples.sampling.group_size
    return TaskStatistics(
        task=task,
        groups=len(recorded.rows) // size,
        rows=len(recorded.rows),
        zero_variance=float(zero_variance(recorded.advantages, recorded.rows, size).float().mean()),
        masked=float((~recorded.rows).float().mean()),
    )


def _rewards(record: Record, whole: Mapping[Task, Recorded]) -> list[RewardStatistics]:
    share = metrics.shares(whole, record.recipe)
    found = []
    for task, recorded in whole.items():
        size = recorded.samples.sampling.group_size
        ends = [record.steps[task][end].recorded.rewards for end in (0, -1)]
        for name, values in (recorded.rewards.parts | {"total": recorded.rewards.total}).items():
            first, last = (_mean((end.parts | {"total": end.total})[name]) for end in ends)
            rows = torch.isfinite(values)
            seconds = record.series(f"time/reward/{task}/{name}")
            failed = record.series(f"failed/{task}/{name}")
            found.append(
                RewardStatistics(
                    task=task,
                    reward=name,
                    first=first,
                    last=last,
                    zero_variance=float(zero_variance(values, rows, size).float().mean()),
                    ties=tied_pairs(values, rows, size),
                    share=share.get(f"{task}/{name}"),
                    failed=statistics.fmean(failed) if failed else None,
                    seconds=statistics.median(seconds) if seconds else None,
                )
            )
    return found


def _mean(values: torch.Tensor) -> float:
    return float(values.nanmean())


def _correlations(whole: Mapping[Task, Recorded]) -> list[Correlation]:
    """Of all pairs of rewards and parts; a reward goes with its own parts by construction, so those are left out."""
    found = []
    for task, recorded in whole.items():
        parts, size = recorded.rewards.parts, recorded.samples.sampling.group_size
        for one, other in combinations(parts, 2):
            if other.startswith(f"{one}."):
                continue
            rows = torch.isfinite(parts[one]) & torch.isfinite(parts[other])
            value = correlation(parts[one], parts[other], rows, size)
            found.append(Correlation(task=task, one=one, other=other, value=value))
    return found


def _unchecked(record: Record) -> list[str]:
    recorded = min(len(steps) for steps in record.steps.values())
    done = len(record.series("lr"))
    reasons = []
    if recorded < 2:
        reasons.append("drift of lengths and drawings: only one step is recorded (tracking.rollouts_every)")
    if done < FEWEST_STEPS:
        reasons.append(f"shares of rewards, and rewards against held-out scores: {done} steps are too few")
    if not any("probe" in line for line in record.metrics):
        reasons.append("rewards against held-out scores: the run reads none (eval.probes)")
    return reasons


def _pictures(recordings: Recordings, alarms: Sequence[Alarm]) -> dict[Evidence, Image.Image]:
    """The drawings among the samples; each step is read once."""
    samples = [sample for alarm in alarms for sample in alarm.samples if sample.task == "t2i"]
    found = {}
    for step in sorted({sample.step for sample in samples}):
        recorded = recordings.read(step)["t2i"].samples
        for sample in samples:
            if sample.step == step:
                drawing = recorded.outputs[sample.row]
                assert isinstance(drawing, Image.Image)
                drawing.thumbnail((SIDE, SIDE))
                found[sample] = drawing
    return found


def _figures(record: Record) -> list[Figure]:
    """Rewards through all steps, and what drawings look like beside the real images through the recorded ones."""
    figures = []
    for task in record.steps:
        prefix = f"reward/{task}/"
        lines = [line for line in record.metrics if f"{prefix}total" in line]
        names = dict.fromkeys(key for line in lines for key in line if key.startswith(prefix))
        curves = {
            name.removeprefix(prefix): [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            for name in names
        }
        if lines:
            figures.append(_figure(f"{task}: rewards", curves))
    drawn = record.steps.get("t2i", [])
    for name in drawn[0].looks if drawn else ():
        curves = {
            "drawings": [(seen.step, _mean(seen.looks[name])) for seen in drawn],
            "real images": [(seen.step, _mean(seen.real[name])) for seen in drawn],
        }
        figures.append(_figure(f"{name} ({UNITS[name]})", curves, marker="o"))
    return figures


def _figure(title: str, curves: Mapping[str, Sequence[tuple[int, float]]], marker: str = "") -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 2.6), layout="constrained")
    axis = figure.subplots()
    for label, points in curves.items():
        axis.plot(
            [x for x, _ in points], [y for _, y in points], label=label, linewidth=1.2, marker=marker, markersize=3
        )
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)
    return figure
