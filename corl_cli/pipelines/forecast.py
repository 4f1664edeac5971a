"""Whether a recipe fits into GPUs, how long it takes there, and what to change where it does not fit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe, Train
from corl_cli.core.types import Task
from corl_cli.pipelines import build, costs, estimate, plan
from corl_cli.pipelines.checks import check_batch
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.efficiency import MEASURED, Efficiency
from corl_cli.pipelines.estimate import Peak
from corl_cli.pipelines.machine import Machine

WORTH = 0.95  # of what was needed before: a change after which more is needed helps too little to be told
LEFT_OUT = "Left out: rewards, held-out readings, pictures from tokens, checkpoints, and traffic between GPUs."


@dataclass(frozen=True, kw_only=True)
class Change:
    """A way to need less memory: what to add to the command, what is then needed, and whether that fits."""

    add: str
    needed: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A recipe on so many GPUs: seconds of one step by phase, of all steps in hours where their number is known.

    `basis` says in sentences what the numbers stand on.
    """

    machine: Machine
    gpus: int
    micro_batch_size: int
    peak: Peak
    fits: bool
    seconds: dict[str, float]
    steps: int | None
    changes: list[Change]
    basis: list[str]

    @property
    def hours(self) -> float | None:
        """Of the whole run."""
        return self.steps * sum(self.seconds.values()) / 3600 if self.steps else None


def forecast(
    changed: Callable[[Sequence[str]], Recipe], machine: Machine, gpus: int, efficiency: Efficiency
) -> Forecast:
    """What the recipe that `changed` makes of no more changes takes; CorlError where its model is not known."""
    with readable(changed) as (changed, remarks):
        recipe = changed([])
        check_batch(recipe.train, gpus)
        size = plan.chosen(recipe, gpus, plan.MARGIN * machine.memory) or 1
        peak = estimate.peak(recipe, gpus, size)
        steps, why = _steps(recipe)
        fits = peak.total <= plan.MARGIN * machine.memory
        found = seconds(recipe, machine, gpus, efficiency)
        return Forecast(
            machine=machine,
            gpus=gpus,
            micro_batch_size=size,
            peak=peak,
            fits=fits,
            seconds=found,
            steps=steps,
            changes=[] if fits else list(remedies(changed, machine, gpus, size, peak)),
            basis=[
                *remarks,
                f"Memory is estimated; it fits where it takes {plan.MARGIN:.0%} of the GPU's at most.",
                f"Seconds: the least work by bandwidth and arithmetic rate, by the share of them that is reached: "
                f"{_told(found, efficiency, recipe)}; {efficiency.source}. Prompts and answers are taken to be as "
                "long as the longest.",
                LEFT_OUT,
                *why,
            ],
        )


