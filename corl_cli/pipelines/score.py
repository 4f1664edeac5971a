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
from corl_cli.core.types import TASKS, RewardResult, Samples, Sampling, Task, Triplet
from corl_cli.pipelines.build import build_policy, build_rubrics
from corl_cli.pipelines.catalogue import requirements
from corl_cli.pipelines.choose import chosen
from corl_cli.pipelines.samples import OUTPUT, Failure, Given, picture, triplet
from corl_cli.rewards import bind

if TYPE_CHECKING:
    from PIL.Image import Image

    from corl_cli.models.base import UnifiedPolicy
    from corl_cli.rewards.base import Criterion, Reward, Rubric

CHUNK = 32  # samples scored at once; bounds memory, not the scores
REAL_IMAGES = 64  # real images kept open


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What the rewards say of one sample: numbers by reward and by `reward.part`, notes by reward."""

    id: str
    scores: dict[str, float]
    notes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sample with its pictures open; `outputs` has the tasks that it has an output of."""

    given: Given
    triplet: Triplet
    outputs: dict[Task, Image | str]


class Panel:
    """The rewards that a user asks for. Making one binds them; `load` brings the models.

    `needs` are the columns that each reward needs; `policy_name` says which policy runs, None when no reward asks.
    """

    def __init__(self, recipe: Recipe, rewards: Sequence[str], checkpoint: str | None = None) -> None:
        specs = chosen(recipe, rewards)
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
        self.rubrics: dict[Task, Rubric] = {}
        self._real = lru_cache(REAL_IMAGES)(picture)  # one object for all samples that share it: measures read it once

    def load(self) -> None:
        """Bring what the rewards stand on; CorlError when something is missing, each thing with its remedy."""
        lacking = [
            (f"Reward '{name}' needs {requirement.name}: {requirement.detail}", requirement.remedy)
            for name, reward in self.rewards.items()
            for requirement in requirements(reward)
            if not requirement.met
        ]
        if lacking:
            messages, remedies = (dict.fromkeys(filter(None, lines)) for lines in zip(*lacking, strict=True))
            raise CorlError("\n".join(messages), "\n".join(remedies) or None)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.policy_name:
            self.policy = build_policy(self.model).to(device).requires_grad_(False).eval()
        self.rubrics = build_rubrics(self.specs, TASKS, device, self.policy)

    @property
    def criteria(self) -> list[Criterion]:
        """The loaded rewards of all tasks."""
        return [criterion for rubric in self.rubrics.values() for criterion in rubric.criteria]

    def score(self, samples: Iterable[Given | Failure]) -> Iterator[Scored | Failure]:
        """One outcome per sample, in their order; a sample that any reward cannot score is a Failure."""
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
        tasks = [task for task in self.rubrics if OUTPUT[task] in sample.values]
        looks = any("real" in self.needs[name] for name, reward in self.rewards.items() if reward.task in tasks)
        try:
            return Row(
                given=sample,
                triplet=triplet(sample, self._real(sample.folder / sample.values["real"]) if looks else None),
                outputs={task: _output(sample, task) for task in tasks},
            )
        except CorlError as error:
            return Failure(id=sample.id, error=sample.place + error.message)

    def samples(self, rows: Sequence[Row], task: Task) -> Samples:
        """Rows as groups of one."""
        return Samples(
            task=task,
            triplets=[row.triplet for row in rows],
            outputs=[row.outputs[task] for row in rows],
            sampling=Sampling(group_size=1),
        )

    def _outcomes(self, rows: Sequence[Row]) -> list[Scored | Failure]:
        found: list[list[tuple[RewardResult, int]]] = [[] for _ in rows]  # of each row, where its scores are
        for task, rubric in self.rubrics.items():
            mine = [number for number, row in enumerate(rows) if task in row.outputs]
            if mine:
                result = rubric(self.samples([rows[number] for number in mine], task), self.policy)
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
    scores = {name: float(values[place]) for result, place in found for name, values in result.parts.items()}
    notes = {name: lines[place] for result, place in found for name, lines in result.notes.items() if lines[place]}
    faults = [
        f"{name}: {notes.get(name) or f'the score is {scores[name]}'}"
        for result, _ in found
        for name in result.terms
        if not math.isfinite(scores[name])
    ]
    if faults:
        return Failure(id=row.given.id, error=row.given.place + "; ".join(faults))
    return Scored(
        id=row.given.id, scores={name: score for name, score in scores.items() if math.isfinite(score)}, notes=notes
    )
