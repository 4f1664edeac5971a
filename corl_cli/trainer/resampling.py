"""Dynamic sampling (DAPO, arXiv 2503.14476): triplets that teach nothing give way to others of the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corl_cli.core.recipe import Algo
from corl_cli.core.types import RewardResult, Rollout, Task, Triplet
from corl_cli.scoring import groups
from corl_cli.trainer.credit import credit
from corl_cli.trainer.types import Batches

Rolled = tuple[dict[Task, Rollout], dict[Task, RewardResult]]


def resample(
    rollouts: dict[Task, Rollout],
    rewards: dict[Task, RewardResult],
    algo: Algo,
    batches: Batches,
    step: int,
    roll: Callable[[Sequence[Triplet]], Rolled],
) -> tuple[dict[Task, Rollout], dict[Task, RewardResult], int]:
    """The rollouts and rewards with dull triplets replaced, and how many were: at most `dynamic_sampling` rounds.

    A triplet is dull when no task's group has an advantage. The number of groups stays the same, so that every process
    has as many.
    """
    replaced = 0
    for attempt in range(algo.dynamic_sampling):
        dull = _dull(rollouts, rewards, algo)
        fresh = batches.spare(step, attempt, len(dull)) if dull else []
        if not fresh:
            break
        number = len(next(iter(rollouts.values())).triplets) // next(iter(rollouts.values())).sampling.group_size
        kept = [group for group in range(number) if group not in dull[: len(fresh)]]
        drawn, scored = roll(fresh)
        rewards = {
            task: join_rewards(select_rewards(rewards[task], rollouts[task].rows_of(kept)), scored[task])
            for task in rollouts
        }
        rollouts = {task: join_rollouts(rollouts[task].select(kept), drawn[task]) for task in rollouts}
        replaced += len(fresh)
    return rollouts, rewards, replaced


def _dull(rollouts: Mapping[Task, Rollout], rewards: Mapping[Task, RewardResult], algo: Algo) -> list[int]:
    size = next(iter(rollouts.values())).sampling.group_size
    found = [groups.zero_variance(values, rows, size) for values, rows in credit(rewards, algo, size).values()]
    return [group for group, dull in enumerate(zip(*(own.tolist() for own in found), strict=True)) if all(dull)]


def join_rollouts(left: Rollout, right: Rollout) -> Rollout:
    """The groups of both; the shorter prompts are padded on their left, the shorter completions on their right."""
    width = max(left.prompt_ids.shape[1], right.prompt_ids.shape[1])
    length = max(left.completion_ids.shape[1], right.completion_ids.shape[1])

    def prompts(*parts: Tensor) -> Tensor:
        return torch.cat([F.pad(part, (width - part.shape[1], 0)) for part in parts])

    def completions(*parts: Tensor) -> Tensor:
        return torch.cat([F.pad(part, (0, length - part.shape[1])) for part in parts])

    def optional(join: Callable[..., Tensor], *parts: Tensor | None) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return join(*there) if len(there) == len(parts) else None

    return replace(
        left,
        triplets=[*left.triplets, *right.triplets],
        outputs=[*left.outputs, *right.outputs],
        prompt_ids=prompts(left.prompt_ids, right.prompt_ids),
        prompt_mask=prompts(left.prompt_mask, right.prompt_mask),
        pixel_values=optional(lambda *parts: torch.cat(parts), left.pixel_values, right.pixel_values),
        completion_ids=completions(left.completion_ids, right.completion_ids),
        completion_mask=completions(left.completion_mask, right.completion_mask),
        logps=optional(completions, left.logps, right.logps),
        truncated=torch.cat([left.truncated, right.truncated]),
    )


def select_rewards(rewards: RewardResult, rows: Sequence[int]) -> RewardResult:
    """The rewards of some rows."""

    def columns(found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
            for name, values in found.items()
        }

    return replace(
        rewards,
        total=rewards.total[rows],
        valid=rewards.valid[rows],
        parts=columns(rewards.parts),
        terms=columns(rewards.terms),
        notes=columns(rewards.notes),
        texts=columns(rewards.texts),
    )


def join_rewards(left: RewardResult, right: RewardResult) -> RewardResult:
    """The rewards of the rows of both; a part that one of them lacks is missing there, a note empty. Seconds add up."""

    def scores(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        blanks = [torch.full_like(side.total, torch.nan) for side in (left, right)]
        return {
            name: torch.cat([ours.get(name, blanks[0]), theirs.get(name, blanks[1])])
            for name in dict.fromkeys([*ours, *theirs])
        }

    def lines(ours: Mapping[str, list[str]], theirs: Mapping[str, list[str]]) -> dict[str, list[str]]:
        blanks = [[""] * len(side.total) for side in (left, right)]
        return {
            name: ours.get(name, blanks[0]) + theirs.get(name, blanks[1]) for name in dict.fromkeys([*ours, *theirs])
        }

    return replace(
        left,
        total=torch.cat([left.total, right.total]),
        valid=torch.cat([left.valid, right.valid]),
        parts=scores(left.parts, right.parts),
        terms=scores(left.terms, right.terms),
        notes=lines(left.notes, right.notes),
        texts=lines(left.texts, right.texts),
        seconds={
            name: left.seconds.get(name, 0.0) + right.seconds.get(name, 0.0)
            for name in dict.fromkeys([*left.seconds, *right.seconds])
        },
    )
