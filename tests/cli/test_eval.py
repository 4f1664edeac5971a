"""`corl eval` as a user types it, on the embedded world: killed, on two processes, and with bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmms_items
import pytest
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.pipelines.evaluate import alone_in

PROMPTS = 24
SLOWLY = ["--limit", str(PROMPTS), "--set", "eval.batch_size=8"]  # in batches of two prompts


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "corl_cli", *map(str, words)]


def corl(*words: str | Path, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def files(folder: Path) -> dict[str, str]:
    """Every file of a result by its digest; how long it took is nobody's result."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.jsonl")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def geneval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("eval") / "geneval"
    done = corl("eval", "geneval", *SLOWLY, "--out", folder)
    assert "this is the shipped tiny Janus" in done.stderr
    assert "embedded world" in done.stderr
    assert f"{PROMPTS} of its" in done.stderr
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    sets = {"train.max_steps": 1, "train.batch_size": 2, "sampling.group_size": 2, "eval.probes": "null"}
    corl(
        "train",
        "unified",
        "--out",
        folder,
        *(word for pair in sets.items() for word in ("--set", "=".join(map(str, pair)))),
    )
    return folder


def test_a_result_is_its_files(geneval):
    items, scores = lines(geneval / "items.jsonl"), lines(geneval / "scores.jsonl")
    result = json.loads((geneval / "result.json").read_text())
    assert len(items) == PROMPTS
    assert {item["group"] for item in items} == {
        "single_object", "two_object", "counting", "colors", "position", "color_attr",
    }  # fmt: skip
    assert len(scores) == result["samples"] == 4 * PROMPTS
    tags = {name: [s["value"] for s in scores for i in items if i["id"] == s["item"] and i["group"] == name]
            for name in {item["group"] for item in items}}  # fmt: skip
    assert result["overall"] == pytest.approx(sum(sum(v) / len(v) for v in tags.values()) / 6)
    assert result["comparable"] is False
    assert result["limit"] == PROMPTS
    assert "embedded world" in json.dumps(result["prompts"])
    assert "checker" in json.dumps(result["scorer"])
    assert len(list((geneval / "images").glob("*/samples/*.png"))) == 4 * PROMPTS
    assert len(list((geneval / "images").glob("*/metadata.jsonl"))) == PROMPTS


def test_killed_twice_it_comes_to_the_same_files(geneval, tmp_path):
    words = ["eval", "geneval", *SLOWLY, "--out", tmp_path / "it"]
    for images in (8, 32):
        process = subprocess.Popen(command(*words, "--resume"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(list(tmp_path.glob("it/images/*/samples/*.png"))) < images:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert not (tmp_path / "it" / "scores.jsonl").exists()
    corl(*words, "--resume")
    assert files(tmp_path / "it") == files(geneval)


def test_two_processes_come_to_the_same_files(geneval, tmp_path):
    words = ["eval", "geneval", *SLOWLY, "--out", tmp_path / "it", "--num-processes", "2"]
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "it") == files(geneval)
    sessions = lines(tmp_path / "it" / "timing.jsonl")
    assert {(line["step"], line["process"]) for line in sessions} >= {("generate", 0), ("generate", 1)}


def test_the_steps_can_be_taken_apart(geneval, tmp_path):
    folder = tmp_path / "it"
    corl("eval", "geneval", *SLOWLY, "--out", folder, "--only", "generate")
    assert not (folder / "scores.jsonl").exists()
    moved = shutil.move(folder, tmp_path / "elsewhere")
    told = (Path(moved) / "eval.yaml").read_text()
    assert "checkpoint: world\n" in told
    (Path(moved) / "eval.yaml").write_text(told.replace("checkpoint: world\n", "checkpoint: /not/on/this/machine\n"))
    corl("eval", "geneval", "--out", moved, "--only", "score")
    assert not (Path(moved) / "result.json").exists()
    corl("eval", "geneval", "--out", moved, "--only", "summarise")
    (Path(moved) / "eval.yaml").write_text(told)
    assert files(Path(moved)) == files(geneval)


def test_a_larger_batch_changes_nothing(geneval, tmp_path):
    corl("eval", "geneval", "--limit", PROMPTS, "--out", tmp_path / "it")
    assert (tmp_path / "it" / "scores.jsonl").read_text() == (geneval / "scores.jsonl").read_text()


def test_a_result_is_not_overwritten(geneval):
    before = files(geneval)
    done = corl("eval", "geneval", *SLOWLY, "--out", geneval, code=2)
    assert "holds a result already" in done.stderr
    assert "--resume" in done.stderr
    assert files(geneval) == before
    shown = corl("eval", "geneval", "--out", geneval, "--resume", "--json")
    assert json.loads(shown.stdout)["overall"] == json.loads((geneval / "result.json").read_text())["overall"]
    assert json.loads(shown.stdout)["throughput"]["generate"] > 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--set", "eval.t2i.temperature=0.5"], "sampling.t2i.temperature: 1.0 there, 0.5 now"),
        (["--set", "seed=1"], "sampling.seed: 0 there, 1 now"),
        (["--set", "model.dtype=bfloat16"], "sampling.dtype: 'float32' there, 'bfloat16' now"),
        (["--set", "eval.t2i.images=2"], "sampling.t2i.images: None there, 2 now"),
        (["--set", "eval.benchmarks.geneval.threshold=0.5"], "scorer.threshold: 0.3 there, 0.5 now"),
        (["--limit", "3"], "was begun with --limit 24"),
    ],
)
def test_two_results_are_never_mixed(geneval, words, what):
    before = files(geneval)
    done = corl("eval", "geneval", "--out", geneval, "--resume", *words, code=2)
    assert what in done.stderr
    assert files(geneval) == before


