"""--reward on the command line becomes the specs of a recipe."""

import pytest

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Rubrics
from corl_cli.pipelines.choose import chosen


@pytest.fixture(scope="module")
def recipe():
    return load("world/unified", ["rewards.t2i.cycle.weight=3", "rewards.t2i.cycle.captioner=blip"])


def test_a_name_takes_the_options_of_the_recipe_and_a_mapping_stands_alone(recipe):
    by_name = chosen(recipe, ["cycle"]).t2i
    assert by_name == [recipe.rewards.t2i[0]]
    (alone,) = chosen(recipe, ["{name: cycle, weight: 2, text: embedding}"]).t2i
    assert (alone.weight, alone.options) == (2.0, {"text": "embedding"})
    assert chosen(None, ["cycle"]).t2i[0].options == {}


def test_each_reward_goes_to_the_task_that_it_scores(recipe):
    found = chosen(recipe, ["accuracy", "name: matching", "corl_cli.rewards.format:Format"])
    assert [spec.name for spec in found.t2i] == ["matching"]
    assert [spec.name for spec in found.mm2t] == ["accuracy", "corl_cli.rewards.format:Format"]
    assert chosen(recipe, []) == Rubrics()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("cycl", "There is no reward 'cycl'", "Did you mean cycle?"),
        ("{name: cycle, txt: spice}", "rewards.t2i.cycle.txt: unknown key; did you mean text?", "Options of cycle"),
        ("{name: cycle, weight: heavy}", "weight: this should be a valid number, not 'heavy'", "--reward '{name"),
        ("{weight: 1}", "a reward has a name", "--reward '{name"),
        ("{name: [", "this is not YAML", "--reward '{name"),
        ("no_such_module:Mine", "cannot be imported", "my_pkg.module:Class"),
    ],
)
def test_what_cannot_be_read_says_why(recipe, text, message, hint):
    with pytest.raises(UsageError) as caught:
        chosen(recipe, [text])
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("key", ["weight: 2", "normalise: true", "on_error: mask"])
def test_what_matters_to_a_sum_only_is_refused_where_there_is_none(recipe, key):
    text = f"{{name: cycle, {key}}}"
    assert chosen(recipe, [text]).t2i
    assert chosen(recipe, ["cycle"], summed=False).t2i[0].weight == 3  # the recipe's own is no mistake
    with pytest.raises(UsageError, match=f"{key.partition(':')[0]} would do nothing here"):
        chosen(recipe, [text], summed=False)


def test_a_reward_given_twice_is_refused(recipe):
    with pytest.raises(UsageError, match="given twice"):
        chosen(recipe, ["cycle", "{name: cycle}"])
