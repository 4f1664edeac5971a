import math
from dataclasses import replace

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Samples, Sampling
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores


class Given(Reward):
    """Gives the scores that it was made with."""

    task = "mm2t"

    def __init__(self, scores: Scores) -> None:
        super().__init__(Options())
        self.scores = scores

    def score(self, rollout, policy):
        return self.scores


def criterion(name: str, weight: float, values: list[float], on_error: str = "stop", **scores) -> Criterion:
    reward = Given(Scores(values=torch.tensor(values), **scores))
    return Criterion(name=name, weight=weight, on_error=on_error, reward=reward)


@pytest.fixture
def samples(triplets) -> Samples:
    return Samples(task="mm2t", triplets=triplets[:2], outputs=["a", "b"], sampling=Sampling())


class Fails(Reward):
    """Raises for every batch that holds the output `b`; else 1, with a part and a note."""

    task = "mm2t"

    def score(self, samples, policy):
        if "b" in samples.outputs:
            raise ValueError("no b, please")
        ones = torch.ones(len(samples))
        return Scores(values=ones, parts={"half": ones / 2}, notes=["fine"] * len(samples))


def test_the_total_is_the_weighted_sum(samples, policy):
    halves = {"half": torch.tensor([5.0, 6.0])}
    rubric = Rubric(
        "mm2t", [criterion("x", 2.0, [1.0, 2.0], parts=halves), criterion("y", 0.5, [3.0, 4.0], notes=["n", "m"])]
    )
    result = rubric(samples, policy)
    assert result.total.tolist() == [3.5, 6.0]
    assert result.valid.all()
    assert {name: part.tolist() for name, part in result.parts.items()} == {
        "x": [1, 2],
        "x.half": [5, 6],
        "y": [3, 4],
    }
    assert result.notes == {"y": ["n", "m"]}
    assert {name: term.tolist() for name, term in result.terms.items()} == {"x": [2, 4], "y": [1.5, 2]}
    assert set(result.seconds) == {"x", "y"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_missing_score_stops_and_says_where(samples, policy, triplets, bad):
    with pytest.raises(CorlError) as caught:
        Rubric("mm2t", [criterion("x", 1.0, [1.0, bad])])(samples, policy)
    assert f"'x' gave {bad} for sample 1 (triplet {triplets[1].id})" in caught.value.message
    assert "1 of 2" in caught.value.message
    assert "rewards.mm2t.x.on_error=mask" in caught.value.hint


def test_a_missing_score_masks_the_row_when_told_to(samples, policy):
    rubric = Rubric("mm2t", [criterion("x", 0.0, [1.0, math.nan], "mask"), criterion("y", 1.0, [1.0, 1.0])])
    result = rubric(samples, policy)
    assert result.valid.tolist() == [True, False]
    assert result.total[0] == 1
    assert result.total[1].isnan()
    assert result.parts["y"].tolist() == [1, 1]


def test_scores_of_the_wrong_number_stop(samples, policy):
    with pytest.raises(CorlError, match=r"values of shape \[3\] for 2 samples"):
        Rubric("mm2t", [criterion("x", 1.0, [1.0, 2.0, 3.0])])(samples, policy)


def test_a_note_says_why_a_score_is_missing(samples, policy):
    with pytest.raises(CorlError, match="the prompt is empty"):
        Rubric("mm2t", [criterion("x", 1.0, [1.0, math.nan], notes=["", "the prompt is empty"])])(samples, policy)


def test_a_normalised_reward_joins_the_sum_with_mean_0_and_deviation_1_in_each_group(samples, policy):
    two_groups = replace(samples, triplets=samples.triplets * 2, outputs=["a"] * 4, sampling=Sampling(group_size=2))
    plain, scaled = criterion("x", 1.0, [1.0, 2.0, 3.0, 3.0]), criterion("y", 2.0, [10.0, 30.0, 5.0, 5.0])
    result = Rubric("mm2t", [plain, replace(scaled, normalise=True)])(two_groups, policy)
    # y: group 1 has deviations -10 and 10, standard deviation 10 sqrt(2) with Bessel's correction; group 2 has none
    unit = 1 / math.sqrt(2)
    assert result.terms["y"].tolist() == pytest.approx([-2 * unit, 2 * unit, 0, 0], abs=1e-4)
    assert result.total.tolist() == pytest.approx([1 - 2 * unit, 2 + 2 * unit, 3, 3], abs=1e-4)
    assert result.parts["y"].tolist() == [10, 30, 5, 5]


def test_a_row_masked_by_one_reward_is_out_of_the_normalisation_of_another(samples, policy):
    three = replace(samples, triplets=samples.triplets[:1] * 3, outputs=["a"] * 3, sampling=Sampling(group_size=3))
    gap = criterion("x", 0.0, [1.0, math.nan, 1.0], "mask")
    result = Rubric("mm2t", [gap, replace(criterion("y", 1.0, [0.0, 99.0, 2.0]), normalise=True)])(three, policy)
    assert result.total[[0, 2]].tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], abs=1e-4)
    assert result.total[1].isnan()


def test_a_reward_that_raises_stops_with_its_name(samples, policy):
    failing = Criterion(name="x", weight=1.0, on_error="stop", reward=Fails(Options()))
    with pytest.raises(CorlError, match="Reward 'x' failed: ValueError: no b, please") as caught:
        Rubric("mm2t", [failing])(samples, policy)
    assert "rewards.mm2t.x.on_error=mask" in caught.value.hint


def test_a_reward_that_raises_masks_its_own_group_only(samples, policy):
    failing = Criterion(name="x", weight=1.0, on_error="mask", reward=Fails(Options()))
    result = Rubric("mm2t", [failing])(samples, policy)
    assert result.valid.tolist() == [True, False]
    assert result.total[0] == 1
    assert result.parts["x.half"][0] == 0.5
    assert result.parts["x.half"][1].isnan()
    assert result.notes["x"] == ["fine", "ValueError: no b, please (test_rubric.py:42 in score)"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "gave nothing in place of Scores"),
        ([1.0, 2.0], "gave a list in place of Scores"),
        (Scores(values=[1.0, 2.0]), "gave a list as values in place of a tensor"),
        (Scores(values=torch.ones(2), parts={"half": torch.ones(5)}), r"gave half of shape \[5\] for 2 samples"),
        (Scores(values=torch.ones(2), notes=["one"]), "gave 1 notes for 2 samples"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "mask"])
def test_a_reward_that_gives_something_else_stops_whatever_is_masked(samples, policy, found, words, on_error):
    wrong = Criterion(name="x", weight=1.0, on_error=on_error, reward=Given(found))
    with pytest.raises(CorlError, match=words) as caught:
        Rubric("mm2t", [wrong])(samples, policy)
    assert "Return Scores(values=torch.tensor" in caught.value.hint
