"""What a training run would do, found out before any weight is loaded."""

from __future__ import annotations

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.data import triplets
from corl_cli.data.batches import ShuffledBatches
from corl_cli.models.base import Count
from corl_cli.pipelines import build


def describe(recipe: Recipe, command: str, processes: int = 1) -> dict[str, str]:
    """What a run of a recipe that has been checked would do, in words."""
    data = batches(recipe)
    steps = recipe.train.max_steps or len(data)
    start = build.locate(recipe.model.checkpoint)
    count = _count(recipe, start)
    sizes = f"{count.learn / 1e6:,.2f} M of {(count.learn + count.frozen) / 1e6:,.2f} M weights learn"
    rows = {
        "recipe": recipe.name,
        "command": f"corl train {command}",
        "data": f"{recipe.data.path} ({recipe.data.split}), {len(data.triplets):,} triplets{_asked(recipe)}",
        "steps": f"{steps:,} of {recipe.train.batch_size} triplets (all epochs: {len(data):,})",
        **_objective(recipe, steps),
        "start": f"{recipe.model.checkpoint} ({start})",
        "model": sizes,
        "processes": f"{processes} ({recipe.distributed.strategy})",
        "memory": f"{_memory(recipe, processes, start) / 2**30:,.2f} GiB for weights, gradients and optimiser in each; "
        "activations come on top",
    }
    for task in recipe.train.tasks if recipe.train.method == "rl" else ():
        named = [f"{spec.weight:g} x {spec.name}" for spec in getattr(recipe.rewards, task)]
        rows[f"rewards {task}"] = " + ".join(named)
    return rows


def _asked(recipe: Recipe) -> str:
    types = set(recipe.data.answer_types)
    return f" with questions of type {types.pop()}" if "mm2t" in recipe.train.tasks and len(types) == 1 else ""


def _objective(recipe: Recipe, steps: int) -> dict[str, str]:
    """What is made of the triplets, and how it counts."""
    algo, size = recipe.algo, recipe.train.batch_size
    cycle = recipe.train.cycle
    turns = {"turns": f"one task a step, changed after {cycle.every} {cycle.unit}"} if cycle else {}
    if recipe.train.method == "sft":
        return turns | {"samples": f"none: {size:,} targets per task and step are imitated, {size * steps:,} in all"}
    group = recipe.sampling.group_size
    tasks = len(recipe.train.tasks)
    per_step = size * group * (1 if cycle else tasks)
    return turns | {
        "samples": f"G = {group}: {per_step:,} a step, {per_step * steps:,} in all ({tasks} tasks)",
        "credit": f"{algo.credit}, lambda {algo.mm2t_weight:g}" if tasks > 1 and not cycle else algo.credit,
        "KL": f"beta {algo.beta:g} ({algo.kl}) to the start" if algo.beta else "none (beta 0)",
    }


def batches(recipe: Recipe, process: int = 0, processes: int = 1) -> ShuffledBatches:
    """The share of one process in the triplets of every step; UsageError for sizes that do not go together."""
    tasks = recipe.train.tasks
    types = recipe.data.answer_types if "mm2t" in tasks else triplets.TYPES
    data = triplets.load(recipe.data, recipe.seed, tasks=tasks, answer_types=types)
    return ShuffledBatches(
        data, recipe.train.batch_size, recipe.train.epochs, recipe.seed, process=process, processes=processes
    )


def num_steps(recipe: Recipe) -> int:
    """Optimiser steps of the whole run."""
    return recipe.train.max_steps or len(batches(recipe))


def check_memory(recipe: Recipe, processes: int = 1, weights: str | None = None) -> int:
    """The bytes of weights, gradients and optimiser on one device; CorlError when the GPU cannot hold them.

    `weights` like the recipe's own are counted in place of them, where those may be gone.
    """
    needed = _memory(recipe, processes, weights or build.locate(recipe.model.checkpoint))
    if torch.cuda.is_available() and needed > (whole := torch.cuda.mem_get_info()[1]):
        raise CorlError(
            f"This recipe needs {needed / 2**30:.0f} GiB for weights and optimiser; the GPU has {whole / 2**30:.0f}.",
            "Take a larger GPU, a smaller model (--set model.checkpoint=…), or share the weights out over several "
            "processes: --set distributed.strategy=fsdp",
        )
    return needed


def _count(recipe: Recipe, weights: str) -> Count:
    model = recipe.model
    return build.policy_class(model.family).count(weights, train=model.train, adapters=model.lora)


def _memory(recipe: Recipe, processes: int, weights: str) -> int:
    count = _count(recipe, weights)
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    # float32 masters, gradients and two moments, and the sampler's copy; the reference has masters alone
    masters = 16 * count.learn
    if recipe.distributed.strategy == "fsdp" and processes > 1:
        masters = masters // processes + width * count.learn  # the whole copy that samples are drawn from
    policy = masters + width * (count.frozen + count.copied)
    if not build.needs_reference(recipe):
        return policy
    reference = build.policy_class(recipe.model.family).count(weights)
    return policy + 4 * reference.learn + width * reference.frozen
