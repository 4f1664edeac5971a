"""Advantages and losses against values worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.recipe import Algo
from corl_cli.core.types import RewardResult
from corl_cli.trainer.loop import credit
from corl_cli.trainer.objective import (
    covariances,
    group_advantages,
    joint_rewards,
    kl_divergence,
    policy_loss,
    sequence_mean,
)

ALL = torch.ones(4, dtype=torch.bool)


def test_group_advantages_by_hand() -> None:
    # group 1, 3: mean 2, deviation from the mean 1 each, std with Bessel sqrt(2)
    found = group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), ALL, 2)
    expected = 1 / (math.sqrt(2) + 1e-4)
    assert torch.allclose(found, torch.tensor([-expected, expected, 0.0, 0.0]))


def test_without_scaling_only_the_mean_is_taken_off() -> None:
    found = group_advantages(torch.tensor([1.0, 4.0, 0.0, 1.0]), ALL, 4, scale=False)
    assert found.tolist() == [-0.5, 2.5, -1.5, -0.5]


def test_a_missing_row_is_left_out_of_its_groups_statistics() -> None:
    rows = torch.tensor([True, True, False, True])
    found = group_advantages(torch.tensor([1.0, 2.0, math.nan, 3.0]), rows, 4)
    assert torch.allclose(found, torch.tensor([-1.0, 0.0, 0.0, 1.0]) / (1 + 1e-4))


def test_a_group_with_one_or_no_counted_row_has_no_advantage() -> None:
    rows = torch.tensor([True, False, False, False])
    rewards = torch.tensor([7.0, math.nan, math.nan, math.nan])
    assert group_advantages(rewards, rows, 2).tolist() == [0.0, 0.0, 0.0, 0.0]


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=8),
    st.floats(-5, 5, width=32),
)
def test_advantages_sum_to_zero_and_ignore_a_shift(rewards: list[float], shift: float) -> None:
    values, rows = torch.tensor(rewards, dtype=torch.float64), torch.ones(8, dtype=torch.bool)
    found = group_advantages(values, rows, 4)
    assert torch.allclose(found.view(2, 4).sum(1), torch.zeros(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(group_advantages(values + shift, rows, 4), found, atol=1e-5)


def test_the_joint_reward_is_the_papers() -> None:
    found = joint_rewards(torch.tensor([1.5, 0.2]), torch.tensor([2.0, 1.0]), 0.8)
    assert torch.allclose(found, torch.tensor([3.1, 1.0]))


def test_the_papers_loss_is_minus_ratio_times_advantage() -> None:
    logps, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    loss, clipped = policy_loss(logps, old, torch.tensor([2.0]))
    assert torch.allclose(loss, torch.tensor([[-2 * math.exp(0.5), -2 * math.exp(-1.0)]]))
    assert not clipped.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 1.0, -1.2, True),  # too far up for a good sample: held at 1 + eps
        (1.5, -1.0, 1.5, False),  # a bad sample made likelier: the whole penalty
        (0.5, 1.0, -0.5, False),
        (0.5, -1.0, 0.8, True),  # too far down for a bad sample: held at 1 - eps
        (1.1, 1.0, -1.1, False),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    found, was = policy_loss(torch.tensor([[math.log(ratio)]]), torch.zeros(1, 1), torch.tensor([advantage]), 0.2)
    assert torch.allclose(found, torch.tensor([[loss]]))
    assert was.tolist() == [[clipped]]


def test_kl_is_k3_by_hand() -> None:
    found = kl_divergence(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]))
    assert torch.allclose(found, torch.tensor([0.0, math.exp(-1.0)]))  # exp(-1) + 1 - 1


def test_the_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    logps = torch.tensor([[-0.3, -0.9]], requires_grad=True)
    loss, _ = policy_loss(logps, logps.detach(), torch.tensor([1.7]))
    loss.sum().backward()
    assert torch.allclose(logps.grad, torch.tensor([[-1.7, -1.7]]))


def test_each_row_counts_alike_whatever_its_length() -> None:
    values = torch.tensor([[1.0, 3.0], [5.0, 9.0], [7.0, 7.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    rows = torch.tensor([True, True, False])
    assert float(sequence_mean(values, mask, rows)) == 2.0 + 5.0


def test_an_empty_row_adds_nothing() -> None:
    assert float(sequence_mean(torch.ones(1, 3), torch.zeros(1, 3), torch.tensor([True]))) == 0.0


def test_covariances_by_hand() -> None:
    # s = x + y = [3, -3]: cov(x, s) = 1 * 3 + 1 * 3, cov(y, s) = 12, var(s) = 18
    terms = {"x": torch.tensor([1.0, -1.0]), "y": torch.tensor([2.0, -2.0])}
    assert covariances(terms, ALL[:2], 2, scale=False) == ({"x": 6.0, "y": 12.0}, 18.0)
    against = {"x": torch.tensor([1.0, -1.0]), "y": torch.tensor([3.0, -3.0]), "z": torch.tensor([-2.0, 2.0])}
    assert covariances(against, ALL[:2], 2, scale=False) == ({"x": 4.0, "y": 12.0, "z": -8.0}, 8.0)


def test_scaled_groups_count_alike_whatever_their_spread() -> None:
    """x decides one group of two and is ten times as loud: with scaling its share is one half all the same."""
    terms = {"x": torch.tensor([10.0, -10.0, 0.0, 0.0]), "y": torch.tensor([0.0, 0.0, 1.0, -1.0])}
    found, variance = covariances(terms, ALL, 2)
    assert [found[name] / variance for name in "xy"] == pytest.approx([0.5, 0.5], abs=1e-3)
    loud, whole = covariances(terms, ALL, 2, scale=False)
    assert loud["x"] / whole == pytest.approx(100 / 101)


@given(st.lists(st.floats(-10, 10, width=32), min_size=16, max_size=16), st.booleans())
def test_covariances_add_up_to_the_variance(values: list[float], scale: bool) -> None:
    terms = {"x": torch.tensor(values[:8]), "y": torch.tensor(values[8:])}
    found, variance = covariances(terms, torch.tensor([True] * 7 + [False]), 4, scale=scale)
    assert sum(found.values()) == pytest.approx(variance, rel=1e-3, abs=1e-4)


def _result(task: str, total: list[float]) -> RewardResult:
    values = torch.tensor(total)
    return RewardResult(task=task, total=values, parts={}, valid=torch.isfinite(values))  # type: ignore[arg-type]


def test_joint_credit_gives_both_tasks_the_pairs_advantage() -> None:
    rewards = {"t2i": _result("t2i", [1.0, 0.0]), "mm2t": _result("mm2t", [0.0, 2.0])}
    found = credit(rewards, Algo(credit="joint", mm2t_weight=0.8, scale_advantages=False), 2)
    assert torch.allclose(found["t2i"][0], torch.tensor([-0.3, 0.3]))  # 1.0 against 1.6
    assert torch.equal(found["t2i"][0], found["mm2t"][0])


def test_joint_credit_leaves_a_row_missing_in_one_task_out_of_both() -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 3.0]), "mm2t": _result("mm2t", [0.0, 2.0, 0.0])}
    found = credit(rewards, Algo(credit="joint", scale_advantages=False), 3)
    for values, rows in found.values():
        assert rows.tolist() == [True, False, True]
        assert torch.allclose(values, torch.tensor([-1.0, 0.0, 1.0]))


def test_per_task_credit_keeps_the_tasks_apart() -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 3.0]), "mm2t": _result("mm2t", [0.0, 3.0, 0.0])}
    found = credit(rewards, Algo(credit="per_task", scale_advantages=False), 3)
    assert torch.allclose(found["t2i"][0], torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(found["mm2t"][0], torch.tensor([-1.0, 2.0, -1.0]))
