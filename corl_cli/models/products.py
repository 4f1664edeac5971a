"""Products of rows and weight matrices in the order in which a device is fastest at them."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE_MATRIX = 1 << 17  # entries, from which on a CPU reading them is what takes time


def multiply(x: Tensor, matrix: Tensor) -> Tensor:
    """x [R, D] @ matrix.T [D, E]; where `turned` not contiguous."""
    return torch.mm(matrix, x.t()).t() if turned(x, matrix) else F.linear(x, matrix)


def multiply_add(x: Tensor, rows: Tensor, matrix: Tensor) -> Tensor:
    """x [R, E] + rows [R, D] @ matrix.T [D, E]; in one call where all is of one type."""
    if rows.dtype != x.dtype:
        return x + F.linear(rows, matrix)
    if turned(rows, matrix):
        return torch.addmm(x.t(), matrix, rows.t()).t()
    return torch.addmm(x, rows, matrix.t())


def turned(x: Tensor, matrix: Tensor) -> bool:
    """Whether a CPU is faster, by up to a half, at matrix @ x.T: from few rows on, fewer of a large matrix, up to a
    third of its outputs. Small matrices that are not wide gain less than other operations lose on transposed results.
    """
    outputs, large = matrix.shape[0], matrix.numel() >= LARGE_MATRIX
    pays = large or outputs >= 4 * matrix.shape[1]
    return pays and not x.is_cuda and (2 if large else 16) <= x.shape[0] <= max(64, outputs // 3)


class Linear(nn.Module):
    """A copy of a linear layer that multiplies in this way."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(own.weight.detach().clone())
        self.bias = None if own.bias is None else nn.Parameter(own.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        multiplied = multiply(x, self.weight)
        return multiplied if self.bias is None else multiplied.add_(self.bias)


def copied(module: nn.Module) -> nn.Module:
    """A copy of a module, with `Linear` for its linear layers."""
    if isinstance(module, nn.Linear):
        return Linear(module)
    new = copy.deepcopy(module)
    for name, child in module.named_children():
        setattr(new, name, copied(child))
    return new
