"""Does a run learn, or does it cheat: the statistics of its groups, and alarms with the samples that raised them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.types import Task
from corl_cli.pipelines import panels, plots
from corl_cli.pipelines.alarms import review
from corl_cli.pipelines.audit_statistics import (
    Correlation,
    RewardStatistics,
    TaskStatistics,
    correlations,
    of_rewards,
    of_task,
)
from corl_cli.pipelines.evidence import Alarm, Evidence, Record, Seen
from corl_cli.pipelines.recordings import NEGATIVE_SHARE, Recordings, pooled
from corl_cli.pipelines.summary import Story, cancels
from corl_cli.scoring.appearance import appearance
from corl_cli.trainer.rollout import Recorded

SIDE = 256  # pixels of a drawing in the page, at most
UNITS = {"brightness": "mean luminance", "contrast": "deviation of luminance", "entropy": "bits of colour"}


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


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A sample that raised an alarm, to be looked at.

    `drawing` and the `real` image of its prompt are None for an answer. `terms` are what each reward adds to the
    `total`; these and the advantage may be NaN for a row that was left out.
    """

    evidence: Evidence
    drawing: Image.Image | None
    real: Image.Image | None
    terms: dict[str, float]
    total: float
    advantage: float


@dataclass(frozen=True, kw_only=True)
class Audited:
    """An audit with what a page shows of it.

    `exhibits` are the samples of each of its alarms, in order; `story` and `record` are what was looked at.
    """

    found: Audit
    exhibits: list[list[Exhibit]]
    story: Story
    record: Record

    @property
    def appearance(self) -> list[Figure]:
        """What drawings look like beside the real images through the recorded steps."""
        drawn = self.record.steps.get("t2i", [])
        return [_appearance(self.story, name, drawn) for name in (drawn[0].looks if drawn else ())]


def audit(recordings: Recordings, progress: Progress | None = None) -> Audited:
    """The audit of a run, from its recorded rollouts and its metrics; CorlError when no step can be read."""
    record, damaged = _record(recordings, progress)
    whole = {task: pooled([seen.recorded for seen in steps]) for task, steps in record.steps.items()}
    first, *_ = record.steps
    findings = review(record)
    rewards = of_rewards(record, whole)
    found = Audit(
        run=str(recordings.run.path),
        steps=[seen.step for seen in record.steps[first]],
        early=[seen.step for seen in record.early(first)],
        late=[seen.step for seen in record.late(first)],
        tasks=[of_task(task, each) for task, each in whole.items()],
        rewards=rewards,
        correlations=correlations(whole),
        alarms=findings.alarms,
        checked=findings.checked,
        unchecked=[*damaged, *findings.unchecked],
        remarks=_remarks(record, whole, rewards),
    )
    exhibits = _exhibits(recordings, found.alarms)
    return Audited(
        found=found,
        exhibits=[[exhibits[sample] for sample in alarm.samples] for alarm in found.alarms],
        story=Story.read(recordings.run.path),
        record=record,
    )


def write(audited: Audited, page: Path) -> None:
    """Write the page about an audit."""
    story = audited.story
    pages.write(
        page,
        "audit.html",
        audited=audited,
        audit=audited.found,
        tables=tables(audited.found),
        rewards=[figure for task in story.tasks for figure in plots.rewards([story], task)],
    )


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
    lacking = [f"{task}: no step of it is recorded" for task, seen in steps.items() if not seen]  # tasks take turns
    there = {task: seen for task, seen in steps.items() if seen}
    return Record(recipe=recordings.recipe, steps=there, metrics=recordings.run.read_metrics()), damaged + lacking


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


def _exhibits(recordings: Recordings, alarms: Sequence[Alarm]) -> dict[Evidence, Exhibit]:
    """What is to be seen of the samples; each step is read once."""
    samples = {sample for alarm in alarms for sample in alarm.samples}
    found = {}
    for step in sorted({sample.step for sample in samples}):
        recorded = recordings.read(step)
        for sample in samples:
            if sample.step == step:
                found[sample] = _exhibit(sample, recorded[sample.task])
    return found


def _exhibit(sample: Evidence, recorded: Recorded) -> Exhibit:
    row, output = sample.row, recorded.samples.outputs[sample.row]
    drawn = isinstance(output, Image.Image)
    return Exhibit(
        evidence=sample,
        drawing=_small(output) if isinstance(output, Image.Image) else None,
        real=_small(recorded.samples.triplets[row].image) if drawn else None,
        terms={name: float(values[row]) for name, values in recorded.rewards.terms.items()},
        total=float(recorded.rewards.total[row]),
        advantage=float(recorded.advantages[row]) if recorded.rows[row] else math.nan,
    )


def _small(image: Image.Image) -> Image.Image:
    copy = image.copy()  # a real image belongs to several rows
    copy.thumbnail((SIDE, SIDE))
    return copy


def _appearance(story: Story, name: str, drawn: Sequence[Seen]) -> Figure:
    lines = {"drawings": [seen.looks[name] for seen in drawn], "real images": [seen.real[name] for seen in drawn]}
    colours = dict(zip(lines, (panels.COLOURS[0], panels.FAINT), strict=True))
    keys = [Line2D([], [], color=colour, linewidth=3, label=label) for label, colour in colours.items()]
    figure, axes = panels.panels(f"{name} ({UNITS[name]})", [""], [story], keys)
    for label, values in lines.items():
        means = [float(value.nanmean()) for value in values]
        axes[""].plot([seen.step for seen in drawn], means, "o-", color=colours[label], markersize=3, linewidth=1.4)
    return figure
