import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from corl_cli.core import loader
from corl_cli.core.errors import UsageError

REWARDS = "rewards: {t2i: [{name: matching}, {name: cycle, text: spice}], mm2t: [{name: format}]}\n"
FLOATS = ("lr", "weight_decay", "max_grad_norm", "skip_above")  # of optim


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def faults(source, *overrides) -> list[str]:
    with pytest.raises(UsageError) as caught:
        loader.load(source, overrides)
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def refusal(source, *overrides) -> UsageError:
    with pytest.raises(UsageError) as caught:
        loader.load(source, overrides)
    return caught.value


@pytest.mark.parametrize("name", loader.names())
def test_every_shipped_recipe_loads_and_survives_a_dump(name, tmp_path):
    recipe = loader.load(name)
    assert recipe.notes
    assert loader.load(write(tmp_path / "r.yaml", loader.dump(recipe))) == recipe


def test_the_paper_recipe_has_the_papers_numbers():
    recipe = loader.load("unified/janus-pro-1b")
    assert (recipe.optim.lr, recipe.train.batch_size, recipe.train.epochs) == (4e-6, 16, 1)
    assert (recipe.sampling.group_size, recipe.sampling.t2i.cfg_weight, recipe.sampling.mm2t.max_new_tokens) == (
        8,
        5.0,
        512,
    )
    assert (recipe.algo.credit, recipe.algo.mm2t_weight, recipe.algo.beta) == ("joint", 0.8, 0.0)
    assert [spec.name for spec in recipe.rewards.t2i + recipe.rewards.mm2t] == [
        "cycle",
        "matching",
        "accuracy",
        "format",
    ]


def test_the_larger_recipe_differs_where_it_says():
    small, large = loader.load("unified/janus-pro-1b"), loader.load("unified/janus-pro-7b")
    assert set(loader.diff(small, large)) == {
        "name",
        "notes",
        "model.checkpoint",
        "train.micro_batch_size",
        "distributed.strategy",
    }
    assert "Extrapolated" in large.notes


def test_yaml_is_version_1_2(tmp_path):
    recipe = loader.load(write(tmp_path / "r.yaml", f"name: no\noptim: {{lr: 4e-6}}\n{REWARDS}"))
    assert (recipe.name, recipe.optim.lr) == ("no", 4e-6)


def test_bases_merge_mappings_and_replace_lists(tmp_path):
    write(tmp_path / "deep" / "one.yaml", f"name: one\nseed: 7\noptim: {{lr: 1.0, warmup_steps: 3}}\n{REWARDS}")
    write(tmp_path / "two.yaml", "base: deep/one.yaml\noptim: {lr: 2.0}\n")
    three = write(tmp_path / "three.yaml", "base: two\nname: three\nrewards: {t2i: [{name: checker}]}\n")
    recipe = loader.load(three)
    assert (recipe.name, recipe.seed, recipe.optim.lr, recipe.optim.warmup_steps) == ("three", 7, 2.0, 3)
    assert [spec.name for spec in recipe.rewards.t2i] == ["checker"]
    assert [spec.name for spec in recipe.rewards.mm2t] == ["format"]


def test_a_file_can_build_on_a_shipped_recipe(tmp_path):
    mine = write(tmp_path / "mine.yaml", "base: world/unified\nseed: 5\n")
    assert loader.diff(loader.load("world/unified"), loader.load(mine)) == {"seed": (0, 5)}


def test_bases_in_a_circle_are_refused(tmp_path):
    write(tmp_path / "a.yaml", "base: b\n")
    write(tmp_path / "b.yaml", "base: a\n")
    assert "a -> b -> a" in refusal(tmp_path / "a.yaml").message


@pytest.mark.parametrize("base", ["nowhere", "[a]", "3"])
def test_a_base_that_is_not_there_is_refused(tmp_path, base):
    assert "there is no recipe" in refusal(write(tmp_path / "a.yaml", f"base: {base}\n")).message


