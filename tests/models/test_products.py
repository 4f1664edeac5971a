"""The same products in either order of rows and columns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from corl_cli.models.products import copied, multiply, multiply_add, turned

ROWS = [1, 2, 16, 64, 65, 300]
SHAPES = [(8, 16), (128, 16), (1024, 256)]  # small, wide, large: E, D


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_rows_and_a_matrix(rows: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix, x, residual = torch.randn(shape), torch.randn(rows, shape[1]), torch.randn(rows, shape[0])
    expected = x @ matrix.T
    assert torch.allclose(multiply(x, matrix), expected, atol=1e-4)
    assert torch.allclose(multiply_add(residual, x, matrix), residual + expected, atol=1e-4)
    transposed = residual.t().contiguous().t()
    assert torch.allclose(multiply_add(transposed, x, matrix), residual + expected, atol=1e-4)


def test_both_orders_are_taken() -> None:
    taken = {shape: [turned(torch.empty(rows, shape[1]), torch.empty(shape)) for rows in ROWS] for shape in SHAPES}
    assert taken[8, 16] == [False] * 6
    assert taken[128, 16] == [False, False, True, True, False, False]
    assert taken[1024, 256] == [False, True, True, True, True, True]


def test_a_copied_head_says_the_same_and_shares_nothing() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 128, bias=False))
    x = torch.randn(20, 16)
    own = copied(head)
    expected = head(x)
    assert torch.allclose(own(x), expected, atol=1e-5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    assert torch.allclose(own(x), expected, atol=1e-5)
    assert [p.shape for p in own.parameters()] == [p.shape for p in head.parameters()], "copied in order by refresh"


def test_sums_in_other_precisions_keep_that_of_the_residual() -> None:
    x, rows, matrix = torch.randn(20, 8), torch.randn(20, 4), torch.randn(8, 4)
    added = multiply_add(x, rows.bfloat16(), matrix.bfloat16())
    assert added.dtype == torch.float32
    assert torch.allclose(added, x + rows @ matrix.T, atol=0.1)
