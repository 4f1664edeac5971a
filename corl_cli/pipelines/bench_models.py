"""What `corl bench` measures: a model by name, recipes for it, and the world's data at its size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Data, Model, Recipe
from corl_cli.core.types import LazyTriplets, Task, Triplet
from corl_cli.data import triplets
from corl_cli.models.base import Count
from corl_cli.models.janus import JanusPolicy, cache_room
from corl_cli.models.loading import read_config
from corl_cli.pipelines import build, plan, random_weights
from corl_cli.pipelines.machine import GIB
from corl_cli.pipelines.random_weights import JANUS, Shape
from corl_cli.world.drawing import IMAGE_SIZE

if TYPE_CHECKING:
    from transformers import JanusConfig

    from corl_cli.models.base import UnifiedPolicy

WORLD_DATA = ("data.path=world", "data.split=train", "data.holdout=0.0", "data.columns={}", "eval.probes=null")
# Rewards without weights of their own; what the paper's would add, `corl bench rewards` tells.
WEIGHTLESS = (
    "rewards.t2i=[{name: cycle, perceptual: pixel, text_weight: 0.0}, {name: matching}]",
    "rewards.mm2t=[{name: accuracy}, {name: format}]",
)
WORLD_STAGES = ("world/unified", "world/refined-t2i")
STAGES = ("unified/janus-pro-1b", "refined/janus-pro-1b-t2i")
NEW_TOKENS = {"world": 40, "small": 8, "tiny": 64}  # of an answer; other models write as many as the recipes say
PROMPTS = {"small": 4, "tiny": 1}  # of a step; other models take as many as the recipes say
WORLD_PROMPTS = 12  # of a rollout and of an update, as many as the world's recipes have
ON_CPU = ("model.dtype=float32",)  # bfloat16 is slower where a processor has no units for it


@dataclass(frozen=True)
class Subject:
    """A model to be measured: weights on disk or the hub, or random ones of a `shape`, whose configuration alone is at
    `path`.
    """

    name: str
    path: str
    shape: Shape | None = None

    @property
    def weights(self) -> str:
        """What the weights are, in words."""
        if self.shape:
            return f"random weights of the shapes of {self.name}"
        return "the shipped tiny Janus" if self.name == "world" else self.name

    @cached_property
    def config(self) -> JanusConfig:
        """Its configuration."""
        return read_config(self.path)

    @cached_property
    def count(self) -> Count:
        """Its parameters, as the paper's first stage trains them."""
        return JanusPolicy.count(self.path)

    @property
    def side(self) -> int:
        """Pixels of the images that it sees and draws."""
        return int(self.config.vision_config.image_size)

    @property
    def of_the_world(self) -> bool:
        """Whether it is as small as the shipped tiny Janus."""
        return not self.shape and self.side == IMAGE_SIZE

    @property
    def family(self) -> tuple[str, str]:
        """The recipes of the paper's two stages for a model of this size."""
        return WORLD_STAGES if self.of_the_world else STAGES

    @property
    def prompts(self) -> int:
        """Prompts of a rollout and of an update by default."""
        return WORLD_PROMPTS if self.of_the_world else 1

    @property
    def repeats(self) -> int:
        """Timed runs by default."""
        return 5 if self.of_the_world or self.name == "small" else 3

    @property
    def new_tokens(self) -> int:
        """The longest answer by default."""
        return NEW_TOKENS["world"] if self.of_the_world else NEW_TOKENS.get(self.name, 512)

    def frozen(self, dtype: str, device: torch.device, seed: int = 0) -> JanusPolicy:
        """The policy, of which nothing learns; it samples as many prompts at once as one that does.

        `seed` decides random weights.
        """
        if self.shape:
            torch.manual_seed(seed)
            policy = random_weights.janus(self.shape, device, dtype, train=())
        else:
            policy = _janus(build.build_policy(Model.model_validate({"checkpoint": self.path, "dtype": dtype})))
        policy.cache_bytes = cache_room(self.count.learn)
        return policy.to(device).requires_grad_(False).eval()

    def learner(self, recipe: Recipe, device: torch.device) -> JanusPolicy:
        """The policy as a run of the recipe trains it."""
        model = recipe.model
        torch.manual_seed(recipe.seed)
        if self.shape:
            policy = random_weights.janus(self.shape, device, model.dtype, train=model.train, adapters=model.lora)
        else:
            policy = _janus(build.build_learner(model, self.path, resume=False)).to(device)
        policy.learn(recipe.train.tasks)
        if model.gradient_checkpointing:
            policy.checkpoint_layers()
        return policy.eval()

    def reference(self, recipe: Recipe, learner: JanusPolicy) -> UnifiedPolicy | None:
        """The frozen start as a run of the recipe holds it; None where it needs none."""
        if not build.needs_reference(recipe):
            return None
        if self.shape and not recipe.model.lora:  # its weights are not on disk
            return self.frozen(recipe.model.dtype, learner.device, recipe.seed)
        return build.build_reference(recipe.model, self.path, learner).to(learner.device)

    def triplets(self, data: Data, seed: int, limit: int) -> Sequence[Triplet]:
        """Triplets of the data with images of the model's size."""
        return Enlarged(triplets.load(data, seed, limit=limit), self.side)


