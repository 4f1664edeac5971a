"""What is known of a recorded run when one looks for faults: its samples without their images, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Task
from corl_cli.scoring.groups import standardise
from corl_cli.trainer.rollout import Recorded

SIGNIFICANT = 3.0  # standard errors: one false alarm in some hundred checks
FEWEST_STEPS = 6  # below this a mean of steps has no standard error worth the name
SHOWN = 8  # samples that are shown of many


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One sample that raised an alarm: row `row` of a task in a recorded step, and what to look at there."""

    step: int
    task: Task
    row: int
    prompt: str
    output: str  # empty for a drawing
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that a person should look at: `alarm` when rewards are being cheated, else `warning`.

    `seen` says in one sentence what was seen, with numbers; `remedy` what to do.
    """

    name: str
    severity: Literal["warning", "alarm"]
    task: Task
    seen: str
    remedy: str
    samples: list[Evidence] = field(default_factory=list)


class Unchecked(Exception):
    """A check finds too little to look at; its text says what is lacking."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One task of one recorded step without its images: texts, and what the drawings and real images look like.

    `outputs` [N] are answers, or digests of drawings; `captions` [N] what `cycle` read in these, none where they were
    not recorded; `looks` {name: [N]} and `real` {name: [B]} are appearances (t2i).
    """

    step: int
    task: Task
    recorded: Recorded
    prompts: list[str]
    questions: list[str]
    outputs: list[str]
    notes: Mapping[str, Sequence[str]]
    captions: Sequence[str] = ()
    looks: Mapping[str, Tensor] = field(default_factory=dict)
    real: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def group_size(self) -> int:
        """G, samples per triplet."""
        return self.recorded.samples.sampling.group_size

    def groups(self) -> list[range]:
        """The rows of each group."""
        return [range(start, start + self.group_size) for start in range(0, len(self.outputs), self.group_size)]

    def scores(self, name: str) -> Tensor:
        """The raw scores [N] of a reward or a part of one, NaN where it gave none."""
        return self.recorded.rewards.parts.get(name, torch.full((len(self.outputs),), torch.nan))

    def evidence(self, row: int, note: str = "") -> Evidence:
        """One of its samples."""
        drawn = self.task == "t2i"
        return Evidence(
            step=self.step,
            task=self.task,
            row=row,
            prompt=self.prompts[row] if drawn else self.questions[row],
            output="" if drawn else self.outputs[row],
            note=note,
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the checks look at: the recorded steps of each task in order, and the lines of metrics.jsonl."""

    recipe: Recipe
    steps: Mapping[Task, Sequence[Seen]]
    metrics: Sequence[Mapping[str, Any]]

    def early(self, task: Task) -> Sequence[Seen]:
        """The first half of the recorded steps; none when there is but one."""
        return self.steps[task][: len(self.steps[task]) // 2]

    def late(self, task: Task) -> Sequence[Seen]:
        """The last half of the recorded steps, or the only one."""
        return self.steps[task][-max(1, len(self.steps[task]) // 2) :]

    def series(self, key: str) -> list[float]:
        """A metric through the steps, where it has a value."""
        return [line[key] for line in self.metrics if line.get(key) is not None]


@dataclass(frozen=True)
class Change:
    """The means of an early and a late sample, and the standard error of their difference."""

    early: float
    late: float
    stderr: float

    @property
    def rises(self) -> bool:
        """Whether the late mean is higher by more than chance."""
        return self.late - self.early > SIGNIFICANT * self.stderr

    @property
    def differs(self) -> bool:
        """Whether the two differ by more than chance."""
        return abs(self.late - self.early) > SIGNIFICANT * self.stderr


def change(early: Sequence[float], late: Sequence[float]) -> Change | None:
    """How two samples of independent numbers differ; None when either is too small for a standard error."""
    if min(len(early), len(late)) < 2:
        return None
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (early, late))
    stderr = math.sqrt(float(one.var() / len(one) + other.var() / len(other)))
    return Change(float(one.mean()), float(other.mean()), stderr)


def thirds(values: Sequence[float]) -> Change | None:
    """How a series has changed from its first third to its last; None when it is too short to say."""
    third = len(values) // 3 if len(values) >= FEWEST_STEPS else 0
    return change(values[:third], values[len(values) - third :])


def group_means(seen: Seen, values: Tensor) -> list[float]:
    """The mean of each group, of its finite values."""
    means = values.double().view(-1, seen.group_size).nanmean(1)
    return means[means.isfinite()].tolist()


def group_deviations(seen: Seen, values: Tensor) -> list[float]:
    """The standard deviation within each group."""
    rows = values.isfinite()
    centred = standardise(values, rows, seen.group_size, scale=False).view(-1, seen.group_size)
    number = rows.view(-1, seen.group_size).sum(1)
    spreads = (centred.square().sum(1) / (number - 1).clamp(min=1)).sqrt()
    return spreads[number > 1].tolist()


def gaps(seen: Seen, name: str) -> list[float]:
    """How far the drawings of each group are from its real image, on average."""
    return (seen.looks[name].view(-1, seen.group_size).mean(1) - seen.real[name]).tolist()


def extremes(steps: Sequence[Seen], columns: Sequence[Tensor], largest: bool) -> list[Evidence]:
    """The samples with the largest or smallest values, one a group at most; `columns` hold a tensor [N] per step."""
    found: list[tuple[float, Evidence]] = []
    for seen, column in zip(steps, columns, strict=True):
        for rows in seen.groups():
            values = {row: value for row in rows if math.isfinite(value := float(column[row]))}
            if values:
                row = (max if largest else min)(values, key=values.__getitem__)
                found.append((values[row], seen.evidence(row, f"{values[row]:.4g}")))
    return [evidence for _, evidence in sorted(found, key=lambda pair: pair[0], reverse=largest)][:SHOWN]


def spread(found: Sequence[Evidence]) -> list[Evidence]:
    """Some of the samples, from the first to the last."""
    step = max(1, math.ceil(len(found) / SHOWN))
    return list(found[::step])


def halves(record: Record, task: Task) -> tuple[Sequence[Seen], Sequence[Seen]]:
    """The early and the late steps of a task; Unchecked where there is but one step."""
    if not record.early(task):
        raise Unchecked("there is only one step to look at (tracking.rollouts_every says which are recorded)")
    return record.early(task), record.late(task)


def portion(count: int, total: int) -> str:
    """A share in words: 3 of 12 (25%)."""
    return f"{count} of {total} ({count / total:.0%})"
