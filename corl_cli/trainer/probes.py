"""Held-out items, drawn and answered the same way each time, so that a run can see whether it learns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from accelerate.utils import gather_object

from corl_cli.core.types import RewardResult, Rollout, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.trainer.types import Rubric

BATCH = 64  # triplets sampled at once

Row = tuple[str, str, float]  # name of the score, answer type, value


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
        mine = self.triplets[accelerator.process_index :: accelerator.num_processes]
        readings = []
        for task, rubric in self.rubrics.items():
            for sampling in self.samplings[task]:
                rows = gather_object(_score(policy, task, mine, rubric, sampling))
                readings += [_reading(task, score, sampling.temperature, rows) for score in _scores(task, rows)]
        return readings


def _score(
    policy: UnifiedPolicy, task: Task, triplets: Sequence[Triplet], rubric: Rubric, sampling: Sampling
) -> list[Row]:
    rows: list[Row] = []
    for start in range(0, len(triplets), BATCH):
        batch = triplets[start : start + BATCH]
        rollout: Rollout = policy.sample(task, batch, sampling, key="probe")
        result: RewardResult = rubric(rollout, policy)
        for name in result.terms:
            values = result.parts[name].tolist()
            rows += [(name, t.answer_type, value) for t, value in zip(batch, values, strict=True)]
    return rows


def _scores(task: Task, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The scores to report: each by name, and answers also by type; (name, "") is all types together."""
    names = sorted({name for name, _, _ in rows})
    types = sorted({kind for _, kind, _ in rows}) if task == "mm2t" else []
    return [(name, kind) for name in names for kind in ["", *types]]


def _reading(task: Task, score: tuple[str, str], temperature: float, rows: Sequence[Row]) -> Reading:
    name, kind = score
    values = [value for other, own, value in rows if other == name and kind in ("", own)]
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
