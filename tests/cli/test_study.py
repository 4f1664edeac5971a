"""`corl study` as a user types it, on the embedded world."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import corl, overrides, started, wait_for

SMALL = {
    "train.max_steps": 2,
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "eval.probes.items": 6,
    "optim.lr": 0.003,  # so large that two steps can be seen
    "optim.warmup_steps": 0,
}
SETS = overrides(SMALL)


def readings(folder: Path) -> dict[str, Any]:
    return {file.stem: json.loads(file.read_text())["scores"] for file in (folder / "readings").glob("*.json")}


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pilot with one seed."""
    folder = tmp_path_factory.mktemp("studies")
    done = corl("study", "paradigms", *SETS, "--seed", "0", "--out", "pilot", cwd=folder, code=0)
    title = next(line for line in done.stderr.splitlines() if line.startswith("[2/6] "))
    assert "left" not in title, "a reading alone says little about a training"
    assert "[6/6] unified-seed-0: reinforced, t2i + mm2t" in done.stderr
    assert "drawing is checker, answering is accuracy" in done.stdout
    return folder / "pilot"


def test_a_study_leaves_its_table_plot_and_every_run(pilot: Path) -> None:
    arms = ["cycle", "separate-mm2t", "separate-t2i", "unified"]
    assert sorted(path.name for path in (pilot / "runs").iterdir()) == [f"{arm}-seed-0" for arm in arms]
    assert sorted(readings(pilot)) == sorted(["start", "merging-seed-0", *(f"{arm}-seed-0" for arm in arms)])
    assert {"recipe.yaml", "provenance.json", "results.json", "table.md", "figure.png"} <= {
        path.name for path in pilot.iterdir()
    }
    lines = (pilot / "runs" / "unified-seed-0" / "metrics.jsonl").read_text().splitlines()
    assert not [line for line in lines if '"probe"' in line], "arms are read by the study alone"
    for arm in arms:
        run = pilot / "runs" / f"{arm}-seed-0"
        assert "finished" in (run / "report.html").read_text(), "the last page, not that of the start"
        assert (run / "picture.png").exists()


def test_the_table_says_what_the_readings_say(pilot: Path) -> None:
    rows = json.loads((pilot / "results.json").read_text())["rows"]
    kept = readings(pilot)
    sources = {"unified": ("unified", "unified"), "separate": ("separate-t2i", "separate-mm2t")}
    moved = []
    for title, arms in sources.items():
        for place, temperature in enumerate(["1", "0.3"]):
            row = next(row for row in rows if (row["title"], row["temperature"]) == (title, temperature))
            for arm, task, ability in zip(arms, ("t2i", "mm2t"), ("drawing", "answering"), strict=True):
                ours, start = (
                    [score["values"] for score in kept[name] if score["task"] == task][place]
                    for name in (f"{arm}-seed-0", "start")
                )
                cell = row["cells"][ability]
                assert cell["score"]["mean"] == pytest.approx(sum(ours) / 6)
                assert cell["change"]["mean"] == pytest.approx((sum(ours) - sum(start)) / 6)
                assert cell["change"]["low"] <= cell["change"]["mean"] <= cell["change"]["high"]
                moved.append(ours != start)
    assert any(moved)


