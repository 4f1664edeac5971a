"""What a checkpoint can do: held-out items drawn and answered, as while training, and kept item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Probes as ProbesSection
from corl_cli.core.recipe import Recipe, Rubrics
from corl_cli.core.types import TASKS, Sampling, Task
from corl_cli.data import triplets
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines import build, launch
from corl_cli.rewards.base import Reward
from corl_cli.trainer.probes import Probes, Row

PROBE_SEED = 0  # every run of every seed is asked the same held-out items


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One score of every held-out item at one temperature, in the items' order; NaN where scoring failed."""

    task: Task
    score: str
    temperature: float
    items: list[str]
    answer_types: list[str]
    values: list[float]


def measure(recipe: Recipe, checkpoint: str) -> list[Scores]:
    """All scores of the recipe's probes at both temperatures; all processes take part and have them.

    `checkpoint` is what `model.checkpoint` may be. The noise is the same for every checkpoint, so two of them compare
    item by item. UsageError when the recipe has no probes.
    """
    accelerator = launch.join()
    bare = recipe.model_copy(update={"rewards": Rubrics(), "algo": recipe.algo.model_copy(update={"beta": 0.0})})
    reference = None
    if build.needs_reference(bare):  # the recipe's start for every checkpoint, so that all have the same judge
        start = build.locate(recipe.model.checkpoint)
        reference = build.build_reference(recipe.model, start, None).to(accelerator.device)
    held_out = probes(recipe, accelerator.device, reference, {})
    if held_out is None:
        raise UsageError(f"{recipe.name} has no eval.probes: there is nothing to measure.", "Give it eval.probes.")
    policy = build.build_policy(recipe.model, build.locate(checkpoint)).to(accelerator.device).eval()
    found = []
    for task, sampling, rows in held_out.rows(policy, accelerator):
        found += [
            _scores(task, name, sampling.temperature, held_out, rows)
            for name in dict.fromkeys(row.score for row in rows)
        ]
    return found


def probes(
    recipe: Recipe,
    device: torch.device,
    reference: UnifiedPolicy | None,
    loaded: dict[tuple[Task, str], Reward],
) -> Probes | None:
    """The held-out items of a recipe with their rubrics, or None where it has none; `loaded` as in build_rubrics."""
    section = recipe.eval.probes
    if section is None:
        return None
    tasks = [task for task in TASKS if task in recipe.train.tasks or _offered(recipe, section, task)]
    rubrics = build.build_rubrics(section.rewards, tasks, device, reference, loaded)
    items = triplets.load(recipe.data, PROBE_SEED, split=section.split, limit=section.items, tasks=list(rubrics))
    return Probes(items, rubrics, {task: _readings(recipe, section, task) for task in rubrics})


def _offered(recipe: Recipe, section: ProbesSection, task: Task) -> bool:
    """Whether the held-out data have what a task that is not trained needs, so that it can be watched."""
    try:
        triplets.load(recipe.data, PROBE_SEED, split=section.split, tasks=[task])
    except UsageError:
        return False
    return True


def _readings(recipe: Recipe, section: ProbesSection, task: Task) -> list[Sampling]:
    """The training temperature, and the lower one that shows how much of a gain is mere sharpening."""
    sampling = replace(recipe.sampling.of(task), group_size=1)
    return [sampling, replace(sampling, temperature=section.temperature)]


def _scores(task: Task, name: str, temperature: float, held_out: Probes, rows: Sequence[Row]) -> Scores:
    own = sorted((row for row in rows if row.score == name), key=lambda row: row.item)
    return Scores(
        task=task,
        score=name,
        temperature=temperature,
        items=[held_out.triplets[row.item].id for row in own],
        answer_types=[row.answer_type for row in own],
        values=[row.value for row in own],
    )
