"""Training from a recipe to a finished run: open the run directory, build, loop, summarise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, broadcast_object_list

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import flatten
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Task
from corl_cli.data import triplets
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines import build, launch, plan, report
from corl_cli.pipelines.abilities import PROBE_SEED, probes
from corl_cli.rewards.base import Reward
from corl_cli.trainer import album, checkpoint
from corl_cli.trainer.distributed import Replicated, Strategy
from corl_cli.trainer.journal import Display, Journal
from corl_cli.trainer.loop import Trainer
from corl_cli.trainer.sharded import Sharded


def train(recipe: Recipe, run: RunDir, display: Display, *, last: bool = True) -> None:
    """Train in an open run directory from its newest checkpoint, or from the recipe's start.

    `last` says that no other run follows in this process: the processes part.
    CorlError when the run fails, Interrupted (a CorlError) when it was asked to stop; the state is saved in both cases
    as far as the last due checkpoint.
    """
    accelerator = _accelerator(recipe, run.path)
    with launch.watching():
        _train(recipe, run, display, accelerator)
        if last:
            accelerator.end_training()
        else:
            for tracker in accelerator.trackers:
                tracker.finish()


def _train(recipe: Recipe, run: RunDir, display: Display, accelerator: Accelerator) -> None:
    processes = accelerator.num_processes
    recipe = plan.resumed(recipe, run.provenance().get("micro_batch_size"), processes)
    batches = plan.batches(recipe, accelerator.process_index, processes)
    num_steps = recipe.train.max_steps or len(batches)
    saved = checkpoint.complete(run.checkpoints)
    start = str(run.provenance()["start"])
    memory = plan.check_memory(recipe, processes, str(saved[-1]) if saved else start)
    display.say(
        f"preflight: {num_steps:,} steps of {recipe.train.batch_size} triplets x {recipe.sampling.group_size} samples; "
        f"{memory / 2**30:.2f} GiB for weights and optimiser; {recipe.train.micro_batch_size} of a process' "
        f"{recipe.train.batch_size // processes} triplets in a backward pass"
    )
    if warning := plan.tightness(recipe, processes, str(saved[-1]) if saved else start):
        display.say(f"preflight: {warning}; the size was noted in {run.provenance_file} (micro_batch_size)")
    torch.manual_seed(recipe.seed)  # fresh adapters are the same in every process
    policy = _resumed(recipe, saved[-1]) if saved else build.build_learner(recipe.model, start, resume=False)
    policy = policy.to(accelerator.device)
    policy.learn(recipe.train.tasks)
    if recipe.model.gradient_checkpointing:
        policy.checkpoint_layers()
    reference = None
    if build.needs_reference(recipe):
        reference = build.build_reference(recipe.model, start, policy).to(accelerator.device)
    if sharded := recipe.distributed.strategy == "fsdp" and processes > 1:
        display.say(f"preflight: what learns is sharded over {processes} processes")
    elif recipe.distributed.strategy == "fsdp":
        display.say("preflight: one process, nothing to shard")
    strategy: Strategy = Sharded(policy, getattr(torch, recipe.model.dtype)) if sharded else Replicated(policy)
    optimizer = build.build_optimizer(policy, recipe.optim)
    state = checkpoint.State()
    if saved:
        state, progress = checkpoint.load(saved[-1])
        strategy.restore(optimizer, progress)
    if accelerator.is_main_process:
        run.truncate_after(state.step if saved else -1)
    if recipe.tracking.trackers:
        accelerator.init_trackers(recipe.name, config={key: str(value) for key, value in flatten(recipe).items()})
    loaded: dict[tuple[Task, str], Reward] = {}
    rubrics = build.build_rubrics(recipe.rewards, recipe.train.tasks, accelerator.device, reference, loaded)
    journal = Journal(
        run=run,
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        optimizer=optimizer,
        probes=probes(recipe, accelerator.device, reference, loaded),
        samples=_samples(recipe),
        display=display,
        num_steps=num_steps,
        before=state.seconds,
        refresh=partial(report.refresh, run, display.say),
    )
    trainer = Trainer(
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        reference=reference,
        rubrics=rubrics,
        batches=batches,
        optimizer=optimizer,
        journal=journal,
        num_steps=num_steps,
        skipped=state.skipped,
    )
    with journal:
        trainer.fit(state.step)


def open_run(recipe: Recipe, out: Path | None, *, resume: bool, command: Sequence[str]) -> RunDir:
    """The run directory to train in; the main process makes it, the others wait for its name.

    Without `out` a new runs/NAME is taken. UsageError when `out` exists and `resume` is not asked for, or when its
    recipe is another one.
    """
    accelerator = _accelerator(recipe, None)
    opened: list[object] = [None]
    if accelerator.is_main_process:
        try:
            opened[0] = _open(recipe, out, resume, command).path
        except CorlError as error:
            opened[0] = error
    broadcast_object_list(opened)
    if isinstance(opened[0], CorlError):
        raise opened[0]
    return RunDir(Path(str(opened[0])))


def steps_done(run: RunDir) -> int:
    """The step of the run's newest checkpoint, 0 when it has none."""
    saved = checkpoint.complete(run.checkpoints)
    return int(saved[-1].name.removeprefix("step-")) if saved else 0


def is_complete(recipe: Recipe, run: RunDir) -> bool:
    """Whether the run has reached its last step."""
    return steps_done(run) == plan.num_steps(recipe)


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return PartialState().is_main_process


def _open(recipe: Recipe, out: Path | None, resume: bool, command: Sequence[str]) -> RunDir:
    if resume and out is None:
        raise UsageError("--resume goes on in --out, and no --out was given.", "Name the run: --out runs/NAME --resume")
    path = out or RunDir.next_free(Path("runs"), recipe.name)
    if resume and (path / "recipe.yaml").exists():
        return RunDir.open(path, recipe)
    build.ready(recipe)
    data = plan.batches(recipe).triplets
    fingerprint = {"path": recipe.data.path, "split": recipe.data.split, "triplets": len(data), "first": data[0].id}
    # before anything is written: it needs the checkpoint to be there
    plan.check_memory(recipe, PartialState().num_processes)
    start = Path(build.locate(recipe.model.checkpoint))
    facts = {
        "data": fingerprint,
        "start": str(start.resolve()) if start.is_dir() else str(start),
        "processes": PartialState().num_processes,
        "micro_batch_size": plan.sized(recipe, PartialState().num_processes).train.micro_batch_size,
    }
    return RunDir.create(path, recipe, command=command, facts=facts)


def _accelerator(recipe: Recipe, folder: Path | None) -> Accelerator:
    """Processes, device, reductions and trackers; corl casts, accumulates and shards by itself."""
    launch.check(recipe)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=(recipe.tracking.trackers or None) if folder else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=launch.WAIT)],
        project_dir=folder,
    )
    kinds = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in kinds:
        raise UsageError(
            f"corl trains on GPUs of CUDA and on CPUs, not under {accelerator.distributed_type.value}.",
            "Launch it with corl train … --num-processes N, torchrun, or accelerate launch --multi_gpu.",
        )
    return accelerator


def _resumed(recipe: Recipe, saved: Path) -> UnifiedPolicy:
    try:
        return build.build_learner(recipe.model, saved, resume=True)
    except CorlError as error:
        raise checkpoint.damaged(saved, error.message) from error


def _samples(recipe: Recipe) -> list[triplets.Triplet]:
    split = recipe.eval.probes.split if recipe.eval.probes else recipe.data.split
    return list(triplets.load(recipe.data, PROBE_SEED, split=split, limit=album.TRIPLETS, tasks=recipe.train.tasks))
