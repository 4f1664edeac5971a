"""What training steps cost: seconds of each phase, tokens per second and memory, by the real loop."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from corl_cli.core.errors import CorlError
from corl_cli.core.loader import load
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import LazyTriplets, Triplet
from corl_cli.data import triplets
from corl_cli.data.batches import ShuffledBatches
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines import build, plan, random_weights
from corl_cli.pipelines.memory import Memory
from corl_cli.trainer.distributed import Replicated
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.loop import Trainer
from corl_cli.trainer.probes import Reading
from corl_cli.world.drawing import IMAGE_SIZE

GIB = 2**30
WORLD_DATA = ("data.path=world", "data.split=train", "data.holdout=0.0", "data.columns={}", "eval.probes=null")
# Rewards without weights of their own; what the paper's would add, `corl bench rewards` tells.
WEIGHTLESS = (
    "rewards.t2i=[{name: cycle, perceptual: pixel, text_weight: 0.0}, {name: matching}]",
    "rewards.mm2t=[{name: accuracy}, {name: format}]",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Weights to take steps with: the recipes of the paper's two stages for them, and what differs from those."""

    recipes: tuple[str, str]
    changes: tuple[str, ...] = ()


LARGE = ("unified/janus-pro-1b", "refined/janus-pro-1b-t2i")
SIZES = {
    "world": Size(recipes=("world/unified", "world/refined-t2i")),
    "small": Size(recipes=LARGE, changes=("sampling.mm2t.max_new_tokens=8", "train.batch_size=4")),
    "janus-pro-1b": Size(recipes=LARGE),
}


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Means over the steps after a warm-up: seconds of each phase and of them all; tokens are those of completions.

    `peak_gib` is the GPU's, else the process' above what it held before (None where the system does not tell).
    """

    stage: str
    prompts: int
    group_size: int
    rollout: float
    reward: float
    reference: float
    update: float
    step: float
    images_per_second: float
    tokens_per_second: float
    peak_gib: float | None


def stages(names: Sequence[str], size: str, prompts: int | None, overrides: Sequence[str] = ()) -> list[Recipe]:
    """The recipes to take steps of, on the world's data with rewards that need no weights; UsageError for bad names.

    Without names those of the paper's two stages: unified, and refined for drawing with a KL to the frozen start.
    """
    own = [*WORLD_DATA, *WEIGHTLESS, *([f"train.batch_size={prompts}"] if prompts else []), *overrides]
    changes = () if names else SIZES[size].changes
    return [load(name, [*changes, *own]) for name in names or SIZES[size].recipes]


def bench_step(recipes: Sequence[Recipe], size: str, steps: int, shown: Progress) -> Iterator[StepCost]:
    """Take `steps` steps of each recipe after one that does not count; CorlError where memory does not suffice."""
    with tempfile.TemporaryDirectory(prefix="corl-bench-") as folder:
        placed = [with_weights(recipe, size, Path(folder)) for recipe in recipes]
        for recipe in placed:
            require(recipe, _free_memory())
        for recipe in placed:
            run = RunDir(Path(tempfile.mkdtemp(dir=folder)))
            try:
                yield _measure(recipe, size, steps, run, shown)
            except torch.OutOfMemoryError as error:
                raise CorlError(
                    f"{recipe.name}: the {torch.cuda.mem_get_info()[1] / GIB:.0f} GiB of this GPU do not suffice for a "
                    f"step of {recipe.train.batch_size} prompts x {recipe.sampling.group_size} samples.",
                    "Let fewer prompts into a backward pass, --set train.micro_batch_size=1, or take fewer samples.",
                ) from error


def with_weights(recipe: Recipe, size: str, folder: Path) -> Recipe:
    """The recipe with weights of this size: the shipped ones, or in `folder` the configuration alone of random ones."""
    if size != "world":
        random_weights.janus_config(random_weights.JANUS[size]).save_pretrained(folder)
    model = recipe.model.model_copy(update={"checkpoint": "world" if size == "world" else str(folder)})
    return recipe.model_copy(update={"model": model})


def require(recipe: Recipe, there: int) -> None:
    """CorlError when weights, gradients and optimiser alone take more than the bytes that are there."""
    needed = plan.check_memory(recipe)
    if needed > there:
        raise CorlError(
            f"{recipe.name} needs {needed / GIB:.1f} GiB for weights, gradients and optimiser alone; "
            f"{there / GIB:.1f} are there.",
            "Take a larger machine, or other weights: --size world",
        )


def _measure(recipe: Recipe, size: str, steps: int, run: RunDir, shown: Progress) -> StepCost:
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    memory = Memory(accelerator.device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of the stage before
    meter = Meter(recipe.name, shown)
    trainer = _trainer(recipe, size, steps, run, accelerator, meter)
    trainer.fit(start=steps)  # see _trainer
    peak = memory.peak()
    return _cost(recipe, meter.steps[1:], None if peak is None else peak / 1024)


def _cost(recipe: Recipe, steps: Sequence[Mapping[str, float]], peak: float | None) -> StepCost:
    def mean(phase: str) -> float:
        return statistics.fmean(step.get(f"time/{phase}", 0.0) for step in steps)

    phases = {phase: mean(phase) for phase in ("rollout", "reward", "reference", "update")}
    rows = recipe.train.batch_size * recipe.sampling.group_size
    tokens = {
        task: rows * statistics.fmean(step.get(f"length/{task}", 0.0) for step in steps) for task in ("t2i", "mm2t")
    }
    images = rows * sum("length/t2i" in step for step in steps) / len(steps)
    seconds = sum(phases.values())
    return StepCost(
        stage=recipe.name,
        prompts=recipe.train.batch_size,
        group_size=recipe.sampling.group_size,
        **phases,
        step=seconds,
        images_per_second=images / seconds,
        tokens_per_second=sum(tokens.values()) / seconds,
        peak_gib=peak,
    )


def _trainer(recipe: Recipe, size: str, steps: int, run: RunDir, accelerator: Accelerator, meter: Meter) -> Trainer:
    """A trainer whose step number `steps` is the warm-up and `2 * steps` the last.

    The warm-up looks at each task's own gradient, as a run does now and then: the peak has it, the times do not. The
    journal waits for one step more, with which it would save a checkpoint.
    """
    tracking = recipe.tracking.model_copy(update={"gradients_every": steps + 1, "trackers": []})
    saving = recipe.checkpoint.model_copy(update={"every": 2 * steps + 2})
    recipe = recipe.model_copy(update={"tracking": tracking, "checkpoint": saving})
    policy = _learner(recipe, size, accelerator.device)
    reference = _reference(recipe, size, accelerator.device)
    strategy = Replicated(policy)
    optimizer = build.build_optimizer(policy, recipe.optim)
    journal = Journal(
        run=run,
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        optimizer=optimizer,
        probes=None,
        samples=[],
        display=meter,
        num_steps=2 * steps + 2,
    )
    return Trainer(
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        reference=reference,
        rubrics=build.build_rubrics(recipe.rewards, recipe.train.tasks, accelerator.device, reference),
        batches=_batches(recipe, size, steps),
        optimizer=optimizer,
        journal=journal,
        num_steps=2 * steps + 1,
    )


@dataclass
class Meter:
    """Keeps the metrics of every step of a run, and shows that it goes on."""

    name: str
    shown: Progress
    steps: list[dict[str, float]] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Nothing: a preflight is no news here."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Display.step."""
        self.steps.append(dict(metrics))
        self.shown.advance(note=self.name)

    def readings(self, step: int, readings: Sequence[Reading]) -> None:
        """Nothing: there are no probes."""


