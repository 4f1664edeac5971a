"""Intervals over seeds and items: by hand, and by what must not matter."""

import math

import numpy as np
import pytest

from corl_cli.scoring import bootstrap
from corl_cli.scoring.bootstrap import interval, stratified


def test_two_seeds_and_one_item_by_hand():
    table = [[0.0], [1.0]]  # both seeds: mean 0 in a quarter of the resamples, 0.5 in half of them, 1 in a quarter
    whole = interval([table])
    assert (whole.mean, whole.low, whole.high) == (0.5, 0.0, 1.0)
    middle = interval([table], level=0.4)  # from the 30th to the 70th percentile
    assert (middle.low, middle.high) == (0.5, 0.5)


def test_items_alone_agree_with_the_normal_interval():
    values = np.random.default_rng(1).random(400)
    found = interval([[values]])
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half / 10)
    assert found.high == pytest.approx(values.mean() + half, abs=half / 10)


def test_seeds_that_agree_add_no_certainty():
    values = np.random.default_rng(2).random(50)
    once, often = interval([[values]]), interval([[values] * 5])
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)


def test_items_that_agree_leave_the_spread_of_the_seeds():
    seeds = np.array([0.2, 0.4, 0.9])
    few, many = (interval([np.tile(seeds[:, None], items)]) for items in (1, 300))
    assert many.low == pytest.approx(few.low)
    assert many.high == pytest.approx(few.high)


def test_an_item_without_a_score_is_left_out():
    table = np.array([[0.0, 1.0, math.nan], [1.0, 1.0, math.nan]])
    assert interval([table]).mean == 0.75
    nothing = interval([[[math.nan, math.nan]]])
    assert all(math.isnan(value) for value in (nothing.mean, nothing.low, nothing.high))


def test_the_mean_of_two_abilities_weighs_them_alike_and_draws_them_together():
    first, second = np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[0.0, 1.0, math.nan, math.nan]])
    assert interval([first, second]).mean == (0.25 + 0.5) / 2
    opposite = interval([first, 1 - first])  # on the same items, so that every resample has the same mean
    assert (opposite.low, opposite.mean, opposite.high) == (0.5, 0.5, 0.5)


def test_the_same_tables_have_the_same_interval_and_others_are_refused():
    table = np.random.default_rng(3).random((3, 20))
    assert interval([table]) == interval([table])
    with pytest.raises(ValueError, match="same seeds and items"):
        interval([table, table[:2]])


def test_strata_of_two_values_by_hand():
    # Resamples of (0, 1) have the mean 0, 0.5 or 1 with the chances 1/4, 1/2, 1/4; (2, 2) has no spread.
    found = stratified([[0.0, 1.0], [2.0, 2.0]], [3, 1])
    assert (found.mean, found.low, found.high) == (0.75 * 0.5 + 0.25 * 2, 0.25 * 2, 0.75 + 0.25 * 2)
    middle = stratified([[0.0, 1.0], [2.0, 2.0]], [3, 1], level=0.4)
    assert middle.low == middle.high == middle.mean


def test_one_stratum_agrees_with_the_interval_over_items():
    values = np.random.default_rng(4).random(300)
    ours, theirs = stratified([values], [1]), interval([[values]])
    assert ours.mean == pytest.approx(theirs.mean)
    assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.08)


def test_what_lies_between_strata_is_no_uncertainty():
    random = np.random.default_rng(5)
    low, high = random.normal(0, 0.01, 200), random.normal(1, 0.01, 200)
    apart, together = stratified([low, high], [1, 1]), stratified([np.concatenate([low, high])], [1])
    assert apart.mean == pytest.approx(together.mean)
    assert apart.high - apart.low < (together.high - together.low) / 10


def test_a_stratum_of_one_value_has_a_mean_and_no_interval():
    found = stratified([[1.0, 1.0, 1.0], [0.0]], [1, 1])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_how_many_values_are_held_at_once_does_not_matter(monkeypatch):
    values = np.random.default_rng(6).random(50)
    whole = stratified([values], [1], resamples=100)
    monkeypatch.setattr(bootstrap, "DRAWN", 60)
    assert stratified([values], [1], resamples=100) == whole