def seconds(recipe: Recipe, machine: Machine, gpus: int, efficiency: Efficiency) -> dict[str, float]:
    """Seconds of each phase of a step; where tasks take turns, of a mean step."""
    config = estimate.configuration(path := build.locate(recipe.model.checkpoint))
    read, learn = estimate.longest(recipe, path), estimate.counted(recipe, path).learn
    width = costs.BYTES[recipe.model.dtype]
    rates = machine.bandwidth, machine.arithmetic[recipe.model.dtype]
    prompts = recipe.train.batch_size / gpus
    group = recipe.sampling.group_size if recipe.train.method == "rl" else 1
    turns = len(recipe.train.tasks) if recipe.train.cycle else 1
    found = {}
    for task in recipe.train.tasks:
        rows = (prompts, group, read[task], estimate.new_tokens(recipe, config, task))
        if recipe.train.method == "rl":
            halves = 2 if task == "t2i" and recipe.sampling.t2i.cfg_weight != 1 else 1
            rounds, _ = estimate.rounds(recipe, task, path, -(-recipe.train.batch_size // gpus))
            part = (prompts / rounds, *rows[1:])
            sampled = (
                costs.drawing(config, *part, halves, width) if task == "t2i" else costs.writing(config, *part, width)
            )
            found[f"rollout {task}"] = (sampled * rounds).seconds(*rates) / efficiency.of("rollout", task)
        scored = (recipe.algo.beta > 0) + (recipe.algo.num_iterations > 1)
        if scored:
            once = costs.scoring(config, task, *rows, width)
            found[f"reference {task}"] = (once * scored).seconds(*rates) / efficiency.of("update", task)
        passes = _updating(recipe, config, task, rows, width) * recipe.algo.num_iterations
        found[f"update {task}"] = passes.seconds(*rates) / efficiency.of("update", task)
    step = costs.stepping(learn // estimate.shards_of(recipe, gpus)) * recipe.algo.num_iterations
    found = {phase: value / turns for phase, value in found.items()}
    return found | {"optimiser": step.seconds(*rates) / efficiency.of("optimiser")}


def remedies(
    changed: Callable[[Sequence[str]], Recipe], machine: Machine, gpus: int, size: int, peak: Peak
) -> Iterator[Change]:
    """What makes a recipe need less than all before it, the least harmful first: time alone, GPUs, what is learnt.

    `size` and `peak` are what it has without.
    """
    recipe, kept, least = changed([]), list[str](), peak.total

    def tried(add: str) -> Change | None:
        """A change that helps, which all further ones come on top of."""
        nonlocal least
        found = _change(changed, [*kept, add], machine, gpus, least)
        if found:
            kept.append(add)
            least = found.needed
        return found

    offers = []
    if not recipe.model.gradient_checkpointing:
        offers.append("model.gradient_checkpointing=true")
    smaller = ["train.micro_batch_size=1"] if size > 1 and recipe.algo.loss != "bnpo" else []
    yield from filter(None, map(tried, [*offers, *smaller]))
    train = changed(kept).train
    for many in (2, 4, 8):
        if many > gpus and _shared(train, many):
            found = _change(changed, [*kept, "distributed.strategy=fsdp"], machine, many, least, f" --gpus {many}")
            if found and (found.fits or not _shared(train, 2 * many) or many == 8):
                yield found
                break
    offers = []
    if not recipe.model.lora and recipe.model.train == ["language_model"]:
        offers += ["model.lora={}", *(add for add in smaller if add not in kept)]
    if recipe.sampling.group_size > 2:
        offers.append(f"sampling.group_size={max(2, recipe.sampling.group_size // 2)}")
    for add in offers:
        if least > plan.MARGIN * machine.memory and (found := tried(add)):
            yield found


def _change(
    changed: Callable[[Sequence[str]], Recipe],
    adds: Sequence[str],
    machine: Machine,
    gpus: int,
    least: int,
    more: str = "",
) -> Change | None:
    """The recipe with these changes, where it then needs less than the least so far."""
    recipe, room = changed(adds), plan.MARGIN * machine.memory
    if estimate.floor(recipe, gpus).total >= WORTH * least:
        return None  # without looking at backward passes
    needed = estimate.peak(recipe, gpus, plan.chosen(recipe, gpus, room) or 1).total
    words = " ".join(f"--set {add}" for add in adds) + more
    return Change(add=words, needed=needed, fits=needed <= room) if needed < WORTH * least else None


@contextmanager
def readable(
    changed: Callable[[Sequence[str]], Recipe],
) -> Iterator[tuple[Callable[[Sequence[str]], Recipe], list[str]]]:
    """Recipes whose model's configuration can be read, and what to say where it is one that corl knows."""
    from corl_cli.pipelines.random_weights import JANUS, janus_config

    checkpoint = changed([]).model.checkpoint
    known = checkpoint.rpartition("/")[2].lower()
    try:
        estimate.configuration(build.locate(checkpoint))
    except CorlError:
        if known not in JANUS:
            raise
    else:
        yield changed, []
        return
    with tempfile.TemporaryDirectory(prefix="corl-plan-") as folder:
        janus_config(JANUS[known]).save_pretrained(folder)
        yield partial(_placed, changed, folder), [f"{checkpoint} cannot be read here: shapes as corl knows them."]


def _placed(changed: Callable[[Sequence[str]], Recipe], folder: str, adds: Sequence[str]) -> Recipe:
    recipe = changed(adds)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"checkpoint": folder})})


def _updating(recipe: Recipe, config: Any, task: Task, rows: tuple[float, int, float, float], width: int) -> Work:
    """Both passes, and those of the unconditional half where it is scored."""
    checkpointing, adapters = recipe.model.gradient_checkpointing, recipe.model.lora is not None
    work = costs.updating(config, task, *rows, width, checkpointing, adapters)
    drawing = recipe.sampling.t2i
    if task == "mm2t" or drawing.cfg_weight == 1 or drawing.scoring == "conditional":
        return work
    return work * 2 if drawing.scoring == "guided" else work + costs.scoring(config, task, *rows, width)


def _steps(recipe: Recipe) -> tuple[int | None, list[str]]:
    """Steps of the run, where the data say how many, and what to say where not."""
    if recipe.train.max_steps:
        return recipe.train.max_steps, []
    try:
        return plan.num_steps(recipe), []
    except CorlError as error:
        return None, [f"How many steps is not known: {error.message} Say how many: --set train.max_steps=N"]


def _shared(train: Train, gpus: int) -> bool:
    """Whether a step can be shared evenly by so many GPUs and their backward passes."""
    return train.batch_size % (gpus * (train.micro_batch_size or 1)) == 0


def _told(seconds: Mapping[str, float], efficiency: Efficiency, recipe: Recipe) -> str:
    """The shares that were used, in words."""
    phases = [phase for phase in MEASURED if any(name.startswith(phase) for name in seconds)]
    parts = [f"{phase} {task} {efficiency.of(phase, task):.0%}" for phase in phases for task in recipe.train.tasks]
    return ", ".join([*parts, f"optimiser {efficiency.of('optimiser'):.0%}"])
