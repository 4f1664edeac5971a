"""Policies that sample and score and never learn."""

from __future__ import annotations

import torch
from torch import nn

from corl_cli.models.base import UnifiedPolicy


def freeze(policy: UnifiedPolicy, dtype: torch.dtype) -> UnifiedPolicy:
    """Freeze a policy in place, and hold what has learnt so far in less memory.

    Only linear layers are cast: autocast rounds just their weights, so that it agrees with the float32 weights it
    had, on a CPU to the bit. Weights that are frozen already may be another's too, and stay as they are.
    """
    for module in policy.modules():
        if isinstance(module, nn.Linear) and module.weight.requires_grad:
            module.to(dtype)
    return policy.requires_grad_(False).eval()