def test_results_of_another_checkpoint_are_refused(geneval, trained):
    done = corl("eval", "geneval", "--out", geneval, "--resume", "--checkpoint", trained, code=2)
    assert "checkpoint.weights" in done.stderr


def test_gaps_are_told_and_a_part_is_called_one(geneval, tmp_path):
    folder = Path(shutil.copytree(geneval, tmp_path / "it"))
    for file in ("scores.jsonl", "result.json"):
        (folder / file).unlink()
    missing = next((folder / "images").iterdir())
    shutil.rmtree(missing / "samples")
    done = corl("eval", "geneval", "--out", folder, "--only", "score", code=1)
    assert f"4 of {4 * PROMPTS} samples" in done.stderr
    assert f"sample 0 of {missing.name}" in done.stderr
    corl("eval", "geneval", "--out", folder, "--only", "score", "--allow-partial")
    done = corl("eval", "geneval", "--out", folder, "--only", "summarise", code=1)
    assert "4 of 96 samples have no score" in done.stderr
    assert json.loads((folder / "result.json").read_text())["overall"] is None
    done = corl("eval", "geneval", "--out", folder, "--only", "summarise", "--allow-partial")
    assert "overall (partial)" in done.stdout
    corl("eval", "geneval", "--out", folder, "--resume")
    assert files(folder) == files(geneval)


def test_a_damaged_drawing_is_made_again_and_the_others_stay(geneval, tmp_path):
    folder = Path(shutil.copytree(geneval, tmp_path / "it"))
    (folder / "scores.jsonl").unlink()
    torn = sorted(folder.glob("images/*/samples/*.png"))[5]
    torn.write_bytes(torn.read_bytes()[:60])
    corl("eval", "geneval", "--out", folder, "--only", "score", code=1)
    corl("eval", "geneval", "--out", folder, "--resume")
    assert files(folder) == files(geneval)


def test_drawings_of_an_unknown_origin_are_not_taken_over(geneval, tmp_path):
    folder = Path(shutil.copytree(geneval, tmp_path / "it"))
    (folder / "manifest.json").unlink()
    done = corl("eval", "geneval", *SLOWLY, "--out", folder, "--set", "seed=7", code=2)
    assert "is not empty, and holds no result" in done.stderr


@pytest.mark.parametrize("file", ["manifest.json", "items.jsonl", "result.json", "scores.jsonl"])
def test_a_damaged_file_is_one_clear_line(geneval, tmp_path, file):
    folder = Path(shutil.copytree(geneval, tmp_path / "it"))
    text = (folder / file).read_text()
    (folder / file).write_text("{torn\n" + text[7:])
    done = corl("eval", "report", folder, code=1)
    assert file in done.stderr
    assert "Traceback" not in done.output


def test_one_command_at_a_time_works_in_a_folder(geneval, tmp_path):
    folder = Path(shutil.copytree(geneval, tmp_path / "it"))
    with alone_in(folder):
        done = corl("eval", "geneval", "--out", folder, "--resume", code=2)
    assert "Another command is at work" in done.stderr
    corl("eval", "geneval", "--out", folder, "--resume")


def test_a_run_is_evaluated_in_its_own_folder_and_compared(trained, tmp_path):
    corl("eval", "world", "--checkpoint", trained, "--set", "eval.benchmarks.world.items=12")
    corl("eval", "world", "--set", "eval.benchmarks.world.items=12", "--out", tmp_path / "start")
    [found] = (trained / "eval").glob("step-*/world")
    assert "step-000001" in json.loads((found / "result.json").read_text())["checkpoint"]["name"]
    rows = json.loads(corl("eval", "compare", tmp_path / "start", found, "--json").stdout)
    assert rows
    done = corl("eval", "report", found)
    assert (found / "report.html").stat().st_size > 10_000
    assert "report.html" in done.stderr


