"""Advantages and losses against values worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.recipe import Algo
from corl_cli.core.types import RewardResult
from corl_cli.trainer.credit import contributions as by_reward
from corl_cli.trainer.credit import credit
from corl_cli.trainer.objective import (
    Counts,
    contributions,
    group_advantages,
    joint_rewards,
    kl_divergence,
    policy_loss,
    ratios,
    token_weights,
)

ALL = torch.ones(4, dtype=torch.bool)


def test_group_advantages_by_hand() -> None:
    # group 1, 3: mean 2, deviation from the mean 1 each, std with Bessel sqrt(2)
    found = group_advantages(torch.tensor([1.0, 3.0, 5.0, 5.0]), ALL, 2)
    expected = 1 / (math.sqrt(2) + 1e-4)
    assert torch.allclose(found, torch.tensor([-expected, expected, 0.0, 0.0]))


def test_without_scaling_only_the_mean_is_taken_off() -> None:
    found = group_advantages(torch.tensor([1.0, 4.0, 0.0, 1.0]), ALL, 4, scale="none")
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


def test_the_batchs_deviation_scales_all_groups_alike() -> None:
    # deviations from the groups' means: -1, 1, -3, 3; the four rewards 1, 3, 2, 8 have std sqrt(29 / 3)
    rewards = torch.tensor([1.0, 3.0, 2.0, 8.0])
    found = group_advantages(rewards, ALL, 2, "batch", float(rewards.std()))
    assert torch.allclose(found, torch.tensor([-1.0, 1.0, -3.0, 3.0]) / (math.sqrt(29 / 3) + 1e-4))


def test_the_papers_loss_is_minus_ratio_times_advantage() -> None:
    logps, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    ratio = ratios(logps, old, torch.ones(1, 2))
    assert torch.allclose(ratio, torch.tensor([[math.exp(0.5), math.exp(-1.0)]]))
    loss, below, above = policy_loss(ratio, torch.tensor([2.0]))
    assert torch.allclose(loss, torch.tensor([[-2 * math.exp(0.5), -2 * math.exp(-1.0)]]))
    assert not below.any()
    assert not above.any()


def test_a_sequences_ratio_is_the_geometric_mean_over_its_own_tokens() -> None:
    logps, old = (
        torch.tensor([[-1.0, -2.0, 9.0], [-1.0, 0.0, 0.0]]),
        torch.tensor([[-1.5, -1.0, 0.0], [-1.2, 0.0, 0.0]]),
    )
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = ratios(logps, old, mask, "sequence")  # (0.5 - 1.0) / 2 and 0.2 / 1
    assert torch.allclose(found, torch.tensor([[math.exp(-0.25)], [math.exp(0.2)]]))


def test_the_gradient_of_a_sequences_ratio_is_shared_by_its_tokens() -> None:
    logps = torch.tensor([[-0.3, -0.9]], requires_grad=True)
    ratio = ratios(logps, logps.detach(), torch.ones(1, 2), "sequence")
    loss, _, _ = policy_loss(ratio, torch.tensor([1.7]), 0.2)
    weights = token_weights(torch.ones(1, 2), ALL[:1], "grpo", Counts(rows=1, tokens=2, passes=1), 2)
    (weights * loss).sum().backward()
    assert torch.allclose(logps.grad, torch.tensor([[-0.85, -0.85]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "high", "loss", "clipped"),
    [
        (1.5, 1.0, None, -1.2, "above"),  # too far up for a good sample: held at 1 + eps
        (1.5, -1.0, None, 1.5, None),  # a bad sample made likelier: the whole penalty
        (0.5, 1.0, None, -0.5, None),
        (0.5, -1.0, None, 0.8, "below"),  # too far down for a bad sample: held at 1 - eps
        (1.1, 1.0, None, -1.1, None),
        (1.25, 1.0, 0.28, -1.25, None),  # clip-higher leaves more room above
        (1.5, 1.0, 0.28, -1.28, "above"),
        (0.5, -1.0, 0.28, 0.8, "below"),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, high: float | None, loss: float, clipped: str | None) -> None:
    found, below, above = policy_loss(torch.tensor([[ratio]]), torch.tensor([advantage]), 0.2, high)
    assert torch.allclose(found, torch.tensor([[loss]]))
    assert (below.item(), above.item()) == (clipped == "below", clipped == "above")


def test_a_clipped_token_has_no_gradient() -> None:
    ratio = torch.tensor([[1.5, 1.0]], requires_grad=True)
    loss, _, _ = policy_loss(ratio, torch.tensor([1.0]), 0.2)
    loss.sum().backward()
    assert ratio.grad.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", [0.0, 1.0, -0.5]), ("k2", [0.0, 0.5, 0.125]), ("k3", [0.0, math.exp(-1.0), math.exp(0.5) - 1.5])],
)
def test_kl_by_hand(estimator: str, expected: list[float]) -> None:
    # d = ref - logp = 0, -1, 0.5
    found = kl_divergence(torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -2.0, -0.5]), estimator)
    assert torch.allclose(found, torch.tensor(expected))


def test_the_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    logps = torch.tensor([[-0.3, -0.9]], requires_grad=True)
    loss, _, _ = policy_loss(ratios(logps, logps.detach(), torch.ones(1, 2)), torch.tensor([1.7]))
    loss.sum().backward()
    assert torch.allclose(logps.grad, torch.tensor([[-1.7, -1.7]]))


VALUES = torch.tensor([[1.0, 3.0], [5.0, 9.0], [7.0, 7.0]])
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
COUNTED = torch.tensor([True, True, False])


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("grpo", (2 + 5) / 2),  # rows' means 2 and 5
        ("bnpo", (1 + 3 + 5) / 3),
        ("dr_grpo", (1 + 3 + 5) / (2 * 10)),  # 10 tokens at most
        ("dapo", (1 + 3 + 5) / 3),
    ],
)
def test_reductions_by_hand(reduction: str, expected: float) -> None:
    counts = Counts(rows=2, tokens=3, passes=1)
    assert float((token_weights(MASK, COUNTED, reduction, counts, 10) * VALUES).sum()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("grpo", 3.5), ("bnpo", (2 + 5) / 2), ("dr_grpo", 9 / 20), ("dapo", 3.0)],
)
def test_reductions_of_two_backward_passes_add_up(reduction: str, expected: float) -> None:
    """One row in each pass; bnpo alone averages the passes' own means: (1 + 3) / 2 and 5."""
    counts = Counts(rows=2, tokens=3, passes=2)
    passes = [
        (token_weights(MASK[[row]], COUNTED[[row]], reduction, counts, 10) * VALUES[[row]]).sum() for row in (0, 1)
    ]
    assert float(sum(passes)) == pytest.approx(expected)


