"""One policy in shards over all processes (FSDP2), and a whole copy of it to sample from."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.frozen import freeze
from corl_cli.trainer.distributed import align, optimizer_state, restore_optimizer


class Sharded:
    """What learns is sharded over processes, layer by layer, with its gradients and its optimiser's state.

    Weights are gathered in float32 and cast by the policy's own autocast, so that all numbers are those of one process.
    What does not learn stays whole and is shared with `actor`, a plain copy in the compute precision: sampling gathers
    nothing, and rewards, probes and samples may run in one process alone.
    """

    def __init__(self, policy: UnifiedPolicy, dtype: torch.dtype) -> None:
        align(policy)
        frozen = {parameter for parameter in policy.parameters() if not parameter.requires_grad}
        self.actor = freeze(copy.deepcopy(policy, {id(parameter): parameter for parameter in frozen}), dtype)
        self.learner: nn.Module = policy
        self.policy = policy
        mesh = init_device_mesh(next(policy.parameters()).device.type, (dist.get_world_size(),))
        for module in [*_layers(policy), policy]:
            # the root too is sharded again after each forward pass: it may have been one without a backward pass
            shard = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
            shard.set_gradient_divide_factor(1.0)  # the sum over processes, not their mean
            shard.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum

    def reduce(self) -> None:
        """See Strategy.reduce: the backward pass has done it."""

    def dot(self, left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> float:
        """See Strategy.dot."""
        pairs = [(_local(a), _local(b)) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
        total = torch.zeros((), dtype=torch.float64, device=next(self.policy.parameters()).device)
        for a, b in pairs:
            total += (a * b).sum(dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def clip(self, max_norm: float) -> float:
        """See Strategy.clip."""
        gradients = [parameter.grad for parameter in self.policy.trainable()]
        norm = math.sqrt(self.dot(gradients, gradients))
        if norm > max_norm:
            for gradient in gradients:
                if gradient is not None:
                    _local(gradient).mul_(max_norm / (norm + 1e-6))  # as torch does
        return norm

    @torch.no_grad()
    def refresh(self) -> None:
        """See Strategy.refresh: one parameter is whole at a time."""
        copies = dict(self.actor.named_parameters())
        for name, parameter in self.policy.named_parameters():
            if isinstance(parameter, DTensor):
                copies[name].copy_(parameter.full_tensor())

    def save(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Strategy.save."""
        state = optimizer_state(self.policy, optimizer)
        whole = {name: _whole(values) for name, values in state.items()}
        return _whole(self.policy.weights()), {name: values for name, values in whole.items() if values}

    def restore(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """See Strategy.restore."""
        parameters = dict(self.policy.named_parameters())
        shards = {
            name: {key: _shard(value, parameters[name]) for key, value in values.items()}
            for name, values in state.items()
        }
        restore_optimizer(self.policy, optimizer, shards)


def _layers(policy: nn.Module) -> list[nn.Module]:
    """The repeated layers of transformers' models, of which something learns."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # after models has mended torchvision

    layers = [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]
    return [layer for layer in layers if any(parameter.requires_grad for parameter in layer.parameters())]


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _shard(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process' part of a value that is shaped like a sharded parameter; a step count is whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def _whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights on the CPU, gathered by all processes and kept by process 0."""
    first = dist.get_rank() == 0
    found = {}
    for name, weight in weights.items():
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if first:
            found[name] = whole.cpu()
    return found