class Enlarged(LazyTriplets):
    """Triplets with their images at another side in pixels."""

    def __init__(self, triplets: Sequence[Triplet], side: int) -> None:
        self.triplets, self.side = triplets, side

    def __len__(self) -> int:
        return len(self.triplets)

    def at(self, index: int) -> Triplet:
        triplet = self.triplets[index]
        return replace(triplet, image=triplet.image.resize((self.side, self.side)))


def _batches(recipe: Recipe, size: str, steps: int) -> ShuffledBatches:
    wanted = recipe.train.batch_size * (steps + 1)
    found = Enlarged(triplets.load(recipe.data, recipe.seed, limit=wanted), side(size))
    return ShuffledBatches(found, recipe.train.batch_size, epochs=1, seed=recipe.seed)


def side(size: str) -> int:
    """Pixels of the images that weights of this size see and draw."""
    return IMAGE_SIZE if size == "world" else int(random_weights.JANUS[size].vision["image_size"])


def _learner(recipe: Recipe, size: str, device: torch.device) -> UnifiedPolicy:
    model = recipe.model
    torch.manual_seed(recipe.seed)
    if size == "world":
        policy = build.build_learner(model, build.locate(model.checkpoint), resume=False).to(device)
    else:
        shape = random_weights.JANUS[size]
        policy = random_weights.janus(shape, device, model.dtype, train=model.train, adapters=model.lora)
    policy.learn(recipe.train.tasks)
    if model.gradient_checkpointing:
        policy.checkpoint_layers()
    return policy


def _reference(recipe: Recipe, size: str, device: torch.device) -> UnifiedPolicy | None:
    if not build.needs_reference(recipe):
        return None
    torch.manual_seed(recipe.seed)
    if size == "world":
        policy = build.build_policy(recipe.model).to(device)
    else:
        policy = random_weights.janus(random_weights.JANUS[size], device, recipe.model.dtype)
    return policy.requires_grad_(False).eval()


def _free_memory() -> int:
    """Bytes of the GPU that are free; without one, of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
