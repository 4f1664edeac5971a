"""Held-out items, drawn and answered the same way each time, so that a run can see whether it learns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelerate import Accelerator
from accelerate.utils import gather_object

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import RewardResult, Rollout, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.trainer.types import Rubric

BATCH = 64  # triplets sampled at once


class Row(NamedTuple):
    """One score of one held-out triplet, the `item`-th of the probes."""

    score: str
    answer_type: str
    value: float
    item: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The mean of one held-out score at one temperature, with its standard error, in the reward's own units.

    `answer_type` is mc or oe, or empty for all together; `items` were scored, `failed` were not.
    """

    task: Task
    score: str
    answer_type: str
    temperature: float
    mean: float
    stderr: float
    items: int
    failed: int

    @property
    def label(self) -> str:
        """The score with the type of its answers, where it is of one type."""
        return f"{self.score} ({self.answer_type})" if self.answer_type else self.score

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Reading:
        """A reading from the metrics file, where a number that JSON does not have is null."""
        numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in line.items()}
        return cls(**numbers)


def decisive(readings: Sequence[Reading], recipe: Recipe) -> dict[str, Reading]:
    """By task/score, the readings that say which checkpoint is best: of all items, at the training temperature."""
    found: dict[str, Reading] = {}
    for reading in readings:
        name = f"{reading.task}/{reading.score}"
        trained = reading.temperature == recipe.sampling.of(reading.task).temperature
        if name in recipe.compared() and trained and not reading.answer_type:
            found.setdefault(name, reading)
    return found


def gain(now: Mapping[str, Reading], start: Mapping[str, Reading]) -> float:
    """The sum of the gains over the start, each in units of the start's standard error; NaN where one is not known.

    Where all items score alike at the start, the unit is the gain of one item by 1. Units are the same through the run,
    so what gains most is beaten by no other reading in one ability without a loss in the other (Pareto), and which
    readings were compared before does not matter.
    """
    if not now or now.keys() - start.keys():
        return math.nan
    return sum((now[name].mean - start[name].mean) / _unit(start[name]) for name in now)


def _unit(start: Reading) -> float:
    return start.stderr if start.stderr > 0 else 1 / max(1, start.items)


class Probes:
    """One completion per held-out triplet at each of the given samplings, scored by rubrics of their own."""

    def __init__(
        self,
        triplets: Sequence[Triplet],
        rubrics: Mapping[Task, Rubric],
        samplings: Mapping[Task, Sequence[Sampling]],
    ) -> None:
        self.triplets = list(triplets)
        self.rubrics = rubrics
        self.samplings = samplings

    def measure(self, policy: UnifiedPolicy, accelerator: Accelerator) -> list[Reading]:
        """All readings, over all processes; the noise is the same at every call, so calls compare item by item."""
        readings = []
        for task, sampling, rows in self.rows(policy, accelerator):
            readings += [_reading(task, score, sampling.temperature, rows) for score in _scores(task, rows)]
        return readings

    def rows(self, policy: UnifiedPolicy, accelerator: Accelerator) -> Iterator[tuple[Task, Sampling, list[Row]]]:
        """What `measure` takes the means of, over all processes: the scores of each item at each sampling."""
        mine = range(accelerator.process_index, len(self.triplets), accelerator.num_processes)
        for task, rubric in self.rubrics.items():
            for sampling in self.samplings[task]:
                yield task, sampling, gather_object(self._score(policy, task, mine, rubric, sampling))

    def _score(
        self, policy: UnifiedPolicy, task: Task, items: Sequence[int], rubric: Rubric, sampling: Sampling
    ) -> list[Row]:
        rows: list[Row] = []
        for start in range(0, len(items), BATCH):
            chosen = items[start : start + BATCH]
            batch = [self.triplets[item] for item in chosen]
            rollout: Rollout = policy.sample(task, batch, sampling, key="probe")
            result: RewardResult = rubric(rollout, policy)
            for name in result.terms:
                values = zip(chosen, batch, result.parts[name].tolist(), strict=True)
                rows += [Row(name, triplet.answer_type, value, item) for item, triplet, value in values]
        return rows


def _scores(task: Task, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The scores to report: each by name, and answers also by type; (name, "") is all types together."""
    names = sorted({row.score for row in rows})
    types = sorted({row.answer_type for row in rows}) if task == "mm2t" else []
    return [(name, kind) for name in names for kind in ["", *types]]


def _reading(task: Task, score: tuple[str, str], temperature: float, rows: Sequence[Row]) -> Reading:
    name, kind = score
    values = [row.value for row in rows if row.score == name and kind in ("", row.answer_type)]
    scored = [value for value in values if math.isfinite(value)]
    mean = sum(scored) / len(scored) if scored else math.nan
    spread = sum((value - mean) ** 2 for value in scored) / max(1, len(scored) - 1)
    return Reading(
        task=task,
        score=name,
        answer_type=kind,
        temperature=temperature,
        mean=mean,
        stderr=math.sqrt(spread / len(scored)) if len(scored) > 1 else math.nan,
        items=len(scored),
        failed=len(values) - len(scored),
    )