@given(st.sampled_from(["grpo", "bnpo", "dr_grpo", "dapo"]), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_row_that_does_not_count_is_as_if_it_were_not_there(reduction: str, kept: list[bool]) -> None:
    torch.manual_seed(0)
    values, lengths = torch.randn(4, 5), torch.tensor([5, 2, 4, 1])
    mask, rows = (torch.arange(5) < lengths[:, None]).float(), torch.tensor(kept)
    counts = Counts(rows=float(rows.sum()), tokens=float((mask * rows[:, None]).sum()), passes=1)
    masked = (token_weights(mask, rows, reduction, counts, 5) * values).sum()
    without = (token_weights(mask[rows], rows[rows], reduction, counts, 5) * values[rows]).sum()
    assert torch.allclose(masked, without, atol=1e-6)


def test_contributions_by_hand() -> None:
    # s = x + y = [3, -3], std with Bessel 3 sqrt(2)
    terms = {"x": torch.tensor([1.0, -1.0]), "y": torch.tensor([2.0, -2.0])}
    plain = contributions(terms, ALL[:2], 2, "none")
    assert {name: part.tolist() for name, part in plain.items()} == {"x": [1.0, -1.0], "y": [2.0, -2.0]}
    scaled = contributions(terms, ALL[:2], 2)
    assert torch.allclose(scaled["y"], torch.tensor([2.0, -2.0]).double() / (3 * math.sqrt(2) + 1e-4))
    batch = contributions(terms, ALL[:2], 2, "batch", 0.5)
    assert torch.allclose(batch["x"], torch.tensor([1.0, -1.0]).double() / (0.5 + 1e-4))


def test_a_group_in_which_the_terms_cancel_contributes_nothing() -> None:
    terms = {"x": torch.tensor([1.0, -1.0]), "y": torch.tensor([-1.0, 1.0])}
    assert all(not part.any() for part in contributions(terms, ALL[:2], 2).values())


@given(
    st.lists(st.floats(-10, 10, width=16), min_size=16, max_size=16),
    st.sampled_from(["group", "batch", "none"]),
    st.sampled_from(["joint", "per_task", "blend"]),
)
def test_contributions_add_up_to_the_advantages_of_every_mode(values: list[float], scale: str, credit_by: str) -> None:
    rewards = {}
    for task, own in (("t2i", values[:8]), ("mm2t", values[8:])):
        terms = {"x": torch.tensor(own) / 4, "y": torch.tensor(own[::-1])}
        terms["y"][3] = math.nan if task == "t2i" else terms["y"][3]
        total = terms["x"] + terms["y"]
        rewards[task] = RewardResult(task=task, total=total, parts={}, valid=total.isfinite(), terms=terms)
    algo = Algo(credit=credit_by, blend=0.3, scale_advantages=scale)
    parts = by_reward(rewards, algo, 4)
    for task, (advantages, _) in credit(rewards, algo, 4).items():
        found = torch.stack([*parts[task].values()]).sum(0).float()
        assert torch.allclose(found, advantages, atol=2e-3, rtol=1e-3)


def _result(task: str, total: list[float]) -> RewardResult:
    values = torch.tensor(total)
    return RewardResult(task=task, total=values, parts={}, valid=torch.isfinite(values))  # type: ignore[arg-type]


def test_joint_credit_gives_both_tasks_the_pairs_advantage() -> None:
    rewards = {"t2i": _result("t2i", [1.0, 0.0]), "mm2t": _result("mm2t", [0.0, 2.0])}
    found = credit(rewards, Algo(credit="joint", mm2t_weight=0.8, scale_advantages="none"), 2)
    assert torch.allclose(found["t2i"][0], torch.tensor([-0.3, 0.3]))  # 1.0 against 1.6
    assert torch.equal(found["t2i"][0], found["mm2t"][0])


def test_joint_credit_leaves_a_row_missing_in_one_task_out_of_both() -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 3.0]), "mm2t": _result("mm2t", [0.0, 2.0, 0.0])}
    found = credit(rewards, Algo(credit="joint", scale_advantages="none"), 3)
    for values, rows in found.values():
        assert rows.tolist() == [True, False, True]
        assert torch.allclose(values, torch.tensor([-1.0, 0.0, 1.0]))


