import math

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Rollout, Sampling
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
def rollout(triplets) -> Rollout:
    empty = torch.zeros(2, 0, dtype=torch.long)
    return Rollout(
        task="mm2t",
        triplets=triplets[:2],
        prompt_ids=empty,
        prompt_mask=empty,
        pixel_values=None,
        completion_ids=empty,
        completion_mask=empty.bool(),
        logps=None,
        outputs=["a", "b"],
        sampling=Sampling(),
    )


def test_the_total_is_the_weighted_sum(rollout, policy):
    halves = {"half": torch.tensor([5.0, 6.0])}
    rubric = Rubric(
        "mm2t", [criterion("x", 2.0, [1.0, 2.0], parts=halves), criterion("y", 0.5, [3.0, 4.0], notes=["n", "m"])]
    )
    result = rubric(rollout, policy)
    assert result.total.tolist() == [3.5, 6.0]
    assert result.valid.all()
    assert {name: part.tolist() for name, part in result.parts.items()} == {
        "x": [1, 2],
        "x.half": [5, 6],
        "y": [3, 4],
    }
    assert result.notes == {"y": ["n", "m"]}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_missing_score_stops_and_says_where(rollout, policy, triplets, bad):
    with pytest.raises(CorlError) as caught:
        Rubric("mm2t", [criterion("x", 1.0, [1.0, bad])])(rollout, policy)
    assert f"'x' gave {bad} for sample 1 (triplet {triplets[1].id})" in caught.value.message
    assert "1 of 2" in caught.value.message
    assert "rewards.mm2t.x.on_error=mask" in caught.value.hint


def test_a_missing_score_masks_the_row_when_told_to(rollout, policy):
    rubric = Rubric("mm2t", [criterion("x", 0.0, [1.0, math.nan], "mask"), criterion("y", 1.0, [1.0, 1.0])])
    result = rubric(rollout, policy)
    assert result.valid.tolist() == [True, False]
    assert result.total[0] == 1
    assert result.total[1].isnan()
    assert result.parts["y"].tolist() == [1, 1]


def test_scores_of_the_wrong_number_stop(rollout, policy):
    with pytest.raises(CorlError, match=r"shape \[3\] for 2 samples"):
        Rubric("mm2t", [criterion("x", 1.0, [1.0, 2.0, 3.0])])(rollout, policy)
