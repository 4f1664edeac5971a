"""`corl reward replay | audit` on a true run of the embedded world."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.core.loader import dump, load

SETTINGS = {
    "train.batch_size": 2,
    "train.max_steps": 3,
    "sampling.group_size": 4,
    "sampling.mm2t.max_new_tokens": 40,
    "eval.probes.items": 2,
    "tracking.samples_every": 9,
    "tracking.rollouts_every": 1,
    "checkpoint.every": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, all recorded, with checkpoints of steps 2 and 3."""
    path = tmp_path_factory.mktemp("runs") / "run"
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "corl_cli", "train", "unified", "--out", str(path), *sets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return path


def corl(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["reward", *map(str, words)])


def test_replay_reproduces_what_was_recorded(run):
    done = corl("replay", run, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == [1, 2, 3]
    assert {step: "that sampled them" in words for step, words in found["weights"].items()} == {
        "1": True,  # the start
        "2": False,  # checkpoint 2 is one update too late
        "3": True,  # checkpoint 2 sampled it
    }
    assert "one update later" in found["weights"]["2"]
    largest = {reward["reward"]: reward["largest_difference"] for reward in found["rewards"]}
    assert largest["cycle"] == largest["accuracy"] == largest["format"] == pytest.approx(0, abs=1e-6)
    exact = json.loads(corl("replay", run, "--step", 3, "--json").stdout)
    assert all(reward["largest_difference"] < 1e-5 for reward in exact["rewards"])


def test_replay_with_other_rewards_in_words(run):
    done = corl("replay", run, "--reward", "checker", "--reward", "{name: accuracy, weight: 2}")
    assert done.exit_code == 0, done.stderr
    assert "1 -> -" in done.stdout  # cycle and matching are left out
    assert "scored again" in done.stdout
    assert "1 -> 2" in done.stdout
    assert "rank correlation" in done.stdout
    assert "read the policy" not in done.stderr  # none of these does


def test_audit_prints_the_same_as_text_json_and_page(run, tmp_path):
    page = tmp_path / "page.html"
    done = corl("audit", run, "--json", "--out", page)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {(task["task"], task["groups"]) for task in found["tasks"]} == {("t2i", 6), ("mm2t", 6)}
    assert {reward["reward"] for reward in found["rewards"]} >= {"cycle.pixel", "cycle.scene_graph", "total"}
    assert all(reward["failed"] == 0 for reward in found["rewards"])
    assert "identical captions in a group" in found["checked"]["t2i"]  # this run has recorded what cycle read
    text = corl("audit", run)
    assert text.exit_code == 0
    assert "Early is step 1, late is step 3; with one step on each side" in text.stdout
    assert "Checked (mm2t): several answer blocks, all options listed" in text.stdout
    for alarm in found["alarms"]:
        assert alarm["seen"] in text.stdout
        assert alarm["name"] in page.read_text()
    assert str(run / "audit.html") in text.stderr
    html = (run / "audit.html").read_text()
    assert html.count("<svg") == 11  # five curves of drawing, three of answering, three looks
    assert "http" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["replay", "RUN", "--step", "7"], 2, "has no rollouts of step 7"),
        (["replay", "RUN", "--reward", "cycl"], 2, "There is no reward 'cycl'"),
        (["replay", "RUN", "--set", "optim.lr=1"], 2, "optim.lr changes what is sampled or learnt"),
        (["replay", "NOWHERE"], 2, "is not a run"),
        (["audit", "NOWHERE"], 2, "is not a run"),
        (["audit", "RUN", "--out", "page.txt"], 2, "the page is HTML"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, words, code, message):
    done = corl(*({"RUN": run, "NOWHERE": tmp_path / "nowhere"}.get(word, word) for word in words))
    assert done.exit_code == code
    assert message in done.stderr
    assert "hint:" in done.stderr


@pytest.mark.parametrize("command", ["audit", "replay"])
def test_what_has_no_rewards_says_why(tmp_path, command):
    (tmp_path / "recipe.yaml").write_text(dump(load("world/sft")))
    done = corl(command, tmp_path)
    assert (done.exit_code, "imitates: it samples nothing" in done.stderr) == (2, True), done.stderr
    (tmp_path / "recipe.yaml").rename(tmp_path / "merge.json")
    done = corl(command, tmp_path)
    assert (done.exit_code, "is the result of corl merge, not a run" in done.stderr) == (2, True), done.stderr


def test_audit_goes_on_without_a_damaged_step_and_replay_names_it(run, tmp_path):
    shutil.copytree(run, tmp_path / "torn")
    rows = tmp_path / "torn" / "rollouts" / "step-000002" / "rows.jsonl"
    rows.write_text(rows.read_text().partition("\n")[0] + "\n")  # a torn group
    done = corl("audit", tmp_path / "torn")
    assert done.exit_code == 0, done.stderr
    assert "Not checked: step 2 cannot be read: " in done.stdout
    assert "Early is step 1, late is step 3" in done.stdout
    again = corl("replay", tmp_path / "torn", "--reward", "format")
    assert again.exit_code == 1
    assert "Step 2 cannot be read: " in again.stderr
    assert "hint: Choose another with --step: 1, 3." in again.stderr


def test_a_recording_of_an_earlier_corl_is_one_line(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    for rows in (tmp_path / "old").glob("rollouts/*/rows.jsonl"):
        rows.write_text(rows.read_text().replace('"terms"', '"words"'))
    for command in ("replay", "audit"):
        done = corl(command, tmp_path / "old")
        assert done.exit_code == 1
        assert "recorded by an earlier corl" in done.stderr
