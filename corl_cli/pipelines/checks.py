"""Everything that could keep a training run from starting, found at once and before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from corl_cli.core import kinds
from corl_cli.core.errors import UsageError
from corl_cli.core.kinds import Kind
from corl_cli.core.loader import Draft, refuse
from corl_cli.core.recipe import Model, Recipe, Train
from corl_cli.data import triplets
from corl_cli.pipelines import build, launch, plan
from corl_cli.pipelines.abilities import PROBE_SEED


def check(draft: Draft, wanted: list[Kind], num_processes: int | None = None) -> None:
    """UsageError with a line for each reason why this recipe, of one of these kinds, cannot be trained here.

    Without `num_processes` there are as many as a launcher has started. A check that reads keys which are faulty
    themselves is left out.
    """
    recipe = draft.recipe
    here = num_processes or int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    everywhere = num_processes or int(os.environ.get("WORLD_SIZE", 1))
    attempts: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("train.method", "train.tasks", "train.cycle", "data.answer_types"), partial(kinds.check, recipe, wanted)),
        *(((), attempt) for attempt in build.bindings(recipe)),
        *(((), partial(build.ready_for, spec, task, recipe.name)) for task, spec in build.specs(recipe)),
        (("model.checkpoint", "model.family"), partial(_check_model, recipe.model)),
        (("train.batch_size", "train.micro_batch_size"), partial(_check_batch, recipe.train, everywhere)),
        ((), partial(launch.check_devices, here)),
        (("data", "train"), partial(plan.batches, recipe)),
        (("data", "eval.probes", "train.tasks"), partial(_check_probes, recipe)),
    ]
    faults, hints = build.failures(attempt for keys, attempt in attempts if draft.tells(*keys))
    if draft.faults:
        raise refuse(
            draft.source, [*draft.faults, *faults], "\n".join([*hints, "See every key with: corl recipe schema"])
        )
    if faults:
        raise UsageError("\n".join(faults), "\n".join(hints) or None)


def _check_model(model: Model) -> None:
    from corl_cli.models import fitness

    if model.family in build.MODELS:
        fitness.check(build.locate(model.checkpoint))


def _check_batch(train: Train, processes: int) -> None:
    """UsageError when the triplets of a step cannot be shared evenly by processes and backward passes."""
    if train.batch_size % processes:
        raise UsageError(
            f"train.batch_size: {train.batch_size} triplets cannot be shared evenly by {processes} processes.",
            f"Use a multiple of {processes}: --set train.batch_size={-(-train.batch_size // processes) * processes}",
        )
    share, micro = train.batch_size // processes, train.micro_batch_size
    if micro and share % micro:
        raise UsageError(
            f"train.micro_batch_size: {micro} does not divide the {share} triplets that a process has in a step.",
            f"Use a divisor of {share}, such as {max(size for size in range(1, micro) if share % size == 0)}.",
        )


def _check_probes(recipe: Recipe) -> None:
    """UsageError when the held-out data lack what the trained tasks need."""
    section = recipe.eval.probes
    if section:
        triplets.load(recipe.data, PROBE_SEED, split=section.split, tasks=recipe.train.tasks)
