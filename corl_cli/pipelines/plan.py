"""What a training run would do, found out before any weight is loaded."""

from __future__ import annotations

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.data import triplets
from corl_cli.data.batches import ShuffledBatches
from corl_cli.pipelines import build


def describe(recipe: Recipe) -> dict[str, str]:
    """What a run would do, in words; UsageError or CorlError when it could not."""
    build.check(recipe)
    build.ready(recipe)
    data = batches(recipe)
    steps, per_step = num_steps(recipe), recipe.train.batch_size * recipe.sampling.group_size
    trained, frozen = _sizes(recipe)
    sizes = f"{trained / 1e6:,.2f} M of {(trained + frozen) / 1e6:,.2f} M weights learn"
    rows = {
        "recipe": recipe.name,
        "data": f"{recipe.data.path} ({recipe.data.split}), {len(data.triplets):,} triplets",
        "steps": f"{steps:,} of {recipe.train.batch_size} triplets (all epochs: {len(data):,})",
        "samples": f"{per_step:,} per task and step, {per_step * steps:,} in all per task",
        "model": f"{recipe.model.checkpoint}, {sizes}",
        "memory": f"{_memory(recipe) / 2**30:,.2f} GiB for weights, gradients and optimiser; activations come on top",
    }
    for task in recipe.train.tasks:
        named = [f"{spec.weight:g} x {spec.name}" for spec in getattr(recipe.rewards, task)]
        rows[f"rewards {task}"] = " + ".join(named)
    return rows


def batches(recipe: Recipe, process: int = 0, processes: int = 1) -> ShuffledBatches:
    """The share of one process in the triplets of every step; UsageError for sizes that do not go together."""
    data = triplets.load(recipe.data, recipe.seed, tasks=recipe.train.tasks)
    return ShuffledBatches(
        data, recipe.train.batch_size, recipe.train.epochs, recipe.seed, process=process, processes=processes
    )


def num_steps(recipe: Recipe) -> int:
    """Optimiser steps of the whole run."""
    return recipe.train.max_steps or len(batches(recipe))


def check_memory(recipe: Recipe) -> int:
    """The bytes of weights, gradients and optimiser on one device; CorlError when the GPU cannot hold them."""
    needed = _memory(recipe)
    if torch.cuda.is_available() and needed > (whole := torch.cuda.mem_get_info()[1]):
        raise CorlError(
            f"This recipe needs {needed / 2**30:.0f} GiB for weights and optimiser; the GPU has {whole / 2**30:.0f}.",
            "Take a larger GPU or a smaller model: --set model.checkpoint=…",
        )
    return needed


def _sizes(recipe: Recipe) -> tuple[int, int]:
    return build.policy_class(recipe.model.family).count(build.locate(recipe.model.checkpoint))


def _memory(recipe: Recipe) -> int:
    trained, frozen = _sizes(recipe)
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    # float32 masters, gradients and two moments, and the sampler's copy; the reference has masters and a copy too
    policy = trained * (16 + width) + frozen * width
    return policy + (trained * (4 + width) + frozen * width if build.needs_reference(recipe) else 0)
