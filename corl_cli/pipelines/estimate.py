"""How much memory a training run takes at its peak on one device, part by part, found out before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Data, Lora, Recipe
from corl_cli.core.types import AnswerType, Task
from corl_cli.data import triplets
from corl_cli.models.base import Count
from corl_cli.pipelines import build
from corl_cli.pipelines.costs import BYTES

if TYPE_CHECKING:
    from transformers import JanusConfig

    from corl_cli.pipelines.activations import Layout

MASTER = BYTES["float32"]  # of a weight that learns, of its gradient and of each of Adam's two moments
# Tokens of the longest prompts where the data are not asked: the paper's limits (arXiv 2505.17534).
LONGEST: Mapping[Task, int] = {"t2i": 256, "mm2t": 1024}
SEEN = 64  # triplets whose prompts are measured
PICTURE = 3  # tensors of the VQ decoder's full size and first width that are alive at once


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Bytes by part on one device; not all are held at once.

    `held` throughout: weights, the optimiser's moments, the sampler's copy, the frozen reference. While sampling:
    `sampling` (keys and values, logits of a step, pictures decoded). While updating: `gradients`, of all tasks where
    their gradients are measured apart, and `activations` of one micro-batch with its logits. Rewards' own models are
    not in it.
    """

    weights: int
    optimiser: int
    sampler: int
    reference: int
    gradients: int
    activations: int
    sampling: int

    @property
    def held(self) -> int:
        """What is there all the time."""
        return self.weights + self.optimiser + self.sampler + self.reference

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.held + max(self.sampling, self.gradients + self.activations)


def peak(recipe: Recipe, processes: int, micro_batch_size: int | None, weights: str | None = None) -> Peak:
    """What one of so many processes holds at most, with so many triplets in a backward pass; None is all of its own.

    `weights` like the recipe's own are counted in place of them; CorlError when their configuration cannot be read.
    """
    from corl_cli.pipelines.activations import activations

    path = weights or build.locate(recipe.model.checkpoint)
    there, config, share = floor(recipe, processes, path), configuration(path), share_of(recipe, processes)
    passes = _passes(recipe, path, min(micro_batch_size or share, share))
    return replace(there, activations=there.activations + max(activations(config, recipe.model, own) for own in passes))


def floor(recipe: Recipe, processes: int, weights: str | None = None) -> Peak:
    """See `peak`, of all but what the backward passes themselves take: no less however small these are."""
    path = weights or build.locate(recipe.model.checkpoint)
    there = standing(recipe, processes, path)
    if recipe.train.method != "rl":
        return there
    share = share_of(recipe, processes)
    return replace(there, sampling=max(_sampling(recipe, path, task, share) for task in recipe.train.tasks))


def standing(recipe: Recipe, processes: int, weights: str | None = None) -> Peak:
    """See `peak`, of what does not depend on the batch: no sampling, and of activations what FSDP gathers."""
    path = weights or build.locate(recipe.model.checkpoint)
    count, whole = counted(recipe, path), counted(recipe, path, alone=True)
    width = BYTES[recipe.model.dtype]
    text = configuration(path).text_config
    kept = (MASTER - width) * text.vocab_size * text.hidden_size  # embeddings stay in float32 where they are frozen
    sharded = shards_of(recipe, processes) > 1
    learning = MASTER * count.learn // shards_of(recipe, processes)
    copies = width * count.copied
    if sharded:
        copies += width * count.learn  # the whole policy that samples are drawn from
    apart = len(recipe.train.tasks) > 1 and not recipe.train.cycle
    referred = build.needs_reference(recipe) and not recipe.model.lora  # adapters share their weights with it
    frozen = recipe.model.lora is not None or "language_model" not in recipe.model.train
    return Peak(
        weights=learning + width * count.frozen + kept * frozen,
        optimiser=2 * learning,
        sampler=copies,
        reference=(width * (whole.learn + whole.frozen) + kept) * referred,
        gradients=learning * (2 if apart else 1),
        activations=_gathered(recipe, path) if sharded else 0,
        sampling=0,
    )


def enough(recipe: Recipe, processes: int) -> int:
    """Bytes that suffice to have all triplets of a process in one pass, found quickly: a generous bound of `peak`.

    A token has about 10 numbers of a layer's width and 5 of its MLP's, and 5 of the vocabulary, in float32.
    """
    path = build.locate(recipe.model.checkpoint)
    config, there = configuration(path), standing(recipe, processes, path)
    text, groups = config.text_config, share_of(recipe, processes)
    room = max(text.vocab_size, config.vq_config.num_embeddings)
    each = text.num_hidden_layers * (20 * text.hidden_size + 10 * text.intermediate_size) + 6 * room
    read = longest(recipe, path)
    passes = [
        groups * (read[task] + 2 * recipe.sampling.group_size * (read[task] + new_tokens(recipe, config, task)))
        for task in recipe.train.tasks
    ]
    return there.held + there.gradients + max(passes) * each * MASTER


