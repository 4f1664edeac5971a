"""From the names in a recipe to live objects; `check` binds everything that needs no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.names import Kind
from corl_cli.core.recipe import Model, Optim, Recipe, RewardSpec, Rubrics
from corl_cli.core.requirements import demand
from corl_cli.core.types import TASKS, Task
from corl_cli.data import templates
from corl_cli.rewards import bind

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from corl_cli.models.base import UnifiedPolicy
    from corl_cli.rewards.base import Reward, Rubric

MODELS = {"janus": "corl_cli.models.janus:JanusPolicy"}


def check(recipe: Recipe) -> None:
    """Bind every name of a recipe without loading weights; UsageError with all faults at once."""
    faults, hints = failures(bindings(recipe))
    if faults:
        raise UsageError("\n".join(faults), "\n".join(hints) or None)


def bindings(recipe: Recipe) -> list[Callable[[], object]]:
    """What binds each name of a recipe, and raises UsageError where it cannot."""
    return [
        partial(templates.check, recipe.data.instruction),
        partial(policy_class, recipe.model.family),
        partial(_check_trackers, recipe.tracking.trackers),
        partial(_check_learning, recipe),
        partial(_check_attention, recipe.model),
        *(partial(bind, spec, task) for task, spec in specs(recipe)),
    ]


def failures(attempts: Iterable[Callable[[], object]]) -> tuple[list[str], list[str]]:
    """What is wrong and the hints, each line once, of all attempts that raise a CorlError."""
    faults: dict[str, None] = {}
    hints: dict[str, None] = {}
    for attempt in attempts:
        try:
            attempt()
        except CorlError as fault:
            faults |= dict.fromkeys(fault.message.splitlines())
            hints |= dict.fromkeys((fault.hint or "").splitlines())
    return list(faults), list(hints)


def ready(recipe: Recipe) -> None:
    """CorlError that names everything the recipe's rewards need and this machine lacks."""
    needs = (need for task, spec in specs(recipe) for need in bind(spec, task).requirements())
    demand(needs, f"{recipe.name} cannot run here: it")


def ready_for(spec: RewardSpec, task: Task, name: str) -> None:
    """See `ready`, of one reward of the recipe of this name."""
    demand(bind(spec, task).requirements(), f"{name} cannot run here: it")


def _check_trackers(names: Sequence[str]) -> None:
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UsageError(
                f"tracking.trackers: there is no tracker '{name}'.", f"Choose among {', '.join(LOGGER_TYPE_TO_CLASS)}."
            )
        if name not in map(str, get_available_trackers()):
            raise UsageError(f"tracking.trackers: {name} is not installed.", f"Install it with pip install {name}")


def _check_attention(model: Model) -> None:
    from transformers.utils import is_flash_attn_2_available

    if model.attention != "flash_attention_2":
        return
    if model.dtype == "float32":
        raise UsageError(
            "model.attention: flash-attn computes in 16 bits, and model.dtype is float32.",
            "Choose --set model.dtype=bfloat16, or --set model.attention=sdpa",
        )
    if not is_flash_attn_2_available():
        raise UsageError(
            "model.attention: flash-attn is not installed, or this machine has no GPU for it.",
            "Install it with pip install flash-attn --no-build-isolation, or --set model.attention=sdpa",
        )


def _check_learning(recipe: Recipe) -> None:
    from corl_cli.models import lora
    from corl_cli.models.parts import TOUCHED

    if recipe.model.lora:
        lora.check(recipe.model.lora)
    idle = [part for part in recipe.model.train if not set(TOUCHED[part]) & set(recipe.train.tasks)]
    if len(idle) == len(recipe.model.train):
        raise UsageError(
            f"model.train: {' and '.join(recipe.train.tasks)} touches nothing of {', '.join(idle)}, so nothing learns.",
            "Name a part that it does touch, such as language_model.",
        )


def specs(recipe: Recipe) -> list[tuple[Task, RewardSpec]]:
    """Every reward that a recipe names, the probes' included."""
    sections = [recipe.rewards] + ([recipe.eval.probes.rewards] if recipe.eval.probes else [])
    return [(task, spec) for section in sections for task in TASKS for spec in getattr(section, task)]


def policy_class(family: str) -> type[UnifiedPolicy]:
    """The class of a registered model family, or of the user's `my_pkg.module:Class`; UsageError when there is none."""
    from corl_cli.models import torchvision_guard

    torchvision_guard.check()  # before transformers' image classes are imported
    return Kind("model family", "corl_cli.models.base:UnifiedPolicy", MODELS).resolve(family)


