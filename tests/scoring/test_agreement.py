"""Agreement of two scorings, against hand-made numbers and the definitions."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.agreement import best_changes, correlation, kendall, tied_pairs

ALL = torch.ones(4, dtype=torch.bool)
small = st.lists(st.integers(0, 3), min_size=5, max_size=5)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_kendall_by_hand():
    a = column(1, 2, 3, 4)
    assert kendall(a, a, ALL, 4).tolist() == [1]
    assert kendall(a, -a, ALL, 4).tolist() == [-1]
    assert kendall(a, column(1, 3, 2, 4), ALL, 4).tolist() == pytest.approx([4 / 6])
    assert kendall(a, column(1, 1, 2, 2), ALL, 4).tolist() == pytest.approx([4 / math.sqrt(6 * 4)])
    assert kendall(a, column(5, 5, 5, 5), ALL, 4).isnan().all()
    rows = torch.tensor([True, False, True, True])
    assert kendall(a, column(1, math.nan, 2, 3), rows, 4).tolist() == [1]
    assert kendall(a.repeat(2), torch.cat([a, -a]), ALL.repeat(2), 4).tolist() == [1, -1]


@given(small, small)
def test_kendall_is_its_definition(a, b):
    def sign(x):
        return (x > 0) - (x < 0)

    pairs = [(sign(a[i] - a[j]), sign(b[i] - b[j])) for i, j in combinations(range(5), 2)]
    scale = math.sqrt(sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs))
    found = float(kendall(column(*a), column(*b), torch.ones(5, dtype=torch.bool), 5))
    if scale:
        assert found == pytest.approx(sum(x * y for x, y in pairs) / scale)
    else:
        assert math.isnan(found)


def test_the_best_changes_when_no_best_stays_best():
    a = column(1, 3, 3, 0)
    assert best_changes(a, column(0, 0, 9, 0), ALL, 4).tolist() == [False]
    assert best_changes(a, column(9, 0, 0, 0), ALL, 4).tolist() == [True]
    assert best_changes(a, column(9, 0, 5, 0), torch.tensor([False, True, True, True]), 4).tolist() == [False]
    assert best_changes(a, a, ~ALL, 4).tolist() == [False]


def test_ties_and_correlation_by_hand():
    assert tied_pairs(column(1, 1, 0, 2), ALL, 4) == pytest.approx(1 / 6)
    assert tied_pairs(column(1, 1, math.nan, 2), torch.tensor([True, True, False, True]), 4) == pytest.approx(1 / 3)
    assert math.isnan(tied_pairs(column(1, 1, 1, 1), ~ALL, 4))
    a = column(0, 1, 10, 11)  # two groups of two: only what differs within them counts
    assert correlation(a, column(0, 1, -10, -9), ALL, 2) == pytest.approx(1)
    assert correlation(a, column(0, 1, 1, 0), ALL, 2) == pytest.approx(0)
    assert math.isnan(correlation(a, column(3, 3, 4, 4), ALL, 2))
