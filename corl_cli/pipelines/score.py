"""Rewards on samples that were not sampled here: what each reward says of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe, RewardSpec, Rubrics
from corl_cli.core.requirements import demand
from corl_cli.core.types import TASKS, RewardResult, Samples, Sampling, Task
from corl_cli.pipelines.build import build_policy, build_rubrics
from corl_cli.pipelines.catalogue import requirements
from corl_cli.pipelines.choose import chosen
from corl_cli.pipelines.samples import OUTPUT, Failure, Given, picture, triplet
from corl_cli.rewards import bind
from corl_cli.rewards.base import Rubric

if TYPE_CHECKING:
    from PIL.Image import Image

    from corl_cli.models.base import UnifiedPolicy
    from corl_cli.rewards.base import Reward

CHUNK = 32  # samples scored at once; bounds memory, not the scores
REAL_IMAGES = 64  # real images kept open


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the rewards say of one sample: numbers by reward and by `reward.part`, notes by reward.

    Only finite numbers are there; `error` says why others are not, and is empty where none is missing.
    """

    id: str
    scores: dict[str, float]
    notes: dict[str, str]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample with its pictures open; `outputs` has the tasks that it has an output of."""

    given: Given
    real: Image | None
    outputs: dict[Task, Image | str]


class Panel:
    """The rewards that a user asks for. Making one binds them; `load` brings the models.

    `needs` are the columns that each reward needs; `policy_name` says which policy runs, None when no reward asks.
    """

    def __init__(self, recipe: Recipe, rewards: Sequence[str], checkpoint: str | None = None) -> None:
        specs = chosen(recipe, rewards, summed=False)
        self.specs = Rubrics(t2i=[_masked(spec) for spec in specs.t2i], mm2t=[_masked(spec) for spec in specs.mm2t])
        self.model = recipe.model if checkpoint is None else recipe.model.model_copy(update={"checkpoint": checkpoint})
        self.rewards: dict[str, Reward] = {
            spec.name: bind(spec, task) for task in TASKS for spec in getattr(self.specs, task)
        }
        self.needs = {
            name: list(dict.fromkeys((OUTPUT[reward.task], *reward.columns))) for name, reward in self.rewards.items()
        }
        asked = any(reward.needs_policy or reward.needs_reference for reward in self.rewards.values())
        self.policy_name = self.model.checkpoint if asked else None
        self.policy: UnifiedPolicy | None = None
        self.rubrics: dict[str, Rubric] = {}  # of one reward each: every reward sees no more than it asks for
        self._real = lru_cache(REAL_IMAGES)(picture)  # one object for all samples that share it: measures read it once

    def load(self) -> None:
        """Bring what the rewards stand on; CorlError when something is missing, each thing with its remedy."""
        for name, reward in self.rewards.items():
            demand(requirements(reward), f"Reward '{name}'")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.policy_name:
            self.policy = build_policy(self.model).to(device).requires_grad_(False).eval()
        self.rubrics = {
            criterion.name: Rubric(task, [criterion])
            for task, rubric in build_rubrics(self.specs, TASKS, device, self.policy).items()
            for criterion in rubric.criteria
        }

    def score(self, samples: Iterable[Given | Failure]) -> Iterator[Scored | Failure]:
        """One outcome per sample, in their order; a sample that no reward can score is a Failure."""
        waiting = iter(samples)
        while chunk := list(islice(waiting, CHUNK)):
            opened = [self.open(sample) for sample in chunk]
            outcomes = iter(self._outcomes([row for row in opened if isinstance(row, Row)]))
            for row in opened:
                yield row if isinstance(row, Failure) else next(outcomes)

    def open(self, sample: Given | Failure) -> Row | Failure:
        """The sample with the pictures that the rewards look at; a Failure where one cannot be read."""
        if isinstance(sample, Failure):
            return sample
        tasks = [task for task in TASKS if OUTPUT[task] in sample.values and getattr(self.specs, task)]
        looks = any("real" in self.needs[name] for name, reward in self.rewards.items() if reward.task in tasks)
        try:
            return Row(
                given=sample,
                real=self._real(sample.folder / sample.values["real"]) if looks else None,
                outputs={task: _output(sample, task) for task in tasks},
            )
        except CorlError as error:
            return Failure(id=sample.id, error=sample.place + error.message, given=sample)

    def samples(self, rows: Sequence[Row], name: str) -> Samples:
        """Rows as a reward sees them: groups of one, of which it reads what was given."""
        task, optional = self.rewards[name].task, self.rewards[name].optional
        return Samples(
            task=task,
            triplets=[triplet(row.given, row.real, optional) for row in rows],
            outputs=[row.outputs[task] for row in rows],
            sampling=Sampling(group_size=1),
        )

    def _outcomes(self, rows: Sequence[Row]) -> list[Scored | Failure]:
        found: list[list[tuple[RewardResult, int]]] = [[] for _ in rows]  # of each row, where its scores are
        for name, rubric in self.rubrics.items():
            mine = [number for number, row in enumerate(rows) if rubric.task in row.outputs]
            if mine:
                result = rubric(self.samples([rows[number] for number in mine], name), self.policy)
                for place, number in enumerate(mine):
                    found[number].append((result, place))
        return [_outcome(row, places) for row, places in zip(rows, found, strict=True)]


def _masked(spec: RewardSpec) -> RewardSpec:
    """The spec with failed rows left out: one of them is no reason to lose the others."""
    return spec.model_copy(update={"on_error": "mask"})


def _output(sample: Given, task: Task) -> Image | str:
    value = sample.values[OUTPUT[task]]
    return picture(sample.folder / value) if task == "t2i" else value


def _outcome(row: Row, found: Sequence[tuple[RewardResult, int]]) -> Scored | Failure:
    """The scores of those rewards that have one, with their parts; halves of a reward without one are no scores."""
    scores: dict[str, float] = {}
    notes = {name: lines[place] for result, place in found for name, lines in result.notes.items() if lines[place]}
    faults = []
    for result, place in found:
        (name,) = result.terms
        score = float(result.parts[name][place])
        if math.isfinite(score):
            parts = {part: float(values[place]) for part, values in result.parts.items()}
            scores |= {part: value for part, value in parts.items() if math.isfinite(value)}
        else:
            faults.append(f"{name}: {notes.pop(name, f'the score is {score}')}")
    error = row.given.place + "; ".join(faults) if faults else ""
    if not scores:
        return Failure(id=row.given.id, error=error, given=row.given)
    return Scored(id=row.given.id, scores=scores, notes=notes, error=error)
