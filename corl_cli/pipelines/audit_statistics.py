"""The statistics of a run's recorded groups: how rewards move, what they agree on, and how much they teach."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch

from corl_cli.core.types import Task
from corl_cli.pipelines.evidence import Record
from corl_cli.pipelines.recordings import zero_variance
from corl_cli.scoring.agreement import correlation, tied_pairs
from corl_cli.trainer import metrics
from corl_cli.trainer.rollout import Recorded


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


def of_task(task: Task, recorded: Recorded) -> TaskStatistics:
    """The groups of one task, of all its steps."""
    size = recorded.samples.sampling.group_size
    return TaskStatistics(
        task=task,
        groups=len(recorded.rows) // size,
        rows=len(recorded.rows),
        zero_variance=zero_variance(recorded.advantages, recorded.rows, size),
        masked=float((~recorded.rows).float().mean()),
    )


def of_rewards(record: Record, whole: Mapping[Task, Recorded]) -> list[RewardStatistics]:
    """Every reward, part and total of the tasks; `whole` are their steps as one."""
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


def correlations(whole: Mapping[Task, Recorded]) -> list[Correlation]:
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


def _mean(values: torch.Tensor) -> float:
    return float(values.nanmean())