def test_a_suite_runs_what_the_recipe_lists(tmp_path):
    sets = ["--set", "eval.benchmarks.world.items=6", "--limit", "6"]
    done = corl("eval", "suite", *sets, "--out", tmp_path / "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["geneval-world", "world"]
    assert "GenEval (world)" in done.stdout
    shown = corl("eval", "suite", *sets, "--out", tmp_path / "all", "--resume", "--json")
    assert [result["benchmark"] for result in json.loads(shown.stdout)] == ["world", "geneval"]


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="pip install '.[eval]'")
def test_understanding_through_lmms_eval(tmp_path):
    lmms_items.dataset("mmmu").save_to_disk(tmp_path / "set")
    data = f"eval.benchmarks.mmmu.data={tmp_path / 'set'}"
    done = corl("eval", "mmmu", "--set", data, "--limit", "2", "--out", tmp_path / "it", "--json")
    result = json.loads(done.stdout)
    assert (result["items"], result["failed"]) == (2, 0)
    assert result["overall"] == result["metrics"]["mmmu_acc"]
    assert (result["prompts"]["task"], result["prompts"]["prompt"]) == ("mmmu_val", "plain")
    answers = {line["item"]: line["text"] for line in lines(tmp_path / "it" / "answers.jsonl")}
    for score in lines(tmp_path / "it" / "scores.jsonl"):
        assert score["details"]["tagged"] is ("<answer>" in answers[score["item"]])


OWN = """
from corl_cli.core.section import Section
from corl_cli.eval.base import Benchmark, Item, Score

class Options(Section):
    broken: str = "b"

class Lengths(Benchmark):
    title, tasks, measure = "Lengths", ("mm2t",), "the share of answers, which is all"
    Options = Options

    def items(self, folder):
        from PIL import Image
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(folder / "inputs" / "x.png")
        ask = "what colour is the circle?"
        return [Item(id=n, task="mm2t", prompt=ask, group="all", image="inputs/x.png") for n in "abc"]

    def protocol(self):
        return {"prompts": "three"}

    def scorer(self):
        return {"name": "length"}

    def score(self, work, folder):
        for one in work:
            torn = one.item.id == self.options.broken
            yield Score(item=one.item.id, sample=one.sample, value=None if torn else 1.0, reason="torn" if torn else "")
"""


def test_a_benchmark_of_ones_own_with_an_item_that_fails_every_time(tmp_path, monkeypatch):
    (tmp_path / "own_lengths.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = corl("eval", "own_lengths:Lengths", "--out", "r", code=1)
    assert "1 of 3 samples have no score" in done.stderr
    assert "torn" in done.stderr
    assert [score["value"] for score in lines(tmp_path / "r" / "scores.jsonl")] == [1.0, None, 1.0]
    corl("eval", "own_lengths:Lengths", "--out", "r", "--resume", code=1)  # tried again
    done = corl("eval", "own_lengths:Lengths", "--out", "r", "--resume", "--allow-partial", "--json")
    assert (json.loads(done.stdout)["overall"], json.loads(done.stdout)["failures"]) == (1.0, {"torn": 1})


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["eval", "genevil"], "Did you mean geneval?"),
        (["eval", "nowhere:Bench"], "cannot be imported"),
        (["eval", "geneval", "--set", "eval.benchmarks.geneval.treshold=1"], "did you mean threshold?"),
        (["eval", "geneval", "--checkpoint", "no/such/place"], "neither a folder here nor the id of a model"),
        (["eval", "geneval", "--checkpoint", "no/model"], "the policy's weights (missing)"),
        (["eval", "geneval", "--only", "score"], "holds nothing to score"),
        (["eval", "wise"], "WISE"),
        (["eval", "dpg"], "dpg"),
        (["eval", "compare", "nowhere", "nowhere"], "nowhere"),
        (["eval", "report", "nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(words, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (1, 2), done.output
    assert what in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_a_benchmark_of_ones_own_is_told_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "torn.py").write_text(OWN.replace("torn = one", "1 / 0; torn = one"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = corl("eval", "torn:Lengths", "--out", "r", code=1)
    assert "torn:Lengths: `score` failed: ZeroDivisionError" in done.stderr
    assert "torn.py:" in done.stderr


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = corl("eval", "geneval", "--dry-run", "--json")
    [plan] = json.loads(done.stdout)
    assert plan["checkpoint"] == "world"
    assert "checker" in plan["scorer"]
    assert not list(tmp_path.iterdir())


def test_the_list_of_benchmarks_has_all_of_them():
    rows = {row["name"]: row for row in json.loads(corl("eval", "ls", "--json").stdout)}
    assert list(rows) == [
        "world", "geneval", "wise", "dpg", "mmmu", "mmstar", "wemath", "mmvet", "pope", "logicvista", "mathvista",
        "mathverse", "mathvision",
    ]  # fmt: skip
    assert rows["geneval"]["embedded world"] == rows["world"]["Janus-Pro"] == "ready"
    assert "a judge (missing)" in rows["wise"]["Janus-Pro"]


def test_the_scorer_is_tried_on_what_is_known():
    done = corl("eval", "geneval", "--self-test", "--json")
    assert all(row["passed"] == "yes" for row in json.loads(done.stdout))
