"""How several processes hold one policy: whole in each of them (`ddp`), or in shards (`fsdp`, in sharded.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from corl_cli.models.base import UnifiedPolicy

Gradients = list[Tensor | None]


class Strategy(Protocol):
    """What the loop needs of however the policy is held; each method is called by all processes together.

    `learner` is called to score rows with gradients, `actor` samples and is asked by rewards: the same module, or a
    whole copy in the compute precision, as of the last `refresh`.
    """

    learner: nn.Module
    actor: UnifiedPolicy

    def reduce(self) -> None:
        """Replace each gradient by its sum over processes."""

    def dot(self, left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> float:
        """The inner product of two sets of reduced gradients, over all parameters."""

    def clip(self, max_norm: float) -> float:
        """Scale reduced gradients down to this norm; returns the norm that they had."""

    def refresh(self) -> None:
        """Bring the actor to the learner's weights."""

    def save(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole weights and the whole optimiser state by parameters' names, on the CPU; empty but in process 0."""

    def restore(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Give the optimiser the state that `save` returned."""


class Replicated:
    """Whole weights in every process; gradients are summed once before an optimiser step.

    torch's DistributedDataParallel is not used: with two tasks in a step it would wait for parameters that the last
    backward pass does not touch, hold a second copy of all gradients, and hide each task's own.
    """

    def __init__(self, policy: UnifiedPolicy) -> None:
        align(policy)
        self.policy = self.actor = policy
        self.learner: nn.Module = policy

    def reduce(self) -> None:
        """See Strategy.reduce."""
        if not dist.is_initialized():
            return
        gradients = [parameter.grad for parameter in self.policy.trainable() if parameter.grad is not None]
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()

    def dot(self, left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> float:
        """See Strategy.dot."""
        pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
        return float(torch.stack([(a * b).sum(dtype=torch.float64) for a, b in pairs]).sum()) if pairs else 0.0

    def clip(self, max_norm: float) -> float:
        """See Strategy.clip."""
        return float(nn.utils.clip_grad_norm_(self.policy.trainable(), max_norm))

    def refresh(self) -> None:
        """See Strategy.refresh: the actor is the learner."""

    def save(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Strategy.save."""
        return self.policy.weights(), optimizer_state(self.policy, optimizer)

    def restore(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """See Strategy.restore."""
        restore_optimizer(self.policy, optimizer, state)


def optimizer_state(policy: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's state by parameters' names; none of parameters that no step has changed yet.

    (torch's get_optimizer_state_dict would take a step to make some up, and refuse a state that lacks a parameter.)
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in policy.named_parameters()}
    return {names[parameter]: dict(state) for parameter, state in optimizer.state.items()}


def restore_optimizer(policy: nn.Module, optimizer: Optimizer, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Give the optimiser what `optimizer_state` returned."""
    names = {parameter: name for name, parameter in policy.named_parameters()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    known = {place: dict(state[name]) for place, name in enumerate(order) if name in state}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": known})


@torch.no_grad()
def align(policy: UnifiedPolicy) -> None:
    """Give every process the weights of process 0 where they learn: fresh adapters are random."""
    if dist.is_initialized():
        for parameter in policy.trainable():
            dist.broadcast(parameter, 0)