def test_the_start_is_read_as_a_run_reads_it(pilot: Path) -> None:
    corl("train", "unified", *SETS, "--set", "train.max_steps=1", "--out", "run", cwd=pilot.parent, code=0)
    lines = [json.loads(line) for line in (pilot.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    probes = [line["probe"] for line in lines if line["step"] == 0 and "probe" in line]
    means = [(p["task"], p["temperature"], p["mean"]) for p in probes if not p["answer_type"]]
    kept = [(s["task"], s["temperature"], sum(s["values"]) / 6) for s in readings(pilot)["start"]]
    assert kept == means


def test_a_study_killed_at_any_moment_goes_on_where_it_was(pilot: Path) -> None:
    folder = pilot.parent
    words = ["study", "paradigms", *SETS, "--seed", "0", "--out", "killed"]
    shutil.rmtree(folder / "killed", ignore_errors=True)
    killed = started(*words, cwd=folder, stderr=subprocess.DEVNULL)
    wait_for(folder / "killed" / "runs" / "cycle-seed-0", killed, bool)
    killed.kill()
    killed.wait()
    done = {file.name: file.stat().st_mtime_ns for file in (folder / "killed" / "readings").iterdir()}
    assert "merging-seed-0.json" in done
    again = corl("study", "paradigms", "--out", "killed", "--resume", cwd=folder, code=0)
    assert "unified-seed-0" in again.stderr
    assert "merging-seed-0" not in again.stderr
    for name, written in done.items():
        assert (folder / "killed" / "readings" / name).stat().st_mtime_ns == written
    assert readings(folder / "killed") == readings(pilot)
    assert (folder / "killed" / "table.md").read_text() == (pilot / "table.md").read_text()


def test_ctrl_c_says_how_to_go_on_with_the_study(tmp_path: Path) -> None:
    words = ["study", "paradigms", *SETS, "--set", "train.max_steps=500", "--seed", "0", "--out", "stopped"]
    stopped = started(*words, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for(tmp_path / "stopped" / "runs" / "separate-t2i-seed-0", stopped, bool)
    stopped.send_signal(signal.SIGINT)
    _, talk = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, talk
    assert "hint: Go on with: corl study paradigms --out stopped --resume" in talk


def test_what_a_study_refuses(pilot: Path) -> None:
    folder = pilot.parent
    again = corl("study", "paradigms", *SETS, "--seed", "0", "--out", "pilot", cwd=folder, code=2)
    assert "pilot exists and is not empty." in again.stderr
    other = corl("study", "paradigms", *SETS, "--seed", "1", "--out", "pilot", "--resume", cwd=folder, code=2)
    assert "study.seeds: [0] there, [1] now" in other.stderr
    recipe = ["--recipe", "pilot/recipe.yaml"]
    kind = corl("study", "corl", *recipe, "--out", "pilot", "--resume", cwd=folder, code=2)
    assert "pilot is the study paradigms, not the study corl." in kind.stderr
    nowhere = corl("study", "corl", "--resume", cwd=folder, code=2)
    assert "corl study corl --out runs/NAME --resume" in nowhere.stderr


def test_everything_that_is_wrong_is_said_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    faulty = ["model.checkpoint=empty", "train.micro_batch_size=5", "study.sft.train.batch_size=7"]
    sets = [word for setting in faulty for word in ("--set", setting)]
    for more in ([], ["--dry-run"]):
        done = corl("study", "corl", *sets, "--out", "never", *more, cwd=tmp_path, code=2)
        for part in (
            "empty holds no model: there is no config.json in it",
            "error: empty",  # of the recipe itself, so without an arm's name
            "\ntrain.micro_batch_size: 5 does not divide the 12 triplets",
            "\nsft: train.micro_batch_size: 5 does not divide the 7 triplets",
        ):
            assert done.stderr.count(part) == 1, (part, done.stderr)
    typo = corl("study", "corl", *sets, "--set", "train.batch_sise=2", "--dry-run", cwd=tmp_path, code=2)
    for part in ("did you mean train.batch_size", "empty holds no model", "5 does not divide"):
        assert part in typo.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_study_that_was_moved_goes_on(tmp_path: Path) -> None:
    fewer = ["train.max_steps=1", "eval.probes.items=2", "study.refined.sampling.group_size=2"]
    fewer += ["rewards.t2i=[{name: matching}]"]
    words = [*SETS, *(word for key in fewer for word in ("--set", key)), "--seed", "0", "--out", "here"]
    killed = started("study", "corl", *words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "here" / "runs" / "corl-t2i-seed-0", killed, bool)
    killed.kill()
    killed.wait()
    (tmp_path / "here").rename(tmp_path / "there")
    done = corl("study", "corl", "--out", "there", "--resume", cwd=tmp_path, code=0)
    assert "corl-t2i-seed-0" in done.stderr
    start = json.loads((tmp_path / "there/runs/corl-t2i-seed-0/provenance.json").read_text())["start"]
    assert start.startswith(str(tmp_path / "there/runs/unified-seed-0/checkpoints"))


def test_a_plan_of_the_ablations(tmp_path: Path) -> None:
    rows = json.loads(corl("study", "corl", "--dry-run", "--json", cwd=tmp_path, code=0).stdout)
    arms = {row["arm"]: row for row in rows}
    assert arms["corl-t2i"]["from"] == "unified"
    assert arms["corl-merged"]["from"] == "corl-mcq + corl-oe"
    assert arms["refined-oe"]["samples"] == arms["refined-oe"]["steps"] * 12 * 16
    assert rows[-1]["steps"] == 3 * sum(row["steps"] for row in rows[:-1])
    assert not list(tmp_path.iterdir())


def test_stages_and_rewards_end_to_end(tmp_path: Path) -> None:
    fewer = ["train.max_steps=1", "eval.probes.items=4", "study.refined.sampling.group_size=2"]
    fewer += ["rewards.t2i=[{name: matching}]"]  # one reward: no arms for each
    words = [*SETS, *(word for key in fewer for word in ("--set", key)), "--seed", "0", "--out", "ablations", "--json"]
    results = json.loads(corl("study", "corl", *words, cwd=tmp_path, code=0).stdout)
    rows = {row["title"]: row for row in results["rows"] if row["temperature"] == "1"}
    assert set(rows["refined after unified"]["cells"]) == {"drawing", "answering mc", "answering oe", "mean"}
    assert rows["refined after unified"]["steps"] == 4
    kept = readings(tmp_path / "ablations")
    right = next(score for score in kept["corl-oe-seed-0"] if score["task"] == "mm2t")
    own = [value for value, kind in zip(right["values"], right["answer_types"], strict=True) if kind == "oe"]
    cell = rows["refined after unified"]["cells"]["answering oe"]
    assert cell["score"]["mean"] == pytest.approx(sum(own) / len(own))
    provenance = json.loads((tmp_path / "ablations" / "runs" / "corl-oe-seed-0" / "provenance.json").read_text())
    assert "runs/unified-seed-0/checkpoints/step-000001" in provenance["start"]