def test_per_task_credit_keeps_the_tasks_apart() -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 3.0]), "mm2t": _result("mm2t", [0.0, 3.0, 0.0])}
    found = credit(rewards, Algo(credit="per_task", mm2t_weight=1.0, scale_advantages="none"), 3)
    assert torch.allclose(found["t2i"][0], torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(found["mm2t"][0], torch.tensor([-1.0, 2.0, -1.0]))


def test_lambda_weighs_the_answers_advantages_but_not_those_of_a_task_alone() -> None:
    rewards = {"t2i": _result("t2i", [0.0, 2.0]), "mm2t": _result("mm2t", [0.0, 4.0])}
    algo = Algo(credit="per_task", mm2t_weight=3.0, scale_advantages="none")
    found = credit(rewards, algo, 2)
    assert found["t2i"][0].tolist() == [-1.0, 1.0]
    assert found["mm2t"][0].tolist() == [-6.0, 6.0]
    assert credit({"mm2t": rewards["mm2t"]}, algo, 2)["mm2t"][0].tolist() == [-2.0, 2.0]


def test_a_blend_is_the_weighted_mean_of_the_pairs_and_the_tasks_own() -> None:
    # pair: 0 + 0.5 * 4 = 2 against 2 + 0: no difference; own: -1, 1 and 0.5 * (2, -2)
    rewards = {"t2i": _result("t2i", [0.0, 2.0]), "mm2t": _result("mm2t", [4.0, 0.0])}
    found = credit(rewards, Algo(credit="blend", blend=0.25, mm2t_weight=0.5, scale_advantages="none"), 2)
    assert torch.allclose(found["t2i"][0], torch.tensor([-0.75, 0.75]))
    assert torch.allclose(found["mm2t"][0], torch.tensor([0.75, -0.75]))


@given(st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8), st.sampled_from([0.0, 1.0]))
def test_the_ends_of_a_blend_are_joint_and_per_task(values: list[float], share: float) -> None:
    rewards = {"t2i": _result("t2i", values[:4]), "mm2t": _result("mm2t", values[4:])}
    blend = credit(rewards, Algo(credit="blend", blend=share), 4)
    plain = credit(rewards, Algo(credit="joint" if share else "per_task"), 4)
    for task in rewards:
        assert torch.allclose(blend[task][0], plain[task][0], atol=1e-5)


@pytest.mark.parametrize("credit_by", ["joint", "blend"])
def test_in_pairs_a_row_missing_in_one_task_is_left_out_of_both(credit_by: str) -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 3.0]), "mm2t": _result("mm2t", [0.0, 2.0, 0.0])}
    for values, rows in credit(rewards, Algo(credit=credit_by), 3).values():
        assert rows.tolist() == [True, False, True]
        assert values[1] == 0.0


def test_the_deviation_of_a_step_is_that_of_its_counted_rewards() -> None:
    rewards = {"t2i": _result("t2i", [1.0, math.nan, 2.0, 8.0])}
    found = credit(rewards, Algo(credit="per_task", scale_advantages="batch"), 2)["t2i"][0]
    spread = torch.tensor([1.0, 2.0, 8.0]).std() + 1e-4
    assert torch.allclose(found, torch.tensor([0.0, 0.0, -3.0, 3.0]) / spread)