def share_of(recipe: Recipe, processes: int) -> int:
    """Triplets of one process in a step."""
    return max(1, recipe.train.batch_size // processes)


def shards_of(recipe: Recipe, processes: int) -> int:
    """Processes that what learns is shared out over."""
    return processes if recipe.distributed.strategy == "fsdp" else 1


def longest(recipe: Recipe, path: str) -> Mapping[Task, int]:
    """Tokens of each task's longest prompt among triplets spread over the data; LONGEST where they cannot be read."""
    types = recipe.data.answer_types if "mm2t" in recipe.train.tasks else triplets.TYPES
    return _longest(recipe.data.model_dump_json(), recipe.seed, tuple(recipe.train.tasks), tuple(types), path)


@cache
def _longest(
    section: str, seed: int, tasks: tuple[Task, ...], types: tuple[AnswerType, ...], path: str
) -> Mapping[Task, int]:
    build.policy_class("janus")  # mends torchvision before transformers' image classes are imported
    from corl_cli.models.prompts import Frame

    try:
        items = triplets.load(Data.model_validate_json(section), seed, tasks=tasks, answer_types=types)
        prompts = Frame.load(path).prompts
    except CorlError:
        return LONGEST
    seen = [items[index] for index in range(0, len(items), -(-len(items) // SEEN))]
    asked = {"t2i": lambda: prompts.draw([item.prompt for item in seen])}
    asked["mm2t"] = lambda: prompts.ask([item.question for item in seen])
    return {task: int(asked[task]()[0].shape[1]) for task in tasks}


def counted(recipe: Recipe, path: str, *, alone: bool = False) -> Count:
    """Parameters of the weights at `path`, as the recipe has them learn, or `alone`."""
    model = recipe.model
    if alone:
        return _count(model.family, path, ("language_model",), None)
    return _count(model.family, path, tuple(model.train), model.lora.model_dump_json() if model.lora else None)


@cache
def _count(family: str, path: str, train: tuple[str, ...], adapters: str | None) -> Count:
    spec = Lora.model_validate_json(adapters) if adapters else None
    return build.policy_class(family).count(path, train=train, adapters=spec)  # type: ignore[arg-type]


@cache
def configuration(path: str) -> JanusConfig:
    """The configuration of the weights at `path`; CorlError."""
    build.policy_class("janus")  # mends torchvision before transformers' image classes are imported
    from corl_cli.models.loading import read_config

    return read_config(path)


def new_tokens(recipe: Recipe, config: JanusConfig, task: Task) -> int:
    """The most tokens of a completion."""
    return int(config.vq_config.num_patches**2) if task == "t2i" else recipe.sampling.mm2t.max_new_tokens


def _passes(recipe: Recipe, path: str, triplets: int = 1) -> list[Layout]:
    """A backward pass of each task over so many triplets."""
    from corl_cli.pipelines.activations import Layout

    config, read = configuration(path), longest(recipe, path)
    return [
        Layout(
            task=task,
            prompts=triplets * (2 if _guided(recipe, task) else 1),
            group_size=recipe.sampling.group_size if recipe.train.method == "rl" else 1,
            prompt_tokens=read[task],
            new_tokens=new_tokens(recipe, config, task),
        )
        for task in recipe.train.tasks
    ]


def _guided(recipe: Recipe, task: Task) -> bool:
    """Whether the unconditional half is scored with a gradient."""
    drawing = recipe.sampling.t2i
    return task == "t2i" and drawing.cfg_weight != 1 and drawing.scoring == "guided"


def rounds(recipe: Recipe, task: Task, path: str, share: int) -> tuple[int, int]:
    """In how many rounds a process samples its prompts, and the bytes of keys and values of a prompt.

    See JanusPolicy.complete: as few equal rounds as its room for keys and values allows.
    """
    from corl_cli.models.decoder import cache_bytes
    from corl_cli.models.janus import cache_room

    config = configuration(path)
    halves = 2 if task == "t2i" and recipe.sampling.t2i.cfg_weight != 1 else 1
    dtype, lengths = getattr(torch, recipe.model.dtype), (longest(recipe, path)[task], recipe.sampling.group_size)
    each = halves * cache_bytes(config.text_config, dtype, *lengths, new_tokens(recipe, config, task))
    return -(-share // max(1, cache_room(counted(recipe, path).learn) // each)), each


def _sampling(recipe: Recipe, path: str, task: Task, share: int) -> int:
    """Keys and values of the prompts that are sampled at once, the logits of a step, and a batch of pictures."""
    from corl_cli.models.images import PIXELS

    config, group, drawing = configuration(path), recipe.sampling.group_size, task == "t2i"
    parts, each = rounds(recipe, task, path, share)
    halves = 2 if drawing and recipe.sampling.t2i.cfg_weight != 1 else 1
    prompts, rows = -(-share // parts), group * halves
    vocabulary = config.vq_config.num_embeddings if drawing else config.text_config.vocab_size
    logits = 4 * 4 * prompts * rows * vocabulary  # float32: logits, noise, probabilities, their order
    pixels = min(PIXELS, share * group * config.vision_config.image_size**2)
    pictures = PICTURE * 4 * pixels * config.vq_config.base_channels if drawing else 0
    return int(prompts * each + max(logits, pictures))


def _gathered(recipe: Recipe, path: str) -> int:
    """Weights and gradients that FSDP holds whole for a while: two layers, and what is outside of the layers."""
    text = configuration(path).text_config
    count = counted(recipe, path)
    outside = min(count.learn, 2 * text.vocab_size * text.hidden_size)
    return 2 * MASTER * (outside + 2 * (count.learn - outside) // text.num_hidden_layers)
