"""The update of the policy on one batch of experience: losses, gradients of micro-batches, optimiser steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Experience, Rollout, Task
from corl_cli.trainer import objective
from corl_cli.trainer.distributed import Gradients, Strategy
from corl_cli.trainer.objective import Counts
from corl_cli.trainer.schedule import learning_rate

Metrics = dict[str, float]


@dataclass(kw_only=True)
class Updater:
    """Changes the policy's weights; `skipped` counts the last steps in a row that were not taken."""

    recipe: Recipe
    accelerator: Accelerator
    strategy: Strategy
    optimizer: Optimizer
    num_steps: int
    skipped: int = 0

    def update(self, batch: Mapping[Task, Experience], step: int) -> Metrics:
        """`num_iterations` optimiser steps on one batch; returns the metrics of the last.

        A gradient that is not finite or explodes takes no step; CorlError after too many batches in a row of which no
        step was taken.
        """
        optim = self.recipe.optim
        rate = learning_rate(optim, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        due = (step + 1) % self.recipe.tracking.gradients_every == 0
        taken = 0
        for _ in range(iterations := self.recipe.algo.num_iterations):
            metrics = self.accumulate(batch, apart=due and len(batch) > 1)
            norm = self.strategy.clip(optim.max_grad_norm)
            if math.isfinite(norm) and norm <= (optim.skip_above or math.inf):
                self.optimizer.step()
                taken += 1
            self.optimizer.zero_grad(set_to_none=True)
        self.skipped = 0 if taken else self.skipped + 1
        if self.skipped > optim.max_skipped:
            raise CorlError(
                f"The gradient of step {step + 1} has norm {norm:.3g}, and the {optim.max_skipped} steps before it "
                "were skipped as well; the weights were left as they were.",
                "Lower optim.lr, or look at the rewards; checkpoints before this step are whole.",
            )
        self.strategy.refresh()
        return metrics | {"lr": rate, "grad_norm": norm, "skipped": float(iterations - taken)}

    def accumulate(self, batch: Mapping[Task, Experience], *, apart: bool = False) -> Metrics:
        """Add up the gradients of all micro-batches and processes; `apart` also measures each task's own."""
        found: dict[Task, Gradients] = {}
        metrics: Metrics = {}
        for task, experience in batch.items():
            metrics |= self._accumulate(task, experience)
            if apart:
                self.strategy.reduce()
                found[task] = [parameter.grad for parameter in self._parameters()]
                self.optimizer.zero_grad(set_to_none=True)
        if not apart:
            self.strategy.reduce()
            return metrics
        metrics |= self._compare(found)
        for parameter, *gradients in zip(self._parameters(), *found.values(), strict=True):
            there = [gradient for gradient in gradients if gradient is not None]
            for gradient in there[1:]:  # in place: a third set would be the peak of a run's memory
                there[0].add_(gradient)
            parameter.grad = there[0] if there else None
        return metrics

    def _accumulate(self, task: Task, experience: Experience) -> Metrics:
        """The gradients of one task's micro-batches, and its metrics over all processes."""
        pieces = list(self.micro_batches(experience))
        mask = experience.rollout.completion_mask.cpu() & experience.rows[:, None]
        rows, tokens, passes = self.total([float(experience.rows.sum()), float(mask.sum()), float(len(pieces))])
        counts = Counts(rows=rows, tokens=tokens, passes=passes)
        sums: dict[str, Tensor] = {}
        self.strategy.learner.train()  # only here: checkpointed layers corrupt what is sampled or scored with a cache
        for piece in pieces:
            loss, logged = self.loss(piece, counts)
            self.accelerator.backward(loss)
            sums = {name: value + sums.get(name, 0.0) for name, value in logged.items()}
        self.strategy.learner.eval()
        totals = self.total([float(value) for value in sums.values()])
        return {f"{name}/{task}": value for name, value in zip(sums, totals, strict=True)}

    def loss(self, piece: Experience, counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of one micro-batch in the step's loss, and in the numbers that are logged: means over rows of
        means over tokens.
        """
        algo, rollout = self.recipe.algo, piece.rollout
        scored = self.strategy.learner(rollout)
        mask, rows = rollout.completion_mask, piece.rows.to(scored.logps.device)
        logged = {"nll": -scored.logps.detach(), "entropy": scored.entropies}
        if piece.rewards is None:  # imitation
            values = -scored.logps
        else:
            old = scored.logps.detach() if piece.old_logps is None else piece.old_logps
            ratio = objective.ratios(scored.logps, old, mask, algo.ratio)
            advantages = piece.advantages.to(ratio.device)
            values, below, above = objective.policy_loss(ratio, advantages, algo.clip_eps, algo.clip_eps_high)
            logged |= {"clipped_low": below.float(), "clipped_high": above.float()}
        if piece.ref_logps is not None:
            kl = objective.kl_divergence(scored.logps, piece.ref_logps, algo.kl)
            values = values + algo.beta * kl
            logged["kl"] = kl.detach()
        weights = objective.token_weights(mask, rows, algo.loss, counts, _longest(rollout))
        loss = (weights * values).sum()
        means = objective.token_weights(mask, rows, "grpo", counts, _longest(rollout))
        return loss, {name: (means * value).sum() for name, value in logged.items()} | {"loss": loss.detach()}

    def micro_batches(self, experience: Experience) -> Iterator[Experience]:
        """The experience in pieces of `micro_batch_size` whole groups."""
        for chosen in self.chunks(experience.rollout):
            rows = experience.rollout.rows_of(chosen)
            yield replace(
                experience,
                rollout=experience.rollout.select(chosen),
                advantages=experience.advantages[rows],
                rows=experience.rows[rows],
                old_logps=None if experience.old_logps is None else experience.old_logps[rows],
                ref_logps=None if experience.ref_logps is None else experience.ref_logps[rows],
            )

    def chunks(self, rollout: Rollout) -> list[range]:
        """The groups of a rollout, as many together as fit into a backward pass."""
        groups = len(rollout) // rollout.sampling.group_size
        size = self.recipe.train.micro_batch_size or groups
        return [range(start, min(start + size, groups)) for start in range(0, groups, size)]

    def total(self, values: list[float]) -> list[float]:
        """Numbers summed over all processes."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.accelerator.device)
        found: list[float] = self.accelerator.reduce(tensor, reduction="sum").tolist()
        return found

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _compare(self, found: Mapping[Task, Gradients]) -> Metrics:
        """The norm of each task's gradient, and the cosine between the two: below 0 they work against each other."""
        norms = {task: math.sqrt(self.strategy.dot(own, own)) for task, own in found.items()}
        product = self.strategy.dot(*found.values())
        cosine = product / math.prod(norms.values()) if all(norms.values()) else math.nan
        return {f"grad_norm/{task}": norm for task, norm in norms.items()} | {"grad_cosine": cosine}


def _longest(rollout: Rollout) -> int:
    """The most tokens that a completion may have: those of a drawing, or the limit of a text."""
    return rollout.completion_ids.shape[1] if rollout.task == "t2i" else rollout.sampling.max_new_tokens
