"""The rollouts that a run has recorded, for whoever looks at them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import RewardResult, Task
from corl_cli.scoring import groups
from corl_cli.trainer.rollout import ROWS, Recorded, read, recorded_steps

NEGATIVE_SHARE = (
    "A reward has a negative share where it goes against the advantages that all of them make together, "
    "and others then have more than 100 %"
)


class Recordings:
    """Recorded steps of a run, all or one; CorlError when there are none, or none that can be read again."""

    def __init__(self, path: Path, step: int | None = None) -> None:
        self.run = RunDir(path)
        if (path / "merge.json").is_file() and not self.run.recipe_file.is_file():
            raise UsageError(
                f"{path} is the result of corl merge, not a run.", "Name the run of one of its models; it records."
            )
        self.recipe = self.run.recipe()
        self.steps = recorded_steps(self.run.rollouts)
        if self.recipe.train.method == "sft":
            raise UsageError(
                f"The run {path} imitates: it samples nothing, so there are no rewards to look at.",
                "Name a run that learns from rewards, such as one of corl train unified.",
            )
        if not self.steps:
            raise CorlError(
                f"The run {path} has no recorded rollouts.",
                "A run records its first step and every tracking.rollouts_every after it; let it do a step.",
            )
        if step is not None and step not in self.steps:
            known = ", ".join(map(str, self.steps))
            raise UsageError(f"The run {path} has no rollouts of step {step}.", f"Recorded are steps {known}.")
        self.steps = self.steps if step is None else [step]
        self._refuse_old()

    def read(self, step: int) -> dict[Task, Recorded]:
        """What was recorded of one step, by task; CorlError that names the step when its files are damaged."""
        samplings = {task: self.recipe.sampling.of(task) for task in self.recipe.train.tasks}
        try:
            return read(self.run.rollouts, step, samplings)
        except CorlError as error:
            gone = error.__cause__
            why = f"{gone.filename} is missing." if isinstance(gone, FileNotFoundError) else error.message
            others = ", ".join(str(other) for other in recorded_steps(self.run.rollouts) if other != step)
            hint = f"Choose another with --step: {others}." if others else "Train the run again: it has no other step."
            raise CorlError(f"Step {step} cannot be read: {why}", hint) from error

    def _refuse_old(self) -> None:
        """Rows without `terms` do not tell what each reward added to the total."""
        for step in self.steps:
            file = self.run.rollouts / f"step-{step:06d}" / ROWS
            try:
                first = json.loads(file.read_text(encoding="utf-8").partition("\n")[0])
            except (OSError, ValueError):
                continue  # read says what is wrong with it
            if isinstance(first, dict) and "terms" not in first:
                raise CorlError(
                    f"The rollouts of {self.run.path} were recorded by an earlier corl, which did not keep what each "
                    "reward added to the total.",
                    "Train the run again; its recipe.yaml says how.",
                )


def pooled(steps: Sequence[Recorded]) -> Recorded:
    """One task of several steps as one, without the samples themselves: what statistics need, and little memory.

    A part that some steps lack is NaN there.
    """
    first = steps[0]
    nothing = [torch.full((len(step.rows),), torch.nan) for step in steps]

    def joined(key: str) -> dict[str, Tensor]:
        columns = [getattr(step.rewards, key) for step in steps]
        names = dict.fromkeys(name for column in columns for name in column)
        return {
            name: torch.cat([column.get(name, absent) for column, absent in zip(columns, nothing, strict=True)])
            for name in names
        }

    return Recorded(
        samples=replace(first.samples, triplets=[], outputs=[]),
        rewards=RewardResult(
            task=first.samples.task,
            total=torch.cat([step.rewards.total for step in steps]),
            parts=joined("parts"),
            valid=torch.cat([step.rewards.valid for step in steps]),
            terms=joined("terms"),
        ),
        advantages=torch.cat([step.advantages for step in steps]),
        rows=torch.cat([step.rows for step in steps]),
        lengths=torch.cat([step.lengths for step in steps]),
        truncated=torch.cat([step.truncated for step in steps]),
    )


def zero_variance(values: Tensor, rows: Tensor, group_size: int) -> float:
    """The share of groups whose counted values are all equal, of those that have two or more; NaN where none has."""
    comparable = groups.comparable(rows, group_size)
    return float(groups.zero_variance(values, rows, group_size)[comparable].float().mean())
