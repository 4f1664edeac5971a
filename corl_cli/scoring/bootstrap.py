"""Intervals for means over seeds and held-out items, by resampling both (Owen 2007, the pigeonhole bootstrap).

Every seed answers the same items, so the table of scores has two crossed directions, and each is drawn with
replacement by itself: drawing cells alone would take the answers of one model, or to one item, for independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
RESAMPLES = 4000
LEVEL = 0.95
DRAWN = 1 << 20  # values held at once


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and the interval around it; NaN where nothing was scored."""

    mean: float
    low: float
    high: float


def interval(
    tables: Sequence[ArrayLike], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of the means of tables [S, N] over the same seeds and items, and its percentile interval.

    NaN is an item without a score. One seed is not resampled: the interval is then over items alone. Paired tables are
    compared by giving their difference.
    """
    scores = [np.asarray(table, dtype=float) for table in tables]
    (seeds, items), *others = [table.shape for table in scores]
    if any(shape != (seeds, items) for shape in others):
        raise ValueError("the tables are not over the same seeds and items")
    random = np.random.default_rng(seed)
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)
    columns = random.multinomial(items, np.full(items, 1 / items), resamples)
    means = np.mean([_weighted(table, rows, columns) for table in scores], axis=0)
    known, ends = means[np.isfinite(means)], [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(known, ends) if len(known) else (np.nan, np.nan)
    once = np.ones((1, seeds)), np.ones((1, items))
    mean = np.mean([_weighted(table, *once) for table in scores])
    return Interval(mean=float(mean), low=float(low), high=float(high))


def stratified(
    strata: Sequence[ArrayLike],
    weights: Sequence[float],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The weighted mean of the means of strata of values [N_k], each resampled within itself, and its interval.

    Weights need not add up to 1. The interval is NaN where a stratum has a single value, whose spread nobody knows.
    Paired values are compared by giving their differences.
    """
    values = [np.asarray(stratum, dtype=float) for stratum in strata]
    share = np.asarray(weights, dtype=float) / sum(weights)
    mean = float(sum(part * stratum.mean() for part, stratum in zip(share, values, strict=True)))
    if any(len(stratum) < 2 for stratum in values):
        return Interval(mean=mean, low=math.nan, high=math.nan)
    random = np.random.default_rng(seed)
    means = sum(part * _resampled(stratum, random, resamples) for part, stratum in zip(share, values, strict=True))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high))


def _resampled(values: Numbers, random: np.random.Generator, resamples: int) -> Numbers:
    """Means [R] of resamples of values [N], drawn some at a time, so that thousands of values fit in memory."""
    rows = max(1, DRAWN // len(values))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([values[random.integers(len(values), size=(size, len(values)))].mean(1) for size in sizes])


def _weighted(table: Numbers, rows: NDArray[Any], columns: NDArray[Any]) -> Numbers:
    """Means [R] of the scored cells, each counted rows [R, S] x columns [R, N] times."""
    scored = np.isfinite(table)
    counts = ((rows @ scored) * columns).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((rows @ np.where(scored, table, 0.0)) * columns).sum(1) / counts