def locate(checkpoint: str) -> str:
    """Where weights are: the shipped tiny Janus for 'world', the newest checkpoint of a run or, for RUN@best, its best,
    else the name itself.

    UsageError for a name that is neither a folder nor an id that the hub could have.
    """
    from corl_cli import world
    from corl_cli.trainer.checkpoint import best, complete

    if checkpoint == "world":
        return str(world.checkpoint())
    path = Path(checkpoint.removesuffix("@best"))
    if (path / "recipe.yaml").exists():
        saved = complete(path / "checkpoints")
        if not saved:
            raise CorlError(f"The run {path} has no checkpoint yet.", f"Go on with it: --out {path} --resume")
        if not checkpoint.endswith("@best"):
            return str(saved[-1])
        if not (found := best(path / "checkpoints")):
            raise CorlError(
                f"The run {path} has no best checkpoint: its recipe asked for none.",
                f"Take its newest, {path}, or train with --set checkpoint.best=pareto",
            )
        return str(found)
    if not (checkpoint and Path(checkpoint).expanduser().is_dir()):
        _check_id(checkpoint)
    return checkpoint


def _check_id(checkpoint: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    run, at, _ = checkpoint.rpartition("@")
    if at and (Path(run) / "recipe.yaml").exists():
        raise UsageError(f"{checkpoint}: a run takes @best only.", f"Use {run}@best, or {run} for the newest.")
    parent = Path(checkpoint).parent
    if parent != Path() and parent.is_dir():  # a folder was meant: the name of an owner is none here
        near = get_close_matches(Path(checkpoint).name, [inside.name for inside in parent.iterdir()], 1)
        raise UsageError(
            f"There is no folder {checkpoint}.",
            f"Did you mean {parent / near[0]}?" if near else f"Name one that is in {parent}.",
        )
    try:
        validate_repo_id(checkpoint)
    except HFValidationError as error:
        raise UsageError(
            f"'{checkpoint}' is neither a folder here nor the id of a model of the hub.",
            "Give a corl run, RUN@best, a folder in transformers' format, or a hub id.",
        ) from error


def build_policy(model: Model, checkpoint: str | Path | None = None) -> UnifiedPolicy:
    """The policy that a recipe names, or the one saved at `checkpoint`; its adapters are folded into the weights."""
    return _load(model, checkpoint or locate(model.checkpoint))


def build_learner(model: Model, checkpoint: str | Path, *, resume: bool) -> UnifiedPolicy:
    """The policy saved at `checkpoint`, to be trained: what the recipe says learns, adapters go on with `resume`."""
    return _load(model, checkpoint, train=model.train, adapters=model.lora, resume=resume)


def build_reference(model: Model, start: str | Path, learner: UnifiedPolicy | None) -> UnifiedPolicy:
    """The frozen start of a run, whose log-probs are to the bit those that the learner had there.

    Where adapters learn it stands on the learner's own weights under them, which are those of the start in a resumed
    run too: adapters that the start came with are folded in, and new ones begin on that. Else, and without a learner,
    it is loaded, and linear layers are held in the precision they compute in.
    """
    import torch

    from corl_cli.models import lora
    from corl_cli.models.frozen import freeze

    if model.lora and learner is not None:
        return lora.bare(learner)
    loaded = _load(model, start, train=() if model.lora else model.train)
    return freeze(loaded, getattr(torch, model.dtype))


def _load(model: Model, path: str | Path, **learning: Any) -> UnifiedPolicy:
    from transformers.utils import logging

    logging.disable_progress_bar()
    _check_attention(model)
    return policy_class(model.family).load(path, dtype=model.dtype, attention=model.attention, **learning)


def build_optimizer(policy: UnifiedPolicy, optim: Optim) -> Optimizer:
    """AdamW over what learns; after sharding, which puts other parameters in their places.

    On a GPU it is the fused one: torch's default there would take as much memory again as the weights for a moment.
    """
    from torch.autograd.graph import increment_version
    from torch.optim import AdamW

    learning = policy.trainable()
    fused = learning[0].is_cuda or None
    optimizer = AdamW(learning, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=fused)
    # the fused one does not say that it has changed them, by which the sampler knows (Decoder.refresh)
    optimizer.register_step_post_hook(lambda *_: increment_version(learning))
    return optimizer


def build_rubrics(
    rubrics: Rubrics,
    tasks: Sequence[Task],
    device: torch.device,
    reference: UnifiedPolicy | None,
    loaded: dict[tuple[Task, str], Reward] | None = None,
) -> dict[Task, Rubric]:
    """One rubric per task that has rewards, its models loaded.

    A reward with the same options as one in `loaded` is that one, so that training and its probes share models; what
    is new is added there.
    """
    from corl_cli.rewards.base import Criterion, Rubric

    loaded = {} if loaded is None else loaded
    built = {}
    for task in tasks:
        criteria = []
        for spec in getattr(rubrics, task):
            key = (task, json.dumps([spec.name, spec.options], sort_keys=True))
            if key not in loaded:
                loaded[key] = bind(spec, task)
                loaded[key].load(device, reference)
            criteria.append(
                Criterion(
                    name=spec.name,
                    weight=spec.weight,
                    on_error=spec.on_error,
                    normalise=spec.normalise,
                    reward=loaded[key],
                )
            )
        if criteria:
            built[task] = Rubric(task, criteria)
    return built


def needs_reference(recipe: Recipe) -> bool:
    """Whether a frozen copy of the start is needed: for the KL, or because a reward asks."""
    return recipe.algo.beta > 0 or any(bind(spec, task).needs_reference for task, spec in specs(recipe))
