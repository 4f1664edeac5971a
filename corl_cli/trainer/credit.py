"""Which advantage each row of each task gets: the pair's, its own, or a mean of the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from corl_cli.core.recipe import Algo
from corl_cli.core.types import RewardResult, Task
from corl_cli.trainer import objective

Deviation = Callable[[Tensor], float]  # of the finite rewards [N] of a step, over all processes


def deviation(rewards: Tensor) -> float:
    """Standard deviation of the finite values, of this process alone; 0 of fewer than two."""
    found = rewards[rewards.isfinite()]
    return float(found.std()) if len(found) > 1 else 0.0


def leave_out(advantages: Tensor, rows: Tensor, truncated: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and counted rows [N] without the answers that were cut off, whose rewards stay in the baseline."""
    kept = rows & ~truncated
    return advantages.where(kept, 0.0), kept


def credit(
    rewards: Mapping[Task, RewardResult], algo: Algo, group_size: int, deviation: Deviation = deviation
) -> dict[Task, tuple[Tensor, Tensor]]:
    """Advantages [N] and counted rows [N] of each task.

    `joint` (paper): row i is the pair of drawing i and answer i, with one advantage for both. `per_task`: each task's
    own, the answers' times lambda. `blend`: the weighted mean of the two. In pairs a row that one task lacks is left
    out of both. Where one task is trained, lambda weighs nothing.
    """

    def advantages(total: Tensor, rows: Tensor) -> Tensor:
        kept = total.where(rows, torch.nan)
        spread = deviation(kept) if algo.scale_advantages == "batch" else torch.nan
        return objective.group_advantages(kept, rows, group_size, algo.scale_advantages, spread)

    if len(rewards) == 1:
        return {task: (advantages(result.total, result.valid), result.valid) for task, result in rewards.items()}
    t2i, mm2t = rewards["t2i"], rewards["mm2t"]
    weights = {"t2i": 1.0, "mm2t": algo.mm2t_weight}
    if algo.credit == "per_task":
        return {
            task: (weights[task] * advantages(result.total, result.valid), result.valid)
            for task, result in rewards.items()
        }
    rows = t2i.valid & mm2t.valid
    pair = advantages(objective.joint_rewards(t2i.total, mm2t.total, algo.mm2t_weight), rows)
    share = 1.0 if algo.credit == "joint" else algo.blend
    return {
        task: (share * pair + (1 - share) * weights[task] * advantages(result.total, rows), rows)
        for task, result in rewards.items()
    }


def contributions(
    rewards: Mapping[Task, RewardResult], algo: Algo, group_size: int, deviation: Deviation = deviation
) -> dict[Task, dict[str, Tensor]]:
    """What each reward, as task/name, adds to the advantages [N] that `credit` gives a task; they add up to these."""

    def parts(terms: Mapping[str, Tensor], rows: Tensor, weight: float = 1.0) -> dict[str, Tensor]:
        spread = torch.nan
        if algo.scale_advantages == "batch":
            spread = deviation(torch.stack([*terms.values()]).sum(0).where(rows, torch.nan))
        found = objective.contributions(terms, rows, group_size, algo.scale_advantages, spread)
        return {name: weight * part for name, part in found.items()}

    terms = {task: {f"{task}/{name}": term for name, term in own.terms.items()} for task, own in rewards.items()}
    if len(rewards) == 1:
        return {task: parts(terms[task], result.valid) for task, result in rewards.items()}
    weights = {"t2i": 1.0, "mm2t": algo.mm2t_weight}
    if algo.credit == "per_task":
        return {task: parts(terms[task], result.valid, weights[task]) for task, result in rewards.items()}
    rows = rewards["t2i"].valid & rewards["mm2t"].valid
    summed = {name: weights[task] * term for task in rewards for name, term in terms[task].items()}
    share = 1.0 if algo.credit == "joint" else algo.blend
    pair = parts(summed, rows, share)
    own = {task: parts(terms[task], rows, (1 - share) * weights[task]) for task in rewards}
    return {task: {name: part + own[task].get(name, 0.0) for name, part in pair.items()} for task in rewards}
