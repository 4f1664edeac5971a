"""Shell completion: by the protocol that shells speak, and of what is on the disk."""

import os
import subprocess
import sys

import pytest
from commands import corl
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.cli.common import complete_checkpoint, complete_result, complete_run
from corl_cli.core.loader import names
from corl_cli.eval import BENCHMARKS
from corl_cli.rewards import REWARDS

RUNS = ["runs/first", "runs/second", "runs/study/arm"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Runs, a study, a model, results and a folder of something else."""
    for run in RUNS:
        lay(tmp_path / run, "recipe.yaml")
        lay(tmp_path / run / "checkpoints" / "step-000002", "config.json")
        lay(tmp_path / run / "samples" / "inside", "recipe.yaml")
    lay(tmp_path / "runs/study", "recipe.yaml")
    lay(tmp_path / "models/merged", "config.json")
    lay(tmp_path / "runs/eval/world/world", "result.json", "eval.yaml")
    lay(tmp_path / "runs/eval/world/world/images/result", "result.json")
    lay(tmp_path / ".hidden/run", "recipe.yaml")
    lay(tmp_path / "other", "readme.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lay(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).touch()


def completed(line):
    """What corl answers a bash that asks how to go on with a line, within this process."""
    words = line.split(" ")
    asked = {"_CORL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(app, [], prog_name="corl", env=asked)
    return result.stdout.split()


def test_shells_are_answered_by_a_process_of_their_own(place):
    def ask(line):
        asked = {"_CORL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        command = [sys.executable, "-X", "importtime", "-c", "from corl_cli.__main__ import main; main()"]
        done = subprocess.run(command, cwd=place, env=os.environ | asked, capture_output=True, text=True, timeout=60)
        assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        return done.stdout.split()

    assert ask("corl train unified --recipe unified/") == ["unified/janus-pro-1b", "unified/janus-pro-7b"]
    assert ask("corl reward audit runs/f") == ["runs/first"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("corl doc", ["doctor"]),
        ("corl recipe show unified/", ["unified/janus-pro-1b", "unified/janus-pro-7b"]),
        ("corl recipe diff world/unified world/cy", ["world/cycle"]),
        ("corl plan unified/janus-pro-1", ["unified/janus-pro-1b"]),
        ("corl eval ", [*BENCHMARKS, "ls", "suite", "compare", "report"]),
        ("corl eval ge", ["geneval"]),
        ("corl eval geneval --checkpoint wo", ["world"]),
        ("corl eval nothing --chec", []),
        ("corl eval report runs/eval/", ["runs/eval/world/world"]),
        ("corl eval compare runs/eval/world/world runs/eval/", ["runs/eval/world/world"]),
        ("corl reward show ", list(REWARDS)),
        ("corl reward score --reward c", ["checker", "clip", "cycle"]),
        ("corl reward explain --checkpoint runs/s", ["runs/second", "runs/study/arm"]),
        ("corl reward audit runs/f", ["runs/first"]),
        ("corl reward replay runs/first --reward cl", ["clip"]),
        ("corl merge runs/first runs/se", ["runs/second"]),
        ("corl merge runs/first --base w", ["world"]),
        ("corl convert mod", ["models/merged"]),
        ("corl bench rollout --model w", ["world"]),
        ("corl prepare-data --rollouts runs/f", ["runs/first"]),
        ("corl doctor --for ", ["train", "eval", "reward"]),
        ("corl doctor --for train world/un", ["world/unified"]),
        ("corl doctor --for eval mmm", ["mmmu"]),
        ("corl doctor --for reward acc", ["accuracy"]),
        ("corl doctor acc", []),
        ("corl train refined --from runs/f", ["runs/first"]),
        ("corl train refined --task ", ["t2i", "mcq", "oe"]),
        ("corl study corl --recipe study/c", ["study/corl"]),
    ],
)
def test_names_are_completed_wherever_they_are_typed(place, line, found):
    assert completed(line) == found


def test_shipped_recipes_are_all_there(place):
    assert completed("corl train unified --recipe ") == names()


def test_runs_are_folders_with_a_recipe(place):
    assert sorted(complete_run("")) == sorted([*RUNS, "runs/study"])
    assert complete_run("./runs/f") == ["./runs/first"]
    assert complete_run(f"{place}/runs/f") == [f"{place}/runs/first"]
    assert complete_run("runs/study/") == ["runs/study/arm"]
    assert complete_run("other") == complete_run("none/such") == []


def test_checkpoints_are_what_weights_can_be_taken_from(place):
    assert sorted(complete_checkpoint("")) == sorted(["world", "models/merged", *RUNS])
    assert complete_checkpoint("runs/first/checkpoints/") == ["runs/first/checkpoints/step-000002"]


def test_results_hold_none_inside(place):
    assert complete_result("") == ["runs/eval/world/world"]


def test_a_folder_that_cannot_be_read_is_passed_over(place):
    (place / "loop").symlink_to(place)
    (place / "broken").symlink_to(place / "nowhere")
    assert set(RUNS) <= set(complete_run(""))


def test_completion_can_be_installed(place):
    text = corl("--help", cwd=place, code=0).stdout
    assert "--install-completion" in text
    assert "--show-completion" in text
