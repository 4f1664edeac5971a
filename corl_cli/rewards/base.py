"""Reward: a score per sample. Rubric: the weighted rewards of one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.types import RewardResult, Rollout, Task
from corl_cli.models.base import UnifiedPolicy


class Options(BaseModel):
    """The options of a reward: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Raw scores of one reward: `values` [N] float32, NaN where there is none; `parts` are its named halves."""

    values: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    notes: Sequence[str] = ()


class Reward(ABC):
    """Scores the outputs of one task. A failed or missing score is NaN, never 0."""

    task: ClassVar[Task]
    Options: ClassVar[type[BaseModel]] = Options
    needs_reference: ClassVar[bool] = False

    def __init__(self, options: BaseModel) -> None:
        self.options = options

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:  # noqa: B027 (optional hook)
        """Bring models to `device`; `reference` is the frozen start when `needs_reference`."""

    @abstractmethod
    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        """One score per row of the rollout."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A reward with its name, its weight, and what a missing score does: `stop` the run or `mask` the row."""

    name: str
    weight: float
    missing: str
    reward: Reward


class Rubric:
    """The weighted rewards of one task."""

    def __init__(self, task: Task, criteria: Sequence[Criterion]) -> None:
        self.task = task
        self.criteria = list(criteria)

    @torch.no_grad()
    def __call__(self, rollout: Rollout, policy: UnifiedPolicy) -> RewardResult:
        """Score every row; CorlError when a score is not finite and its criterion says stop, or not one per row."""
        total = torch.zeros(len(rollout))
        valid = torch.ones(len(rollout), dtype=torch.bool)
        parts: dict[str, Tensor] = {}
        weights = {criterion.name: criterion.weight for criterion in self.criteria}
        notes: dict[str, list[str]] = {}
        for criterion in self.criteria:
            scores = criterion.reward.score(rollout, policy)
            values = scores.values.float().cpu()
            if values.shape != (len(rollout),):
                raise CorlError(
                    f"Reward '{criterion.name}' gave scores of shape {list(values.shape)} for {len(rollout)} samples.",
                    "Return Scores(values=...) with one score per row of the rollout.",
                )
            finite = torch.isfinite(values)
            if criterion.missing == "stop" and not finite.all():
                raise _missing(criterion.name, rollout, values, finite)
            total = total + criterion.weight * values
            valid &= finite
            parts[criterion.name] = values
            parts |= {f"{criterion.name}.{part}": score.float().cpu() for part, score in scores.parts.items()}
            if scores.notes:
                notes[criterion.name] = list(scores.notes)
        total = total.masked_fill(~valid, torch.nan)
        return RewardResult(task=self.task, total=total, parts=parts, valid=valid, weights=weights, notes=notes)


def _missing(name: str, rollout: Rollout, values: Tensor, finite: Tensor) -> CorlError:
    row = int((~finite).nonzero()[0])
    return CorlError(
        f"Reward '{name}' gave {float(values[row])} for sample {row} (triplet {rollout.triplets[row].id}); "
        f"{int((~finite).sum())} of {len(values)} scores are not finite.",
        f"Leave such rows out with --set rewards.{rollout.task}.{name}.missing=mask, or mend the reward.",
    )
