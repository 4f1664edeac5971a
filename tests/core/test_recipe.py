import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Sampling

BASE = {"name": "x", "rewards": {"t2i": [{"name": "matching"}], "mm2t": [{"name": "format"}]}}


def test_defaults_are_the_papers_stage_one():
    recipe = Recipe.model_validate(BASE)
    assert recipe.train.tasks == ["t2i", "mm2t"]
    assert (recipe.algo.credit, recipe.algo.mm2t_weight, recipe.algo.beta) == ("joint", 0.8, 0.0)
    assert (recipe.optim.lr, recipe.train.batch_size, recipe.sampling.group_size) == (4e-6, 16, 8)


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError):
        Recipe.model_validate(BASE).seed = 1


def test_sampling_of_a_task_takes_the_group_size_and_its_own_settings():
    recipe = Recipe.model_validate(BASE | {"sampling": {"group_size": 4, "t2i": {"cfg_weight": 5.0}}})
    assert recipe.sampling.of("t2i") == Sampling(group_size=4, cfg_weight=5.0)
    assert recipe.sampling.of("mm2t") == Sampling(group_size=4, max_new_tokens=512)


def test_keys_of_a_reward_beyond_the_shared_ones_are_its_options():
    recipe = Recipe.model_validate(
        BASE | {"rewards": {"t2i": [{"name": "cycle", "text": "spice"}], "mm2t": [{"name": "format"}]}}
    )
    assert recipe.rewards.t2i[0].options == {"text": "spice"}
    assert recipe.rewards.mm2t[0].options == {}


@given(st.one_of(st.booleans(), st.text(), st.just(float("nan")), st.just(float("inf")), st.floats(max_value=0)))
def test_a_learning_rate_is_a_finite_positive_number(value):
    with pytest.raises(ValidationError):
        Recipe.model_validate(BASE | {"optim": {"lr": value}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": {"tasks": ["t2i"]}}, "joint needs both tasks"),
        ({"rewards": {"t2i": [{"name": "matching"}]}}, "rewards.mm2t: no reward"),
        ({"train": {"tasks": []}}, "at least 1"),
        ({"train": {"tasks": ["t2i", "t2i"]}}, "given twice"),
        ({"sampling": {"group_size": 1}}, "greater than or equal to 2"),
        ({"data": {"columns": {"picture": "x"}}}, "picture: not one of"),
        ({"rewards": {"t2i": [{"name": "a"}, {"name": "a"}], "mm2t": [{"name": "b"}]}}, "told apart by name"),
        ({"name": "a/b"}, "pattern"),
    ],
)
def test_what_cannot_run_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate(BASE | change)


def test_one_task_runs_with_its_own_rewards_and_credit():
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "train": {"tasks": ["mm2t"]},
            "algo": {"credit": "per_task"},
            "rewards": {"mm2t": [{"name": "format"}]},
        }
    )
    assert recipe.train.tasks == ["mm2t"]
