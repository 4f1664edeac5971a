"""How two scorings of the same groups agree: N = B * G rows, group-major; `rows` [N] says which count."""

from __future__ import annotations

import torch
from torch import Tensor

from corl_cli.scoring.groups import standardise

EQUAL = 1e-6  # closer scores are tied


def kendall(a: Tensor, b: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Kendall's tau-b of the two orders within each group [B]; NaN where either ties every counted pair.

    (concordant - discordant pairs) / sqrt(pairs untied in a * pairs untied in b): 1 is the same order, -1 the
    reverse. Source: Kendall 1945.
    """
    one, other, counted = _signs(a, group_size), _signs(b, group_size), _pairs(rows, group_size)
    agreeing = (one * other * counted).sum((1, 2))
    untied = [(signs.abs() * counted).sum((1, 2)) for signs in (one, other)]
    return agreeing / (untied[0] * untied[1]).sqrt()


def best_changes(a: Tensor, b: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Which groups [B] have another best row by `b`: none of those that are best by `a` is best by `b` too."""
    best = [_best(values, rows, group_size) for values in (a, b)]
    return ~(best[0] & best[1]).any(1) & rows.view(-1, group_size).any(1)


def tied_pairs(values: Tensor, rows: Tensor, group_size: int) -> float:
    """Share of the pairs within groups whose two values are equal; NaN where there is no pair."""
    counted = _pairs(rows, group_size)
    return float(((_signs(values, group_size) == 0) * counted).sum() / counted.sum())


def correlation(a: Tensor, b: Tensor, rows: Tensor, group_size: int) -> float:
    """Pearson's correlation of what is left of both when each group's mean is taken off; NaN where one is constant."""
    one, other = (standardise(values, rows, group_size, scale=False).double() for values in (a, b))
    norms = one.norm() * other.norm()
    return float(one @ other / norms) if norms > EQUAL**2 else float("nan")


def _signs(values: Tensor, group_size: int) -> Tensor:
    """Sign of every difference within a group [B, G, G], 0 for a tie; missing values are for `rows` to leave out."""
    grouped = values.nan_to_num().double().view(-1, group_size)
    differences = grouped[:, :, None] - grouped[:, None, :]
    return differences.sign() * (differences.abs() > EQUAL)


def _pairs(rows: Tensor, group_size: int) -> Tensor:
    """1 for every ordered pair of two counted rows [B, G, G]."""
    grouped = rows.view(-1, group_size)
    pairs = grouped[:, :, None] & grouped[:, None, :] & ~torch.eye(group_size, dtype=torch.bool)
    return pairs.double()


def _best(values: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Which rows [B, G] hold the largest counted value of their group."""
    grouped = values.double().masked_fill(~rows, -torch.inf).view(-1, group_size)
    return (grouped >= grouped.amax(1, keepdim=True) - EQUAL) & rows.view(-1, group_size)
