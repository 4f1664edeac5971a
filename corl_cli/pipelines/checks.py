"""Everything that could keep a training run from starting, found at once and before any weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from corl_cli.core import kinds
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.kinds import Kind
from corl_cli.core.loader import Draft, refuse
from corl_cli.core.recipe import Recipe, Train
from corl_cli.core.run_dir import RunDir
from corl_cli.data import triplets
from corl_cli.pipelines import build, launch, plan
from corl_cli.pipelines.abilities import PROBE_SEED
from corl_cli.pipelines.study_arms import STUDIES, demand
from corl_cli.trainer import checkpoint

Attempt = tuple[tuple[str, ...], Callable[[], object]]  # keys that it reads, and what raises where they are faulty


def check(draft: Draft, wanted: list[Kind], num_processes: int | None = None, resumed: Path | None = None) -> None:
    """UsageError with a line for each reason why this recipe, of one of these kinds, cannot be trained here.

    Without `num_processes` there are as many as a launcher has started; `resumed` is the run to go on with. A check
    that reads keys which are faulty themselves is left out.
    """
    recipe = draft.recipe
    fits = (
        ("train.method", "train.tasks", "train.cycle", "data.answer_types", "algo.beta"),
        partial(kinds.check, recipe, wanted),
    )
    _refuse(draft, *_failures(draft, [fits, *_attempts(recipe, recipe.name, num_processes, resumed)]))


def check_study(draft: Draft, kind: str) -> None:
    """See `check`, of the recipe of a study and of every training in it; what only a training suffers has its name."""
    recipe = draft.recipe
    fits = (("train", "eval.probes", "algo.dynamic_sampling"), partial(demand, recipe))
    faults, hints = _failures(draft, [fits, *_attempts(recipe, recipe.name)])
    if not draft.faults:
        more, others = _arms(kind, recipe, faults)
        faults, hints = [*faults, *more], list(dict.fromkeys([*hints, *others]))
    _refuse(draft, faults, hints)


def _arms(kind: str, recipe: Recipe, known: list[str]) -> tuple[list[str], list[str]]:
    """The faults of a study's trainings that are not known of its recipe, each at the first that has it, and hints."""
    faults: dict[str, str] = {}
    hints: list[str] = []
    try:
        arms = [arm for arm in STUDIES[kind](recipe).arms.values() if arm.recipe]
    except CorlError as error:
        unknown = [line for line in error.message.splitlines() if line not in known]
        return unknown, [error.hint] if unknown and error.hint else []
    for arm in arms:
        assert arm.recipe
        found, mending = build.failures(attempt for _, attempt in _attempts(arm.recipe, recipe.name))
        unknown = [line for line in found if line not in known and line not in faults]
        faults |= {line: f"{arm.name}: {line}" for line in unknown}
        hints += mending if unknown else []
    return list(faults.values()), hints


def _attempts(
    recipe: Recipe, name: str, num_processes: int | None = None, resumed: Path | None = None
) -> list[Attempt]:
    """What every training needs; `name` is what its user calls the recipe."""
    here = num_processes or int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    everywhere = num_processes or int(os.environ.get("WORLD_SIZE", 1))
    return [
        *(((), attempt) for attempt in build.bindings(recipe)),
        *(((), partial(build.ready_for, spec, task, name)) for task, spec in build.specs(recipe)),
        (("model.checkpoint", "model.family"), partial(_check_model, recipe, resumed)),
        (("train.batch_size", "train.micro_batch_size"), partial(check_batch, recipe.train, everywhere)),
        ((), partial(launch.check_devices, here)),
        (("data", "train"), partial(plan.batches, recipe)),
        (("data", "eval.probes", "train.tasks"), partial(_check_probes, recipe)),
    ]


def _failures(draft: Draft, attempts: list[Attempt]) -> tuple[list[str], list[str]]:
    return build.failures(attempt for keys, attempt in attempts if draft.tells(*keys))


def _refuse(draft: Draft, faults: list[str], hints: list[str]) -> None:
    """UsageError with these faults and the draft's own, if there are any."""
    if draft.faults:
        raise refuse(
            draft.source, [*draft.faults, *faults], "\n".join([*hints, "See every key with: corl recipe schema"])
        )
    if faults:
        raise UsageError("\n".join(faults), "\n".join(hints) or None)


def _check_model(recipe: Recipe, resumed: Path | None) -> None:
    """CorlError when the weights cannot be trained: those of the run that is resumed, else the start.

    A resumed run needs its start only as the frozen reference. What a family of the user's own reads is not known,
    unless its class is one of Janus.
    """
    family = build.policy_class(recipe.model.family)
    from corl_cli.models import fitness
    from corl_cli.models.janus import JanusPolicy

    if not issubclass(family, JanusPolicy):
        return
    run = RunDir(resumed) if resumed and (resumed / "recipe.yaml").exists() else None
    saved = checkpoint.complete(run.checkpoints) if run else []
    if saved:
        try:
            fitness.check(saved[-1])
        except CorlError as error:
            raise checkpoint.damaged(saved[-1], error.message) from error
    if saved and not build.needs_reference(recipe):
        return
    start = str(run.provenance()["start"]) if run else build.locate(recipe.model.checkpoint)
    if run and len(Path(start).parts) > 2 and not Path(start).exists():  # no hub id has more
        raise CorlError(
            f"{run.path} still needs the weights that it started from, and {start} is gone.",
            f"Put it back, or write its new place into {run.provenance_file} (start).",
        )
    fitness.check(start)


def check_batch(train: Train, processes: int) -> None:
    """UsageError when the triplets of a step cannot be shared evenly by processes and backward passes."""
    batch, micro = train.batch_size, train.micro_batch_size or 1
    if batch % processes:
        faults = [f"train.batch_size: {batch} triplets cannot be shared evenly by {processes} processes."]
        unit = processes * micro
        if micro > 1 and batch % micro:
            faults.append(f"train.micro_batch_size: {micro} does not divide the {batch} triplets either.")
        raise UsageError(
            "\n".join(faults), f"Use a multiple of {unit}: --set train.batch_size={-(-batch // unit) * unit}"
        )
    share = batch // processes
    if share % micro:
        raise UsageError(
            f"train.micro_batch_size: {micro} does not divide the {share} triplets that a process has in a step.",
            f"Use a divisor of {share}, such as {max(size for size in range(1, micro) if share % size == 0)}.",
        )


def _check_probes(recipe: Recipe) -> None:
    """UsageError when the held-out data lack what the trained tasks need."""
    section = recipe.eval.probes
    if section:
        triplets.load(recipe.data, PROBE_SEED, split=section.split, tasks=recipe.train.tasks)