def test_overrides_reach_keys_sections_and_items_of_lists():
    recipe = loader.load(
        "world/unified",
        [
            "optim.lr=4e-6",
            "rewards.t2i.cycle.weight=2",
            "rewards.t2i.1.on_error=mask",
            "rewards.mm2t=[{name: accuracy, weight: 0.5}]",
            "data.columns={image: picture}",
            "notes=a = b",
        ],
    )
    assert recipe.optim.lr == 4e-6
    assert [(spec.name, spec.weight, spec.on_error) for spec in recipe.rewards.t2i] == [
        ("cycle", 2.0, "stop"),
        ("matching", 1.0, "mask"),
    ]
    assert [(spec.name, spec.weight) for spec in recipe.rewards.mm2t] == [("accuracy", 0.5)]
    assert recipe.data.columns == {"image": "picture"}
    assert recipe.notes == "a = b"


def test_an_override_makes_a_section_that_is_absent_or_null(tmp_path):
    path = write(tmp_path / "r.yaml", f"name: x\neval: {{probes: null}}\n{REWARDS}")
    recipe = loader.load(path, ["eval.probes.items=10", "train.max_steps=2"])
    assert recipe.eval.probes is not None
    assert (recipe.eval.probes.items, recipe.train.max_steps) == (10, 2)


def test_an_override_changes_one_of_two_aliases(tmp_path):
    text = "name: x\nrewards:\n  t2i: [&m {name: matching}]\n  mm2t: [*m]\n"
    recipe = loader.load(write(tmp_path / "r.yaml", text), ["rewards.t2i.matching.weight=3"])
    assert (recipe.rewards.t2i[0].weight, recipe.rewards.mm2t[0].weight) == (3.0, 1.0)


def test_all_faults_come_at_once_with_the_nearest_key():
    found = faults(
        "world/unified",
        "optim.lrr=1",
        "max_steps=3",
        "zzz=1",
        "sampling.group_size=1",
        "model.dtype=float23",
        "train.batch_size=yes",
        "rewards.t2i.cycl.weight=2",
        "rewards.t2i.matching.weight=two",
        "seed.x=1",
        "eval=3",
        "foo",
        "a.b=[1",
    )
    assert found[:4] == [
        "rewards.t2i.cycl.weight: rewards.t2i has no item 'cycl' among its 2 (cycle, matching)",
        "seed.x: seed has no parts; it is 0",
        "--set foo: this is not of the form key=value",
        "a.b: the value '[1' is not YAML: expected ',' or ']', but got '<stream end>'",
    ]
    assert set(found[4:]) == {
        "optim.lrr: unknown key; did you mean optim.lr?",
        "max_steps: unknown key; did you mean train.max_steps?",
        "zzz: unknown key; known here: name, notes, seed, model, data, prepare, sampling, rewards, algo, optim, train, "
        "checkpoint, tracking, distributed, eval, study",
        "sampling.group_size: this should be greater than or equal to 2, not 1",
        "model.dtype: 'float23' is not one of 'float32' or 'bfloat16'; did you mean float32?",
        "train.batch_size: this should be a valid integer, not 'yes'",
        "rewards.t2i.matching.weight: this should be a valid number, not 'two'",
        "eval: a section of keys is needed, not 3",
    }


def test_faults_between_sections_come_at_once():
    assert faults("world/unified", "train.tasks=[t2i]", "rewards.t2i=[]", "algo.credit=joint") == [
        "rewards.t2i: no reward for a task of train.tasks; give one, or leave the task out of train.tasks",
        "algo.credit: joint needs both tasks in every step, to be rewarded in pairs; use per_task",
    ]


def test_a_draft_has_what_can_be_read_and_tells_what_cannot():
    overrides = [
        "sampling.group_size=1",
        "rewards.t2i.cycle.weight=two",
        "train.tasks=[t2i, paint]",
        "train.batch_size=7",
    ]
    draft = loader.examine("world/unified", [*overrides, "optim.lr=[1"])
    assert len(draft.faults) == 4
    assert (draft.recipe.sampling.group_size, draft.recipe.train.batch_size) == (8, 7)
    assert [spec.name for spec in draft.recipe.rewards.t2i] == ["cycle", "matching"]
    assert draft.recipe.train.tasks == ["t2i", "mm2t"]
    assert draft.tells("train.batch_size", "data", "rewards.mm2t")
    for key in ("train", "train.tasks", "sampling.group_size", "rewards", "optim.lr"):
        assert not draft.tells(key), key


def test_faults_between_sections_join_the_others_unless_they_follow_from_them():
    alone = ["train.tasks=[t2i]", "algo.credit=joint"]
    assert [line.partition(":")[0] for line in loader.examine("world/unified", [*alone, "seed=x"]).faults] == [
        "seed",
        "algo.credit",
    ]
    assert len(loader.examine("world/unified", [*alone, "algo.credit=none"]).faults) == 1