class Enlarged(LazyTriplets):
    """Triplets with their images at another side in pixels."""

    def __init__(self, triplets: Sequence[Triplet], side: int) -> None:
        self.triplets, self.side = triplets, side

    def __len__(self) -> int:
        return len(self.triplets)

    def at(self, index: int) -> Triplet:
        triplet = self.triplets[index]
        return replace(triplet, image=triplet.image.resize((self.side, self.side)))


@contextmanager
def opened(name: str) -> Iterator[Subject]:
    """The model of this name: `world`, a size of random weights, or a folder, a run or a hub id; CorlError."""
    if name not in JANUS:
        yield Subject(name, build.locate(name))
        return
    with tempfile.TemporaryDirectory(prefix="corl-bench-") as folder:
        random_weights.janus_config(JANUS[name]).save_pretrained(folder)
        random_weights.janus_processor(JANUS[name]).save_pretrained(folder)
        yield Subject(name, folder, JANUS[name])


def stages(subject: Subject, names: Sequence[str], changes: Sequence[str]) -> list[Recipe]:
    """Recipes for the model, on the world's data with rewards that need no weights; UsageError for bad names.

    Without names those of the paper's two stages: unified, and refined for drawing with a KL to the frozen start.
    `changes` are settings in place of the recipes', as of --set.
    """
    own = [*WORLD_DATA, *WEIGHTLESS, *(() if torch.cuda.is_available() else ON_CPU)]
    if not names:
        own += settings(new_tokens=subject.new_tokens, prompts=PROMPTS.get(subject.name))
    recipes = [load(name, [*own, *changes]) for name in names or subject.family]
    return [_with_weights(recipe, subject) for recipe in recipes]


def settings(**given: object) -> list[str]:
    """Changes to a recipe for options that were given: prompts, group_size, micro_batch_size, new_tokens."""
    keys = {
        "prompts": "train.batch_size",
        "group_size": "sampling.group_size",
        "micro_batch_size": "train.micro_batch_size",
        "new_tokens": "sampling.mm2t.max_new_tokens",
    }
    return [f"{keys[name]}={value}" for name, value in given.items() if value is not None]


def require(recipe: Recipe, there: int) -> Recipe:
    """The recipe with micro-batches as a run of it has them, of as many prompts as there are at most.

    CorlError when weights, gradients and optimiser alone take more than the bytes that are there.
    """
    _demand(recipe.name, "weights, gradients and optimiser", plan.check_memory(recipe), there)
    size = recipe.train.micro_batch_size
    if size and size > recipe.train.batch_size:
        recipe = plan.with_micro_batches(recipe, recipe.train.batch_size)
    return plan.sized(recipe)


def require_weights(subject: Subject, there: int) -> None:
    """CorlError when the weights take more than the bytes that are there, in float32 as they are read or made."""
    _demand(subject.name, "weights", 4 * (subject.count.learn + subject.count.frozen), there)


@contextmanager
def fitting(name: str, prompts: int, group_size: int) -> Iterator[None]:
    """Turn a GPU's lack of memory into a CorlError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CorlError(
            f"{name}: the {torch.cuda.mem_get_info()[1] / GIB:.0f} GiB of this GPU do not suffice for "
            f"{prompts} prompts x {group_size} samples.",
            "Take fewer: --prompts N or --group-size N; let fewer into a backward pass: --set train.micro_batch_size=1",
        ) from error


def prompt_tokens(policy: JanusPolicy, task: Task, items: Sequence[Triplet]) -> float:
    """Tokens of a prompt, those of an image that is asked about included: the mean, without padding."""
    if task == "t2i":
        _, mask = policy.prompts.draw([triplet.prompt for triplet in items])
    else:
        _, mask = policy.prompts.ask([triplet.question for triplet in items])
    return float(mask.sum(1, dtype=torch.float32).mean())


def _demand(name: str, what: str, needed: int, there: int) -> None:
    if needed > there:
        raise CorlError(
            f"{name} needs {needed / GIB:.1f} GiB for {what} alone; {there / GIB:.1f} are there.",
            "Take a larger machine, or other weights: --model world",
        )


def _with_weights(recipe: Recipe, subject: Subject) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"checkpoint": subject.path})})


def _janus(policy: UnifiedPolicy) -> JanusPolicy:
    if not isinstance(policy, JanusPolicy):
        raise CorlError(f"{type(policy).__name__} is no Janus, which this measures.", "Give a Janus checkpoint.")
    return policy
