"""The numbers of a step: summaries that add up over processes, and the metrics that come of them.

A mean of the processes' means would let a process without a single score erase everybody's metric, so sums and counts
are added up first and divided once.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Experience, RewardResult, Task
from corl_cli.scoring import groups
from corl_cli.trainer.credit import Deviation, contributions, deviation
from corl_cli.trainer.rollout import Recorded


@dataclass(frozen=True)
class Summary:
    """Of some values: how many there are, their sum, the sum of their squares, the least and the greatest."""

    count: float
    total: float
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, values: Tensor) -> Summary:
        """The summary of the finite values [N]."""
        found = values[torch.isfinite(values)].double()
        if not len(found):
            return cls(0.0, 0.0)
        return cls(len(found), float(found.sum()), float(found.square().sum()), float(found.min()), float(found.max()))

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    @property
    def mean(self) -> float:
        """NaN of no values."""
        return self.total / self.count if self.count else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation with Bessel's correction; NaN of fewer than two values."""
        if self.count < 2:
            return math.nan
        return math.sqrt(max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1))


Summaries = dict[str, Summary]


def summarise(
    batch: Mapping[Task, Experience],
    recipe: Recipe,
    seconds: Mapping[str, float],
    deviation: Deviation = deviation,
) -> Summaries:
    """Rewards, groups, lengths, shares and speed of this process' part of a step, whose phases took `seconds`."""
    found: Summaries = {"memory/peak_gib": Summary.of(torch.tensor([_peak_gib()]))}
    tokens = 0
    for task, experience in batch.items():
        mask = experience.rollout.completion_mask
        tokens += int(mask.sum())
        found[f"length/{task}"] = Summary.of(mask.float().sum(1).cpu())
        if experience.rewards is None:
            continue
        found |= {f"{name}/{task}": values for name, values in _of_rows(experience).items()}
        found |= _of_rewards(task, experience, experience.rewards)
    if recipe.train.method == "sft":
        return found
    covariances, variances = _covariances(batch, recipe, deviation)
    found |= {f"share/{name}": Summary(variances[name], value) for name, value in covariances.items()}
    return found | {"tokens_per_second": Summary(1.0, tokens / seconds["rollout"])} if "rollout" in seconds else found


def finish(parts: Sequence[Summaries]) -> dict[str, float]:
    """The metrics of a step from the summaries of all processes; a name that one of them lacks is the others'."""
    merged: Summaries = {}
    for part in parts:
        for name, summary in part.items():
            merged[name] = merged[name] + summary if name in merged else summary
    metrics = {name: summary.mean for name, summary in merged.items()}
    for name, summary in merged.items():
        if name.startswith("reward/"):
            metrics[f"reward_std/{name.removeprefix('reward/')}"] = summary.deviation
        if name == "length/mm2t":
            metrics |= {"length_min/mm2t": summary.low, "length_max/mm2t": summary.high}
        if name == "memory/peak_gib":
            metrics[name] = summary.high  # of the process that needs most
        if name == "tokens_per_second":
            metrics[name] = summary.total  # of all processes together
    return metrics


def shares(batch: Mapping[Task, Experience] | Mapping[Task, Recorded], recipe: Recipe) -> dict[str, float]:
    """The share of each reward, as task/name, in the variance of its own task's advantages.

    The share of x in s is cov(x, s) / var(s): the reward that an advantage mostly follows is the one that is learnt.
    Shares add up to 1 over what the advantages are made of: a task's rewards, or those of both tasks in pairs.
    NaN where no advantage differs from 0; negative for a reward that advantages go against.
    """
    covariances, variances = _covariances(batch, recipe)
    return {name: Summary(variances[name], value).mean for name, value in covariances.items()}


def _of_rows(experience: Experience) -> Summaries:
    rollout = experience.rollout
    found = {
        "masked": Summary.of((~experience.rows).float()),
        "zero_variance": _zero_variance(experience.advantages, experience.rows, rollout.sampling.group_size),
    }
    if rollout.task == "mm2t":
        found["at_limit"] = Summary.of(rollout.truncated.float().cpu())
    return found


def _of_rewards(task: Task, experience: Experience, rewards: RewardResult) -> Summaries:
    size = experience.rollout.sampling.group_size
    found: Summaries = {}
    for name, values in (rewards.parts | {"total": rewards.total}).items():
        finite = torch.isfinite(values)
        found[f"reward/{task}/{name}"] = Summary.of(values)
        found[f"failed/{task}/{name}"] = Summary.of((~finite).float())
        found[f"zero_variance/{task}/{name}"] = _zero_variance(values, finite, size)
    times = {f"time/reward/{task}/{name}": Summary(1.0, seconds) for name, seconds in rewards.seconds.items()}
    return found | times


def _zero_variance(values: Tensor, rows: Tensor, group_size: int) -> Summary:
    """Of the groups that have something to compare."""
    comparable = groups.comparable(rows, group_size)
    return Summary.of(groups.zero_variance(values, rows, group_size)[comparable].float())


def _covariances(
    batch: Mapping[Task, Experience] | Mapping[Task, Recorded], recipe: Recipe, deviation: Deviation = deviation
) -> tuple[dict[str, float], dict[str, float]]:
    """Of each reward, as task/name: its covariance with its task's advantages, and their variance."""
    rewards = {task: experience.rewards for task, experience in batch.items() if experience.rewards is not None}
    covariances: dict[str, float] = {}
    variances: dict[str, float] = {}
    for task, parts in contributions(rewards, recipe.algo, recipe.sampling.group_size, deviation).items():
        advantages = torch.stack([*parts.values()]).sum(0)
        own = {name: part for name, part in parts.items() if name.startswith(f"{task}/")}
        covariances |= {name: float((part * advantages).sum()) for name, part in own.items()}
        variances |= dict.fromkeys(own, float(advantages.square().sum()))
    return covariances, variances


def _peak_gib() -> float:
    """The most memory this process has held so far: the GPU's where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