def test_a_recipe_without_a_single_sound_key_is_examined(tmp_path):
    path = write(tmp_path / "r.yaml", "name: [1]\nmodel: 3\nrewards: {t2i: [{weight: 2}]}\n1: 2\n")
    draft = loader.examine(path)
    assert len(draft.faults) == 4
    assert draft.recipe.model.checkpoint == "world"


def test_a_missing_name_is_named(tmp_path):
    assert faults(write(tmp_path / "r.yaml", REWARDS)) == ["name: missing; it has no default"]


def test_keys_that_are_not_text_are_refused(tmp_path):
    assert len(faults(write(tmp_path / "r.yaml", f"name: x\n1: 2\n{REWARDS}"))) == 1


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: x\nseed: [1, 2\n", 3, "expected ',' or ']'"),
        ("name: x\nseed: 1\nseed: 2\n", 3, 'duplicate key "seed"'),
        ("name: !!python/name:os.system x\n", 1, "could not determine a constructor"),
    ],
)
def test_a_fault_of_yaml_names_file_and_line(tmp_path, text, line, words):
    path = write(tmp_path / "r.yaml", text)
    message = refusal(path).message
    assert message.startswith(f"{path}, line {line}: ")
    assert words in message


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"words\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    assert str(path) in refusal(path).message


def test_an_unknown_name_suggests_the_nearest():
    assert "world/unified" in str(refusal("world/unifed").hint)
    assert "corl recipe ls" in str(refusal("qqqqqqqq").hint)


def test_names_leave_out_the_bases():
    assert {"world/unified", "world/checker", "unified/janus-pro-1b", "unified/janus-pro-7b"} <= set(loader.names())
    assert not [name for name in loader.names() if name.startswith("_")]


@settings(max_examples=25)  # of four floats each
@given(st.fixed_dictionaries({name: st.floats(min_value=1e-300, max_value=1e300) for name in FLOATS}))
def test_floats_are_dumped_as_numbers_for_any_yaml_reader(floats):
    text = loader.dump(loader.load("world/unified", [f"optim.{name}={value!r}" for name, value in floats.items()]))
    old = YAML(typ="safe", pure=True)
    old.version = (1, 1)
    for reader in (YAML(typ="safe", pure=True), old):
        read = reader.load(io.StringIO(text))["optim"]
        assert {name: read[name] for name in FLOATS} == floats


def test_diff_lists_values_of_both_and_none_for_an_absent_key():
    left = loader.load("world/unified")
    right = loader.load("world/unified", ["optim.lr=1.0", "rewards.t2i=[{name: cycle, perceptual: pixel}]"])
    changes = loader.diff(left, right)
    assert changes["optim.lr"] == (2e-4, 1.0)
    assert changes["rewards.t2i.cycle.text"] == ("scene_graph", None)
    assert "rewards.t2i.cycle.perceptual" not in changes
    assert loader.diff(left, left) == {}


def test_the_schema_describes_files_with_a_base():
    schema = loader.schema()
    assert set(schema["properties"]) >= {"base", "name", "optim"}
    assert {"required": ["base"]} in schema["anyOf"]
    assert schema["$defs"]["Optim"]["properties"]["lr"]["exclusiveMinimum"] == 0


def test_an_item_whose_name_has_dots_can_be_changed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: world/unified\nname: mine\nrewards: {t2i: [{name: 'my_pkg.module:Mine'}]}\n")
    changed = loader.load(path, ["rewards.t2i.my_pkg.module:Mine.on_error=mask"])
    assert changed.rewards.t2i[0].on_error == "mask"


def test_a_recipe_derived_from_another_has_the_changes_and_nothing_else():
    parent = loader.load("world/unified")
    child = loader.derive(parent, {"train": {"tasks": ["t2i"]}, "algo": {"beta": 0.02}})
    assert loader.diff(parent, child) == {"train.tasks": (["t2i", "mm2t"], ["t2i"]), "algo.beta": (0.0, 0.02)}


def test_a_derived_recipe_is_checked_as_any_other():
    with pytest.raises(UsageError, match=r"world-unified has a fault:\n  optim.lrr: unknown key; did you mean"):
        loader.derive(loader.load("world/unified"), {"optim": {"lrr": 1}})
