"""Held-out readings, and which checkpoint they make the best."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.numbers import finite
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Rollout, Sampling, Task
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores
from corl_cli.trainer.probes import Probes, Reading, decisive, gain


def reading(task: Task, mean: float, stderr: float = 0.1, **other: object) -> Reading:
    values = {"score": "x", "answer_type": "", "temperature": 1.0, "items": 4, "failed": 0} | other
    return Reading(task=task, mean=mean, stderr=stderr, **values)  # type: ignore[arg-type]


def pair(draws: float, answers: float) -> dict[str, Reading]:
    return {"t2i/x": reading("t2i", draws), "mm2t/x": reading("mm2t", answers)}


START = {"t2i/x": reading("t2i", 0.5, stderr=0.1), "mm2t/x": reading("mm2t", 0.2, stderr=0.05)}


def test_a_gain_by_hand() -> None:
    assert gain(pair(0.7, 0.1), START) == pytest.approx(2.0 - 2.0)  # 0.2 / 0.1 up, 0.1 / 0.05 down
    assert gain(pair(0.6, 0.3), START) == pytest.approx(1.0 + 2.0)
    assert gain({"t2i/x": reading("t2i", 0.7)}, START) == pytest.approx(2.0)


def test_where_all_items_score_alike_at_the_start_the_unit_is_one_item() -> None:
    start = {"t2i/x": reading("t2i", 0.0, stderr=0.0)}
    assert gain({"t2i/x": reading("t2i", 0.5)}, start) == pytest.approx(2.0)  # 2 of 4 items


def test_what_is_not_known_is_no_gain() -> None:
    assert math.isnan(gain({}, START))
    assert math.isnan(gain(pair(math.nan, 0.5), START))
    assert math.isnan(gain(pair(0.5, 0.5), {"t2i/x": START["t2i/x"]}))


SCORE = st.integers(0, 20).map(lambda n: n / 20)


@given(st.tuples(SCORE, SCORE), st.tuples(SCORE, SCORE), st.tuples(SCORE, SCORE))
def test_what_is_beaten_in_one_ability_and_better_in_none_gains_less(ours, theirs, errors) -> None:
    start = {name: reading("t2i", 0.5, stderr=error) for name, error in zip(START, errors, strict=True)}
    if ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True)):
        assert gain(pair(*ours), start) > gain(pair(*theirs), start)


def recipe(best: str | None, **probes: object) -> Recipe:
    rewards = {"t2i": [{"name": "checker"}, {"name": "clip"}], "mm2t": [{"name": "accuracy"}]}
    return Recipe.model_validate(
        {
            "name": "test",
            "rewards": {"t2i": [{"name": "checker"}], "mm2t": [{"name": "accuracy"}]},
            "sampling": {"t2i": {"temperature": 0.9}},
            "eval": {"probes": {"rewards": rewards} | probes},
            "checkpoint": {"best": best},
        }
    )


@pytest.mark.parametrize(
    ("best", "names"),
    [(None, []), ("pareto", ["t2i/checker", "mm2t/accuracy"]), ("t2i/clip", ["t2i/clip"])],
)
def test_what_best_compares(best, names) -> None:
    assert recipe(best).compared() == names


@pytest.mark.parametrize(
    ("best", "probes"),
    [("mm2t/clip", {}), ("accuracy", {}), ("pareto", {"rewards": {"t2i": [{"name": "checker"}]}})],
)
def test_what_best_cannot_compare_is_a_fault_of_the_recipe(best, probes) -> None:
    with pytest.raises(ValueError, match=f"checkpoint.best: {best}"):
        recipe(best, **probes)


def test_the_readings_that_decide_are_of_all_items_at_the_training_temperature() -> None:
    all_hot = reading("t2i", 0.5, score="checker", temperature=0.9)
    others = [
        reading("t2i", 0.6, score="checker", temperature=0.3),
        reading("t2i", 0.7, score="clip", temperature=0.9),
        reading("mm2t", 0.8, score="accuracy", answer_type="mc"),
    ]
    assert decisive([*others, all_hot], recipe("pareto")) == {"t2i/checker": all_hot}


def test_a_reading_comes_back_from_the_metrics_file() -> None:
    one = reading("t2i", 0.25, stderr=math.nan)
    again = Reading.of(finite(asdict(one)))
    assert math.isnan(again.stderr)
    assert again.mean == 0.25
    assert reading("mm2t", 0.5, answer_type="mc").label == "x (mc)"
    assert one.label == "x"


class Length(Reward):
    """Half of the items cannot be scored; the others score 0 and 1 by turns."""

    task = "mm2t"

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        return Scores(values=torch.tensor([0.0, 1.0, math.nan, math.nan, 0.0, math.nan])[: len(rollout)])


def test_failed_items_are_counted_and_left_out(policy, triplets) -> None:
    rubric = Rubric("mm2t", [Criterion(name="length", weight=1.0, on_error="mask", reward=Length(Options()))])
    probes = Probes(triplets, {"mm2t": rubric}, {"mm2t": [Sampling(max_new_tokens=4)]})
    whole = next(r for r in probes.measure(policy, Accelerator(cpu=True)) if not r.answer_type)
    assert (whole.items, whole.failed) == (3, 3)
    assert whole.mean == pytest.approx(1 / 3)
    assert whole.stderr == pytest.approx(1 / 3)  # values 0, 1, 0: variance 1 / 3, over 3 items
