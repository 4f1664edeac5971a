"""CoRL's training loop: for each batch of triplets draw and answer, reward, compare within groups, update.

Unified training is the tasks {t2i, mm2t}, refined training a set of one; nothing else differs. Read `fit` first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Algo, Recipe
from corl_cli.core.types import Experience, RewardResult, Rollout, Task
from corl_cli.models.base import UnifiedPolicy
from corl_cli.trainer import objective
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.metrics import finish, summarise
from corl_cli.trainer.preflight import check_identity
from corl_cli.trainer.rollout import generate
from corl_cli.trainer.schedule import learning_rate
from corl_cli.trainer.types import Batches, Rubric

Metrics = dict[str, float]


@dataclass(kw_only=True)
class Trainer:
    """Everything one run needs, already built; the journal is told of each step and writes what is due."""

    recipe: Recipe
    accelerator: Accelerator
    policy: UnifiedPolicy
    reference: UnifiedPolicy | None
    rubrics: Mapping[Task, Rubric]
    batches: Batches
    optimizer: Optimizer
    journal: Journal
    num_steps: int

    def __post_init__(self) -> None:
        self.samplings = {task: self.recipe.sampling.of(task) for task in self.recipe.train.tasks}
        self.model = self.accelerator.prepare(self.policy).eval()  # the policy as DDP sees it; self.policy stays bare
        self.seconds: Metrics = {}

    def fit(self, start: int = 0) -> None:
        """Train from optimiser step `start` to the end; raises what stopped it, with the state saved."""
        self.journal.begin(start)
        for step in range(start, self.num_steps):
            with self.timed("rollout"):
                key = f"train|{self.recipe.seed}|{step}"
                rollouts = generate(self.policy, self.batches[step], self.samplings, key=key)
            if step <= start + 1:  # once more after an update: a sampler with stale weights shows only then
                for rollout in rollouts.values():
                    identity = check_identity(self.policy, rollout, self.recipe.model.dtype)
                    self.journal.identity(step + 1, identity, aloud=step == start)
            with self.timed("reward"):
                rewards = {task: self.rubrics[task](rollout, self.policy) for task, rollout in rollouts.items()}
            with self.timed("update"):
                batch = self.experience(rollouts, rewards)
                metrics = self.update(batch, step)
            metrics |= finish(gather_object([summarise(batch, self.recipe)]))
            metrics |= {f"time/{phase}": value for phase, value in self.seconds.items()}
            self.journal.step(step + 1, metrics, batch)

    def experience(
        self, rollouts: Mapping[Task, Rollout], rewards: Mapping[Task, RewardResult]
    ) -> dict[Task, Experience]:
        """Advantages by the recipe's credit, and the log-probs to compare with."""
        advantages = credit(rewards, self.recipe.algo, self.recipe.sampling.group_size)
        batch = {}
        for task, rollout in rollouts.items():
            values, rows = advantages[task]
            if self.total(rows.sum()) == 0:
                raise _nothing_scored(rewards)
            with torch.no_grad():
                old = self.policy(rollout) if self.recipe.algo.num_iterations > 1 else None
                ref = self.reference(rollout) if self.reference and self.recipe.algo.beta > 0 else None
            batch[task] = Experience(
                rollout=rollout, rewards=rewards[task], advantages=values, rows=rows, old_logps=old, ref_logps=ref
            )
        return batch

    def update(self, batch: Mapping[Task, Experience], step: int) -> Metrics:
        """`num_iterations` optimiser steps on one batch; returns the metrics of the last."""
        rate = learning_rate(self.recipe.optim, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for _ in range(self.recipe.algo.num_iterations):
            metrics = self.accumulate(batch)
            norm = self.accelerator.clip_grad_norm_(self.policy.trainable(), self.recipe.optim.max_grad_norm)
            if not torch.isfinite(norm):
                raise CorlError(
                    f"The gradient of step {step + 1} is not finite; the weights were left as they were.",
                    "Lower optim.lr, or look at the rewards; checkpoints before this step are whole.",
                )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return metrics | {"lr": rate, "grad_norm": float(norm)}

    def accumulate(self, batch: Mapping[Task, Experience]) -> Metrics:
        """Add up the gradients of all micro-batches; only the last backward pass synchronises processes.

        The last is always mm2t when both tasks train: a t2i pass does not touch lm_head, and DDP would wait for it.
        """
        pieces = [(task, piece) for task in sorted(batch, reverse=True) for piece in self.micro_batches(batch[task])]
        counted = {task: self.total(experience.rows.sum()) for task, experience in batch.items()}
        metrics: Metrics = {}
        self.model.train()  # only here: checkpointed layers corrupt what is sampled or scored with a cache
        for index, (task, piece) in enumerate(pieces):
            last = index == len(pieces) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, sums = self.loss(piece)
                weight = self.recipe.algo.mm2t_weight if task == "mm2t" and self.separate else 1.0
                # DDP averages gradients over processes, the loss is a mean over all their rows
                scale = weight * self.accelerator.num_processes / max(1.0, counted[task])
                self.accelerator.backward(loss * scale)
            for name, value in sums.items():
                metrics[f"{name}/{task}"] = metrics.get(f"{name}/{task}", 0.0) + float(value)
        self.model.eval()
        return {name: self.total(value) / max(1.0, counted[_task(name)]) for name, value in metrics.items()}

    def loss(self, piece: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed loss of the rows of one micro-batch, and the sums that are logged."""
        rollout = piece.rollout
        mask, rows = rollout.completion_mask.float(), piece.rows.to(rollout.completion_ids.device)
        logps = self.model(rollout)
        old = logps.detach() if piece.old_logps is None else piece.old_logps
        values, clipped = objective.policy_loss(
            logps, old, piece.advantages.to(logps.device), self.recipe.algo.clip_eps
        )
        sums = {"nll": -logps.detach(), "clipped": clipped.float()}
        if piece.ref_logps is not None:
            kl = objective.kl_divergence(logps, piece.ref_logps)
            values = values + self.recipe.algo.beta * kl
            sums["kl"] = kl.detach()
        sums["loss"] = values.detach()
        reduced = {name: objective.sequence_mean(value, mask, rows) for name, value in sums.items()}
        return objective.sequence_mean(values, mask, rows), reduced

    def micro_batches(self, experience: Experience) -> Iterator[Experience]:
        """The experience in pieces of `micro_batch_size` whole groups."""
        size = self.recipe.sampling.group_size
        groups = len(experience.rollout) // size
        step = self.recipe.train.micro_batch_size or groups
        for start in range(0, groups, step):
            chosen = range(start, min(start + step, groups))
            rows = slice(chosen.start * size, chosen.stop * size)
            yield replace(
                experience,
                rollout=experience.rollout.select(chosen),
                advantages=experience.advantages[rows],
                rows=experience.rows[rows],
                old_logps=None if experience.old_logps is None else experience.old_logps[rows],
                ref_logps=None if experience.ref_logps is None else experience.ref_logps[rows],
            )

    @property
    def separate(self) -> bool:
        """Whether each task has an advantage of its own."""
        return self.recipe.algo.credit == "per_task"

    def total(self, value: float | Tensor) -> float:
        """A number summed over all processes."""
        tensor = torch.as_tensor(float(value), dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Measure one phase of a step in seconds."""
        begun = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - begun


def credit(rewards: Mapping[Task, RewardResult], algo: Algo, group_size: int) -> dict[Task, tuple[Tensor, Tensor]]:
    """Advantages [N] and counted rows [N] of each task.

    `joint` (paper): row i is the pair of drawing i and answer i, one advantage for both, and a row missing in either
    task is left out of both. `per_task`: each task's own.
    """
    if algo.credit == "per_task" or len(rewards) == 1:
        return {
            task: (objective.group_advantages(r.total, r.valid, group_size, scale=algo.scale_advantages), r.valid)
            for task, r in rewards.items()
        }
    t2i, mm2t = rewards["t2i"], rewards["mm2t"]
    rows = t2i.valid & mm2t.valid
    total = objective.joint_rewards(t2i.total, mm2t.total, algo.mm2t_weight)
    advantages = objective.group_advantages(total, rows, group_size, scale=algo.scale_advantages)
    return {"t2i": (advantages, rows), "mm2t": (advantages, rows)}


def _nothing_scored(rewards: Mapping[Task, RewardResult]) -> CorlError:
    """The error of a step whose every row is masked, with the first reasons that the rewards gave."""
    reasons = []
    for task, result in rewards.items():
        for name in result.terms:
            missing = (~torch.isfinite(result.parts[name])).nonzero().flatten().tolist()
            if missing:
                why = f": {result.notes[name][missing[0]]}" if name in result.notes else ""
                reasons.append(f"{task} {name} failed for {len(missing)} of {len(result.total)}{why}")
    return CorlError(f"No sample of this step has a reward. {'; '.join(reasons)}", "Mend the rewards above.")


def _task(name: str) -> Task:
    return "t2i" if name.endswith("/t2i") else "mm2t"
