"""Runs that are written by the real writers, with samples and scores of a test's own choosing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Experience, RewardResult, Rollout, Task, Triplet
from corl_cli.trainer.credit import credit
from corl_cli.trainer.rollout import record

Rows = Mapping[
    str, Any
]  # outputs [N], scores {name: [N]}, and where they matter notes and texts {name: [N]}, lengths [N]


class Rig:
    """A run of 2 triplets and groups of 4 a step, whose rewards are given."""

    def __init__(self, path: Path, triplets: Sequence[Triplet], rewards: Mapping[Task, list[dict[str, Any]]]) -> None:
        self.triplets = list(triplets)
        self.recipe = Recipe.model_validate(
            {
                "name": "rig",
                "sampling": {"group_size": 4, "mm2t": {"max_new_tokens": 20}},
                "rewards": rewards,
                "train": {"tasks": list(rewards)},
                "algo": {"credit": "per_task"},
            }
        )
        facts = {"start": "nowhere"}  # nothing here may need weights
        self.run = RunDir.create(path, self.recipe, command=["corl"], facts=facts)

    def step(self, step: int, rows: Mapping[Task, Rows]) -> None:
        """Record one step."""
        results = {task: self._rewards(task, given) for task, given in rows.items()}
        advantages = credit(results, self.recipe.algo, 4)
        batch = {
            task: Experience(
                rollout=self._rollout(task, given),
                rewards=results[task],
                advantages=advantages[task][0],
                rows=advantages[task][1],
                old_logps=None,
                ref_logps=None,
            )
            for task, given in rows.items()
        }
        record(self.run.rollouts / f"step-{step:06d}", batch)

    def _rewards(self, task: Task, given: Rows) -> RewardResult:
        parts = {name: torch.tensor(values, dtype=torch.float32) for name, values in given["scores"].items()}
        weights = {spec.name: spec.weight for spec in getattr(self.recipe.rewards, task)}
        terms = {name: weight * parts[name] for name, weight in weights.items()}
        total = torch.stack(list(terms.values())).sum(0)
        return RewardResult(
            task=task,
            total=total,
            parts=parts,
            valid=total.isfinite(),
            terms=terms,
            notes=given.get("notes", {}),
            texts=given.get("texts", {}),
        )

    def _rollout(self, task: Task, given: Rows) -> Rollout:
        lengths = torch.tensor(given.get("lengths", [10] * 8))
        empty = torch.zeros(8, 0, dtype=torch.long)
        return Rollout(
            task=task,
            triplets=[triplet for triplet in self.triplets for _ in range(4)],
            outputs=given["outputs"],
            sampling=self.recipe.sampling.of(task),
            prompt_ids=empty,
            prompt_mask=empty,
            pixel_values=None,
            completion_ids=torch.zeros(8, 20, dtype=torch.long),
            completion_mask=torch.arange(20)[None] < lengths[:, None],
            logps=None,
            truncated=lengths == 20,
        )


@pytest.fixture
def rig(tmp_path: Path, triplets: list[Triplet]) -> Callable[..., Rig]:
    """`rig(t2i=[{name: …}], mm2t=[…])` opens a run at tmp_path / "run"."""
    return lambda **rewards: Rig(tmp_path / "run", triplets[:2], rewards)
