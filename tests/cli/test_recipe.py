import json

import pytest
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.core import loader

run = CliRunner()


def test_ls_lists_the_shipped_recipes():
    result = run.invoke(app, ["recipe", "ls", "--json"])
    assert result.exit_code == 0
    assert [row["recipe"] for row in json.loads(result.stdout)] == loader.names()
    assert "world/unified" in run.invoke(app, ["recipe", "ls"]).stdout


def test_show_prints_what_load_reads_back(tmp_path):
    overrides = ["--set", "rewards.t2i.cycle.weight=2", "--set", "optim.lr=4e-6"]
    result = run.invoke(app, ["recipe", "show", "world/unified", *overrides])
    path = tmp_path / "r.yaml"
    path.write_text(result.stdout)
    assert loader.load(path) == loader.load("world/unified", ["rewards.t2i.cycle.weight=2", "optim.lr=4e-6"])
    as_json = run.invoke(app, ["recipe", "show", "world/unified", *overrides, "--json"])
    assert json.loads(as_json.stdout)["optim"]["lr"] == 4e-6


def test_show_reports_every_fault_and_exits_2():
    result = run.invoke(app, ["recipe", "show", "world/unified", "--set", "optim.lrr=1", "--set", "seed=x"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean optim.lr?" in result.stderr
    assert "seed: " in result.stderr


def test_copy_is_verbatim_and_never_overwrites(tmp_path):
    path = tmp_path / "mine.yaml"
    assert run.invoke(app, ["recipe", "copy", "world/checker", str(path)]).exit_code == 0
    assert path.read_bytes() == loader.locate("world/checker").read_bytes()
    assert loader.load(path) == loader.load("world/checker")
    again = run.invoke(app, ["recipe", "copy", "world/unified", str(path)])
    assert again.exit_code == 2
    assert loader.load(path).name == "world-checker"
    assert run.invoke(app, ["recipe", "copy", "world/unified", str(tmp_path / "mine")]).exit_code == 2


@pytest.mark.parametrize("name", loader.names())
def test_validate_passes_what_is_shipped(name):
    result = run.invoke(app, ["recipe", "validate", name])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{name}: ok\n"


def test_validate_reports_all_recipes_and_exits_2(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("base: world/unified\noptim: {lrr: 1}\n")
    result = run.invoke(app, ["recipe", "validate", str(bad), "world/checker", "nowhere"])
    assert result.exit_code == 2
    assert result.stdout == "world/checker: ok\n"
    assert "optim.lrr" in result.stderr
    assert "There is no recipe 'nowhere'" in result.stderr


def test_validate_binds_the_rewards(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("base: world/unified\nrewards: {t2i: [{name: chekcer}]}\n")
    result = run.invoke(app, ["recipe", "validate", str(bad)])
    assert result.exit_code == 2
    assert "chekcer" in result.stderr


def test_diff_exits_1_when_recipes_differ(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: world/unified\nseed: 4\n")
    result = run.invoke(app, ["recipe", "diff", "world/unified", str(mine), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout) == [{"key": "seed", "world/unified": 0, str(mine): 4}]
    assert "seed" in run.invoke(app, ["recipe", "diff", "world/unified", str(mine)]).stdout
    same = run.invoke(app, ["recipe", "diff", "world/unified", "world/unified"])
    assert (same.exit_code, same.stdout) == (0, "")


def test_schema_is_json():
    schema = json.loads(run.invoke(app, ["recipe", "schema"]).stdout)
    assert schema["title"] == "Recipe"
    assert "description" in schema["$defs"]["Probes"]["properties"]["temperature"]
