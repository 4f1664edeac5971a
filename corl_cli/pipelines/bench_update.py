"""How fast corl makes an update's gradients, next to a plain update by transformers' own forward passes (plain.py) of
the same weights from the same rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Experience, RewardResult, Rollout, Task, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import build, costs, plain
from corl_cli.pipelines.bench import Bench, Turns, compared, in_turn, percent
from corl_cli.pipelines.bench_models import Subject, fitting, prompt_tokens, require
from corl_cli.pipelines.bench_rollout import Prompts
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import free_memory
from corl_cli.trainer.distributed import Replicated
from corl_cli.trainer.update import Updater


@dataclass(frozen=True, kw_only=True)
class UpdateSpeed:
    """Forward and backward passes of one task's rollouts, or of both tasks'; no optimiser step.

    Seconds are medians over repeats, tokens those of completions; ratio and shares as in RolloutSpeed. The differences
    say that both did the same: the largest of a log-prob, and the norm of that of the gradients as a share of the
    gradient's. What is of the plain update is None where it did not fit into the GPU's memory. Memory is corl's in the
    passes, gradients included, above the weights; see Peak.
    """

    task: str
    dtype: str
    prompts: int
    group_size: int
    micro_batch_size: int | None
    gradient_checkpointing: bool
    repeats: int
    tokens: float
    seconds: float
    tokens_per_second: float
    plain_tokens_per_second: float | None
    ratio_to_transformers: float | None
    ratio_least: float | None
    ratio_largest: float | None
    logp_difference: float | None
    gradient_difference: float | None
    bandwidth_share: float
    arithmetic_share: float
    peak_gib: float | None
    reserved_gib: float | None
    note: str


class Difference(NamedTuple):
    """Between what corl computes and what the plain update does: of log-probs, and of gradients, relative."""

    logps: float
    gradients: float


class Pass(NamedTuple):
    """What one task's passes took, and what they had to do."""

    turns: Turns
    work: Work
    difference: Difference | None


