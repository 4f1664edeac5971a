"""Does a run learn, or does it cheat: the statistics of its groups, and alarms with the samples that raised them."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.types import Task
from corl_cli.pipelines.alarms import review
from corl_cli.pipelines.evidence import Alarm, Evidence, Record, Seen
from corl_cli.pipelines.recordings import NEGATIVE_SHARE, Recordings, pooled, zero_variance
from corl_cli.pipelines.summary import cancels, curves
from corl_cli.scoring.agreement import correlation, tied_pairs
from corl_cli.scoring.appearance import appearance
from corl_cli.trainer import metrics
from corl_cli.trainer.rollout import Recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = 3  # of a legend's row
SIDE = 256  # pixels of a drawing in the page, at most
UNITS = {"brightness": "mean luminance", "contrast": "deviation of luminance", "entropy": "bits of colour"}


@dataclass(frozen=True, kw_only=True)
class RewardStatistics:
    """One reward, a part of one, or the total of a task, over the recorded rollouts and (the last two) all steps.

    `first` and `last` are the mean scores of the first and the last recorded step; `zero_variance` is a share of the
    groups with two scores or more, `ties` of the pairs within groups, `failed` of the rows, `share` of the variance
    that advantages follow (None for parts and totals); `seconds` is the median of a step (None where it was not timed).
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
    """The groups of a task as advantages see them: `masked` is a share of rows.

    `zero_variance` is a share of the groups in which two rows or more are counted.
    """

    task: Task
    groups: int
    rows: int
    zero_variance: float
    masked: float


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What there is to know; `unchecked` names what could not be checked, and why.

    `steps` are the recorded ones that could be read; what drifts is compared between `early` and `late`. `remarks` say
    what must be known to read these numbers right.
    """

    run: str
    steps: list[int]
    early: list[int]
    late: list[int]
    tasks: list[TaskStatistics]
    rewards: list[RewardStatistics]
    correlations: list[Correlation]
    alarms: list[Alarm]
    checked: dict[Task, list[str]]
    unchecked: list[str]
    remarks: list[str]

    @property
    def basis(self) -> str:
        """On which steps it rests."""
        if not self.early:
            return f"Only step {self.steps[0]} was looked at, so that nothing could be compared through time."
        few = "; with one step on each side only large changes show" if len(self.early) == 1 else ""
        return f"Early {_steps(self.early)}, late {_steps(self.late)}{few}."


def audit(recordings: Recordings, page: Path, progress: Progress | None = None) -> Audit:
    """The audit of a run; the same, with pictures, is written to `page` (HTML)."""
    record, damaged = _record(recordings, progress)
    whole = {task: pooled([seen.recorded for seen in steps]) for task, steps in record.steps.items()}
    first, *_ = record.steps
    findings = review(record)
    rewards = _rewards(record, whole)
    found = Audit(
        run=str(recordings.run.path),
        steps=[seen.step for seen in record.steps[first]],
        early=[seen.step for seen in record.early(first)],
        late=[seen.step for seen in record.late(first)],
        tasks=[_task(task, each) for task, each in whole.items()],
        rewards=rewards,
        correlations=_correlations(whole),
        alarms=findings.alarms,
        checked=findings.checked,
        unchecked=[*damaged, *findings.unchecked],
        remarks=_remarks(record, whole, rewards),
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
                "zero variance": _written(task.zero_variance, ".1%"),
                "masked": _written(task.masked, ".1%"),
            }
            for task in found.tasks
        ],
        "Rewards": [
            {
                "task": reward.task,
                "reward": reward.reward,
                f"step {found.steps[0]}": _written(reward.first, ".3f"),
                f"step {found.steps[-1]}": _written(reward.last, ".3f"),
                "zero variance": _written(reward.zero_variance, ".1%"),
                "ties": _written(reward.ties, ".1%"),
                "share of variance": _written(reward.share, ".1%"),
                "failed": _written(reward.failed, ".1%"),
                "seconds": _written(reward.seconds, ".3f"),
            }
            for reward in found.rewards
        ],
        "Correlations within groups": [
            {"task": pair.task, "reward": pair.one, "and": pair.other, "correlation": _written(pair.value, "+.2f")}
            for pair in found.correlations
        ],
    }


def _written(value: float | None, style: str) -> str | None:
    """A number for people; None, which tables show as a dash, for one that is missing."""
    return None if value is None or math.isnan(value) else format(value, style)


def _record(recordings: Recordings, progress: Progress | None) -> tuple[Record, list[str]]:
    """The steps that can be read, and why the others cannot; CorlError when none can."""
    steps: dict[Task, list[Seen]] = {task: [] for task in recordings.recipe.train.tasks}
    damaged: list[str] = []
    for step in recordings.steps:
        try:
            for task, recorded in recordings.read(step).items():
                steps[task].append(_seen(step, task, recorded))
        except CorlError as error:
            damaged.append(f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}")
        if progress:
            progress.advance()
    if len(damaged) == len(recordings.steps):
        raise CorlError(
            f"No recorded step of {recordings.run.path} can be read: {damaged[0]}.",
            "Train the run again; its recipe.yaml says how.",
        )
    return Record(recipe=recordings.recipe, steps=steps, metrics=recordings.run.read_metrics()), damaged


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
        captions=recorded.rewards.texts.get("cycle.caption", ()),
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
        zero_variance=zero_variance(recorded.advantages, recorded.rows, size),
        masked=float((~recorded.rows).float().mean()),
    )


def _rewards(record: Record, whole: Mapping[Task, Recorded]) -> list[RewardStatistics]:
    share = metrics.shares(whole, record.recipe)
    found = []
    for task, recorded in whole.items():
        size = recorded.samples.sampling.group_size
        ends = [record.steps[task][end] for end in (0, -1)]
        for name, values in (recorded.rewards.parts | {"total": recorded.rewards.total}).items():
            first, last = (_mean(end.recorded.rewards.total if name == "total" else end.scores(name)) for end in ends)
            rows = torch.isfinite(values)
            seconds = record.series(f"time/reward/{task}/{name}")
            failed = record.series(f"failed/{task}/{name}")
            found.append(
                RewardStatistics(
                    task=task,
                    reward=name,
                    first=first,
                    last=last,
                    zero_variance=zero_variance(values, rows, size),
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


def _remarks(record: Record, whole: Mapping[Task, Recorded], rewards: Sequence[RewardStatistics]) -> list[str]:
    found = [
        f"All rewards of {task} are normalised within groups, so that the mean of their total is 0 by construction"
        for task in whole
        if cancels(record.recipe, task)
    ]
    if any(not recorded.rows.all() for recorded in whole.values()):
        found.append("A total is over the rows that every reward scored, a reward over all rows that it scored itself")
    if any((reward.share or 0) < 0 for reward in rewards):
        found.append(NEGATIVE_SHARE)
    return found


def _steps(steps: Sequence[int]) -> str:
    return f"{'are steps' if len(steps) > 1 else 'is step'} {', '.join(map(str, steps))}"


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
        if lines := curves(record.metrics, record.recipe, task):
            figures.append(_figure(f"{task}: rewards", lines))
    drawn = record.steps.get("t2i", [])
    for name in drawn[0].looks if drawn else ():
        lines = {
            "drawings": [(seen.step, _mean(seen.looks[name])) for seen in drawn],
            "real images": [(seen.step, _mean(seen.real[name])) for seen in drawn],
        }
        figures.append(_figure(f"{name} ({UNITS[name]})", lines, marker="o"))
    return figures


def _figure(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], marker: str = "") -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(lines) / LABELS)
    figure = Figure(figsize=(4, 2.4 + 0.17 * rows), layout="constrained")
    axis = figure.subplots()
    for label, points in lines.items():
        axis.plot(
            [x for x, _ in points], [y for _, y in points], label=label, linewidth=1.2, marker=marker, markersize=3
        )
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=LABELS, fontsize=7, frameon=False)
    return figure
