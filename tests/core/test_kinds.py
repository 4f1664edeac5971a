import pytest

from corl_cli.core import kinds
from corl_cli.core.errors import UsageError
from corl_cli.core.loader import load, names


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.command)
def test_the_recipe_of_each_command_is_of_its_kind(kind):
    assert kinds.check(load(kind.recipe), [kind]) == kind


def test_every_shipped_recipe_has_a_command():
    commands = {name: kinds.kind_of(load(name)).command for name in names()}
    assert commands["unified/janus-pro-7b"] == "unified"
    assert commands["prepare/stage2-oe"] == "refined --task oe"
    assert commands["cycle/janus-pro-1b"] == "cycle"


def test_a_recipe_may_fit_several_commands():
    recipe = load("world/refined-t2i")
    assert kinds.check(recipe, kinds.named("separate")).command == "separate --task t2i"
    assert kinds.check(recipe, kinds.named("refined")).command == "refined --task t2i"


@pytest.mark.parametrize(
    ("recipe", "changes", "other"),
    [
        ("world/separate-t2i", [], "separate --task t2i"),
        ("world/refined-mcq", ["algo.beta=0"], "separate --task mm2t"),
    ],
)
def test_to_refine_takes_a_kl(recipe, changes, other):
    with pytest.raises(UsageError, match="without a KL") as caught:
        kinds.check(load(recipe, changes), kinds.named("refined"))
    assert f"corl train {other} --recipe" in caught.value.hint
    assert "set algo.beta" in caught.value.hint


@pytest.mark.parametrize(
    ("recipe", "command", "task", "instead"),
    [
        ("world/unified", "refined", "mcq", "corl train unified"),
        ("world/refined-oe", "refined", "mcq", "corl train refined --task oe"),
        ("world/separate-mm2t", "refined", None, "corl train separate --task mm2t"),
        ("world/cycle", "unified", None, "corl train cycle"),
        ("world/unified", "sft", None, "corl train unified"),
        ("world/sft", "unified", None, "corl train sft"),
    ],
)
def test_a_recipe_of_the_wrong_kind_names_the_command_that_fits(recipe, command, task, instead):
    with pytest.raises(UsageError, match="is not one for corl train") as caught:
        kinds.check(load(recipe), kinds.named(command, task))
    assert instead in caught.value.hint


def test_a_task_that_a_command_does_not_have():
    with pytest.raises(UsageError, match="no task 'mm2t'") as caught:
        kinds.named("refined", "mm2t")
    assert "t2i, mcq, oe" in caught.value.hint
