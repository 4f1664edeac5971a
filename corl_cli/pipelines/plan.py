"""What a training run would do, found out before any weight is loaded."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.data import triplets
from corl_cli.data.batches import ShuffledBatches
from corl_cli.pipelines import build, estimate
from corl_cli.pipelines.machine import GIB, memory, this_device

MARGIN = 0.9  # of a device's memory that is used as estimated


def describe(recipe: Recipe, command: str, processes: int = 1) -> dict[str, str]:
    """What a run of a recipe that has been checked would do, in words."""
    data = batches(recipe)
    steps = recipe.train.max_steps or len(data)
    start = build.locate(recipe.model.checkpoint)
    count = estimate.counted(recipe, start)
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
        **_memory(recipe, processes),
    }
    for task in recipe.train.tasks if recipe.train.method == "rl" else ():
        named = [f"{spec.weight:g} x {spec.name}" for spec in getattr(recipe.rewards, task)]
        rows[f"rewards {task}"] = " + ".join(named)
    return rows


def _memory(recipe: Recipe, processes: int) -> dict[str, str]:
    """What one process needs, and how many triplets go into its backward passes."""
    size = _here(recipe, processes)
    peak = estimate.peak(recipe, processes, size or 1)
    share = estimate.share_of(recipe, processes)
    how = "" if recipe.train.micro_batch_size else " (chosen here; noted by a run)"
    passes = f"{size} of the {share} triplets of a process{how}"
    return {
        "micro-batches": passes if size else "chosen where it runs: here not even one triplet fits",
        "memory": f"{peak.total / GIB:,.2f} GiB in each process at its peak{'' if size else ' with one triplet'}, "
        f"as estimated; {peak.held / GIB:,.2f} of it throughout; rewards' models come on top",
    }


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
    there = estimate.standing(recipe, processes, weights)
    needed = there.held + there.gradients
    if torch.cuda.is_available() and needed > (whole := memory(this_device())):
        raise CorlError(
            f"This recipe needs {needed / GIB:.0f} GiB for weights and optimiser; the GPU has {whole / GIB:.0f}.",
            "Take a larger GPU, a smaller model (--set model.checkpoint=…), or share the weights out over several "
            "processes: --set distributed.strategy=fsdp",
        )
    return needed


def sized(recipe: Recipe, processes: int = 1) -> Recipe:
    """The recipe with a number for train.micro_batch_size: its own, or as many triplets as fit on this device.

    On a GPU the estimate decides, within MARGIN of its memory. On a CPU all of a process' triplets go at once unless
    that exceeds the machine's memory. CorlError when not even one fits.
    """
    size = _here(recipe, processes)
    if size is None:
        needed = estimate.peak(recipe, processes, 1).total
        raise CorlError(
            f"Not even one triplet fits into a backward pass: that takes {needed / GIB:.1f} GiB, as estimated; there "
            f"are {_room(processes) / GIB:.1f}.",
            f"See what would fit with: corl plan {recipe.name}. To try it all the same: --set train.micro_batch_size=1",
        )
    return with_micro_batches(recipe, size)


def chosen(recipe: Recipe, processes: int, room: float) -> int | None:
    """Triplets in a backward pass: the recipe's number, or as many as fit into so many bytes; None where none does.

    Where backward passes are averaged (bnpo) their number is part of the objective: all at once is what the recipe then
    says.
    """
    share = estimate.share_of(recipe, processes)
    if recipe.train.micro_batch_size or recipe.algo.loss == "bnpo":
        return recipe.train.micro_batch_size or share
    return largest(share, room, lambda size: estimate.peak(recipe, processes, size).total)


def _here(recipe: Recipe, processes: int) -> int | None:
    """See `chosen`, on this device."""
    room = MARGIN * _room(processes)
    own = recipe.train.micro_batch_size
    if own is None and this_device().type == "cpu" and estimate.enough(recipe, processes) < room:
        return estimate.share_of(recipe, processes)
    return chosen(recipe, processes, room)


def _room(processes: int) -> float:
    """Bytes of this device for one process; those of a CPU share the machine's."""
    device = this_device()
    together = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return memory(device) / together


def tightness(recipe: Recipe, processes: int, weights: str) -> str | None:
    """What to say where a GPU is smaller than what the recipe's micro-batches are estimated to take; None elsewhere."""
    if this_device().type == "cpu":
        return None
    needed = estimate.peak(recipe, processes, recipe.train.micro_batch_size, weights).total
    there = memory(this_device())
    if needed <= there:
        return None
    return (
        f"{recipe.train.micro_batch_size} triplets in a backward pass take {needed / GIB:.0f} GiB, as estimated, and "
        f"this GPU has {there / GIB:.0f}: it may run out of memory"
    )


def resumed(recipe: Recipe, noted: int | None, processes: int) -> Recipe:
    """The recipe with the size of micro-batches that its run noted, or all at once where it noted none.

    With another number of processes it is the largest that divides their share and is no larger.
    """
    share = recipe.train.batch_size // processes
    size = recipe.train.micro_batch_size or largest(share, noted or share, lambda size: size)
    return with_micro_batches(recipe, size or share)


def with_micro_batches(recipe: Recipe, size: int) -> Recipe:
    """The recipe with so many triplets in a backward pass."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch_size": size})})


def largest(share: int, room: float, needed: Callable[[int], float]) -> int | None:
    """The largest divisor of `share` whose need is within the room, None where there is none; larger ones need more."""
    divisors = [size for size in range(1, share + 1) if share % size == 0]
    fitting = bisect_right(divisors, room, key=needed)
    return divisors[fitting - 1] if fitting else None
