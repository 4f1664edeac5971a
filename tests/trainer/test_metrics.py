"""Metrics are those of all rows, however the rows are dealt out to processes."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Experience, RewardResult, Rollout, Sampling
from corl_cli.trainer.metrics import Summary, finish, shares, summarise
from corl_cli.trainer.objective import group_advantages

RECIPE = Recipe.model_validate(
    {
        "name": "test",
        "sampling": {"group_size": 2, "mm2t": {"max_new_tokens": 4}},
        "rewards": {"t2i": [{"name": "checker"}], "mm2t": [{"name": "x"}]},
        "algo": {"credit": "per_task", "mm2t_weight": 2.0},
    }
)


SECONDS = {"rollout": 0.5}


def experience(task: str, scores: dict[str, list[float]], lengths: list[int]) -> Experience:
    """Groups of two with these raw scores, all of weight 1."""
    parts = {name: torch.tensor(values) for name, values in scores.items()}
    total = torch.stack([*parts.values()]).sum(0)
    valid = torch.isfinite(total)
    mask = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    rollout = Rollout(
        task=task,  # type: ignore[arg-type]
        triplets=[None] * len(total),  # type: ignore[list-item]
        outputs=[""] * len(total),
        sampling=Sampling(group_size=2),
        prompt_ids=mask,
        prompt_mask=mask,
        pixel_values=None,
        completion_ids=mask,
        completion_mask=mask,
        logps=None,
        truncated=torch.tensor(lengths) == 4,
    )
    rewards = RewardResult(task=task, total=total, parts=parts, valid=valid, terms=parts, seconds={"x": 0.5})  # type: ignore[arg-type]
    advantages = group_advantages(total, valid, 2)
    return Experience(
        rollout=rollout, rewards=rewards, advantages=advantages, rows=valid, old_logps=None, ref_logps=None
    )


def test_metrics_of_one_process_by_hand() -> None:
    scores = {"x": [1.0, 3.0, 5.0, 5.0, math.nan, 2.0]}
    found = finish([summarise({"mm2t": experience("mm2t", scores, [1, 2, 3, 4, 4, 4])}, RECIPE, SECONDS)])
    assert found["reward/mm2t/x"] == pytest.approx(16 / 5)
    assert found["reward_std/mm2t/x"] == pytest.approx(torch.tensor([1.0, 3, 5, 5, 2]).std().item())
    assert found["failed/mm2t/x"] == found["masked/mm2t"] == pytest.approx(1 / 6)
    assert found["zero_variance/mm2t"] == found["zero_variance/mm2t/x"] == 0.5  # the third group has one score only
    assert (found["length/mm2t"], found["length_min/mm2t"], found["length_max/mm2t"]) == (3.0, 1.0, 4.0)
    assert found["at_limit/mm2t"] == 0.5
    assert found["share/mm2t/x"] == pytest.approx(1.0)
    assert found["time/reward/mm2t/x"] == 0.5
    assert found["tokens_per_second"] == 18 / 0.5


@given(st.lists(st.floats(-5, 5, width=32), min_size=8, max_size=8), st.sampled_from([None, 1, 6]))
def test_two_processes_have_the_metrics_of_all_their_rows(values: list[float], missing: int | None) -> None:
    if missing is not None:
        values[missing] = math.nan
    lengths = [1, 2, 3, 4, 4, 3, 2, 1]
    halves = [
        experience("mm2t", {"x": values[part], "y": values[part]}, lengths[part]) for part in (slice(4), slice(4, 8))
    ]
    apart = finish([summarise({"mm2t": half}, RECIPE, SECONDS) for half in halves])
    whole = finish([summarise({"mm2t": experience("mm2t", {"x": values, "y": values}, lengths)}, RECIPE, SECONDS)])
    assert apart.keys() == whole.keys()
    assert apart.pop("tokens_per_second") == whole.pop("tokens_per_second")  # both processes' together
    assert 0 < apart.pop("memory/peak_gib") <= whole.pop("memory/peak_gib")  # it only grows
    for name, value in whole.items():
        assert apart[name] == pytest.approx(value, abs=1e-4, nan_ok=True), name


def test_a_process_without_any_score_takes_nothing_away() -> None:
    good = experience("t2i", {"x": [0.0, 1.0], "x.half": [0.0, 0.5]}, [4, 4])
    bad = experience("t2i", {"x": [math.nan, math.nan]}, [4, 4])  # a reward that raised has no parts
    found = finish([summarise({"t2i": each}, RECIPE, SECONDS) for each in (good, bad)])
    assert found["reward/t2i/x"] == 0.5
    assert found["reward/t2i/x.half"] == 0.25
    assert found["share/t2i/x"] > 0
    assert found["failed/t2i/x"] == 0.5
    assert found["zero_variance/t2i"] == 0.0


def test_shares_add_up_to_one_under_joint_credit() -> None:
    joint = RECIPE.model_copy(update={"algo": RECIPE.algo.model_copy(update={"credit": "joint"})})
    batch = {
        "t2i": experience("t2i", {"a": [0.0, 1.0, 2.0, 5.0]}, [4] * 4),
        "mm2t": experience("mm2t", {"b": [1.0, 0.0, 0.0, 1.0], "c": [0.0, 0.0, 1.0, 1.0]}, [4] * 4),
    }
    found = shares(batch, joint)
    assert set(found) == {"t2i/a", "mm2t/b", "mm2t/c"}
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["mm2t/c"] == pytest.approx(0.0, abs=1e-6)  # it does not differ within a group


def test_a_blends_shares_lie_between_those_of_pairs_and_of_tasks() -> None:
    batch = {
        "t2i": experience("t2i", {"a": [0.0, 1.0, 2.0, 5.0]}, [4] * 4),
        "mm2t": experience("mm2t", {"b": [1.0, 0.0, 0.0, 1.0], "c": [0.0, 1.0, 0.0, 1.0]}, [4] * 4),
    }
    found = {}
    for credit in ("joint", "blend", "per_task"):
        algo = RECIPE.algo.model_copy(update={"credit": credit})
        found[credit] = shares(batch, RECIPE.model_copy(update={"algo": algo}))
    for name in ("t2i/a", "mm2t/b"):
        ends = sorted([found["joint"][name], found["per_task"][name]])
        assert ends[0] <= found["blend"][name] <= ends[1]


def test_answers_cut_off_stay_in_the_shares_as_in_the_baseline() -> None:
    whole = experience("mm2t", {"a": [0.0, 1.0, 2.0, 5.0], "b": [3.0, 1.0, 0.0, 0.0]}, [4] * 4)
    cut = replace(whole, rows=torch.tensor([True, False, True, False]))
    assert shares({"mm2t": cut}, RECIPE) == shares({"mm2t": whole}, RECIPE)


def test_nothing_has_no_mean() -> None:
    assert math.isnan(Summary.of(torch.tensor([math.nan])).mean)
    assert math.isnan(Summary.of(torch.tensor([1.0])).deviation)