def bench_update(subject: Subject, recipe: Recipe, bench: Bench) -> Iterator[UpdateSpeed]:
    """The gradient work of one step of the recipe by both, in turn; CorlError where memory does not suffice."""
    recipe = require(recipe, free_memory(bench.device))
    accelerator = Accelerator(cpu=bench.device.type == "cpu", mixed_precision="no")
    items = list(subject.triplets(recipe.data, recipe.seed, recipe.train.batch_size))
    with fitting(recipe.name, recipe.train.batch_size, recipe.sampling.group_size):
        policy = subject.learner(recipe, bench.device)
        updater = Updater(
            recipe=recipe,
            accelerator=accelerator,
            strategy=Replicated(policy),
            optimizer=build.build_optimizer(policy, recipe.optim),
            num_steps=1,
        )
        found = {}
        for task in recipe.train.tasks:
            found[task] = _pass(subject, updater, policy, recorded(policy, recipe, task, items), bench)
            yield _speed(task, recipe, found[task], bench)
            bench.shown.advance(note=task)
    if len(found) > 1:
        yield _speed("both", recipe, _together(list(found.values())), bench)


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for the eye."""
    ratio = row["ratio_to_transformers"]
    return {
        "task": row["task"],
        "tokens": f"{row['tokens']:.0f}",
        "seconds": row["seconds"],
        "tokens/s": f"{row['tokens_per_second']:.0f}",
        "plain": None if ratio is None else f"{row['plain_tokens_per_second']:.0f}",
        "ratio": None if ratio is None else f"{ratio:.2f}",
        "range": None if ratio is None else f"{row['ratio_least']:.2f}-{row['ratio_largest']:.2f}",
        "d logps": None if ratio is None else f"{row['logp_difference']:.0e}",
        "d gradient": None if ratio is None else f"{row['gradient_difference']:.0e}",
        "bandwidth": percent(row["bandwidth_share"]),
        "arithmetic": percent(row["arithmetic_share"]),
        "GiB": row["peak_gib"],
    }


def recorded(policy: JanusPolicy, recipe: Recipe, task: Task, items: Sequence[Triplet]) -> Experience:
    """Completions that the policy makes, with advantages of random rewards; nothing is decoded."""
    sampling = recipe.sampling.of(task)
    prompts, group = Prompts.of(policy, task, items), sampling.group_size
    tokens, written, logps = prompts.complete(policy, sampling, "bench|record")
    rows = len(tokens)
    generator = torch.Generator().manual_seed(recipe.seed)
    rewards = torch.rand(len(items), group, generator=generator)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)
    every = torch.ones(rows, dtype=torch.bool)
    rollout = Rollout(
        task=task,
        triplets=[triplet for triplet in items for _ in range(group)],
        outputs=[""] * rows,
        sampling=sampling,
        prompt_ids=prompts.ids.repeat_interleave(group, 0),
        prompt_mask=prompts.mask.repeat_interleave(group, 0),
        pixel_values=prompts.pixels,
        completion_ids=tokens,
        completion_mask=written,
        logps=logps,
        truncated=torch.zeros(rows, dtype=torch.bool, device=tokens.device),
    )
    return Experience(
        rollout=rollout,
        rewards=RewardResult(task=task, total=rewards.flatten(), parts={}, valid=every),
        advantages=advantages.flatten(),
        rows=every,
        old_logps=None,
        ref_logps=None,
    )


def _pass(subject: Subject, updater: Updater, policy: JanusPolicy, experience: Experience, bench: Bench) -> Pass:
    rollout, recipe = experience.rollout, updater.recipe
    tokens, pieces = int(rollout.completion_mask.sum()), list(updater.micro_batches(experience))

    def ours() -> int:
        updater.accumulate({rollout.task: experience})
        return tokens

    def theirs() -> int:
        policy.train()
        if recipe.model.gradient_checkpointing:
            plain.checkpoint_layers(policy.model)
        try:
            for piece in pieces:
                with _autocast(policy):
                    loss = plain.loss(policy.model, piece, len(rollout))
                loss.backward()
        finally:
            policy.eval()
            if recipe.model.gradient_checkpointing:
                policy.checkpoint_layers()
        return tokens

    turns = in_turn(_fresh(ours, policy), _fresh(theirs, policy), bench)
    difference = _difference(ours, theirs, policy, pieces) if turns.theirs else None
    work = costs.updating(
        subject.config,
        rollout.task,
        recipe.train.batch_size,
        rollout.sampling.group_size,
        prompt_tokens(policy, rollout.task, rollout.triplets),
        tokens / len(rollout),
        policy.dtype.itemsize,
        recipe.model.gradient_checkpointing,
        recipe.model.lora is not None,
    )
    return Pass(turns, work, difference)


def _fresh(work: Callable[[], int], policy: nn.Module) -> Callable[[], int]:
    """The work, after which its gradients are dropped, also where it failed."""

    def run() -> int:
        try:
            return work()
        finally:
            policy.zero_grad(set_to_none=True)

    return run


def _difference(
    ours: Callable[[], int], theirs: Callable[[], int], policy: JanusPolicy, pieces: Sequence[Experience]
) -> Difference:
    with torch.no_grad(), _autocast(policy):
        logps = max(
            float((policy(piece.rollout).logps - plain.logps(policy.model, piece.rollout)).abs().max())
            for piece in pieces
        )
    gradients = []
    for work in (theirs, ours):
        work()
        found = [parameter.grad for parameter in policy.trainable()]
        gradients.append([None if gradient is None else gradient.cpu() for gradient in found])
        policy.zero_grad(set_to_none=True)
    return Difference(logps, relative(*gradients))


def relative(left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> float:
    """The norm of left - right as a share of that of right; no gradient is one of zeros."""
    apart = whole = 0.0
    for mine, other in zip(left, right, strict=True):
        if other is not None:
            whole += float(other.square().sum(dtype=torch.float64))
        if (delta := other if mine is None else mine if other is None else mine - other) is not None:
            apart += float(delta.square().sum(dtype=torch.float64))
    return math.sqrt(apart / whole) if whole else math.nan


def _together(passes: Sequence[Pass]) -> Pass:
    """One task's passes after the other's, as a step of both takes them."""
    first, second = passes
    difference = None
    if first.difference and second.difference:
        difference = Difference(*map(max, first.difference, second.difference))
    return Pass(first.turns + second.turns, first.work + second.work, difference)


def _speed(task: str, recipe: Recipe, found: Pass, bench: Bench) -> UpdateSpeed:
    turns, difference = found.turns, found.difference
    return UpdateSpeed(
        **compared(turns, found.work, bench, recipe.model.dtype),
        task=task,
        prompts=recipe.train.batch_size,
        group_size=recipe.sampling.group_size,
        micro_batch_size=recipe.train.micro_batch_size,
        gradient_checkpointing=recipe.model.gradient_checkpointing,
        plain_tokens_per_second=turns.their_rate,
        logp_difference=difference.logps if difference else None,
        gradient_difference=difference.gradients if difference else None,
        note="" if turns.theirs else "the plain update did not fit into the GPU's memory",
    )


def _autocast(policy: JanusPolicy) -> torch.autocast:
    """The precision that corl's own passes have."""
    return torch.autocast(policy.device.type, dtype=torch.bfloat16, enabled=policy.dtype == torch.bfloat16)
