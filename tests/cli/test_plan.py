"""`corl plan`: tables, JSON, exit codes, and changes that do what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import corl, overrides

from corl_cli.pipelines.random_weights import JANUS, janus_config


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The paper's stage 1 with shapes of its size, on data that are here."""
    folder = tmp_path_factory.mktemp("model")
    janus_config(JANUS["janus-pro-1b"]).save_pretrained(folder)
    changes = ["data.path=world", "data.holdout=0", "train.max_steps=100"]
    sets = [word for change in changes for word in ("--set", change)]
    return ["plan", "unified/janus-pro-1b", "--from", str(folder), *sets]


def test_a_recipe_that_fits(words: list[str], tmp_path: Path) -> None:
    done = corl(*words, "--gpu", "h100", "--json", cwd=tmp_path, code=0)
    report = json.loads(done.stdout)
    assert report["fits"] is True
    assert report["memory"]["total"] < report["gpu"]["memory"]
    assert report["changes"] == []
    phases = {key: value for key, value in report["seconds"].items() if key != "step"}
    assert phases.keys() == {"rollout t2i", "rollout mm2t", "update t2i", "update mm2t", "optimiser"}
    assert report["seconds"]["step"] == pytest.approx(sum(phases.values()))
    assert report["hours"] == pytest.approx(100 * report["seconds"]["step"] / 3600)
    assert any("assumed, not measured" in line for line in report["basis"])
    assert report["gpu"]["source"] == "data sheet"


def test_a_recipe_that_does_not_fit_says_what_would(words: list[str], tmp_path: Path) -> None:
    done = corl(*words, "--gpu", "rtx4090", "--json", cwd=tmp_path, code=1)
    report = json.loads(done.stdout)
    assert report["fits"] is False
    changes = report["changes"]
    assert [any(word in change["add"] for change in changes) for word in ("fsdp", "lora")] == [True, True]
    assert all(change["needed"] < report["memory"]["total"] for change in changes), "what does not help is not told"
    fitting = next(change for change in changes if change["fits"] and "--gpus" not in change["add"])
    again = corl(*words, "--gpu", "rtx4090", "--json", *fitting["add"].split(), cwd=tmp_path, code=0)
    assert json.loads(again.stdout)["memory"]["total"] == fitting["needed"]


def test_the_table_and_its_basis(words: list[str], tmp_path: Path) -> None:
    done = corl(*words, cwd=tmp_path, code=0)
    assert "optimiser's moments" in done.stdout
    assert "fits into 79.0" in done.stdout
    assert "GPU-hours" in done.stdout
    assert "(assumed, there is no GPU here; data sheet)" in done.stderr
    assert "Left out: rewards" in done.stderr


RATES = {"bandwidth": 4e12, "arithmetic": {"bfloat16": 8e14, "float32": 5e13}, "memory": 139 * 2**30}


def bench(folder: Path, name: str, device: str = "cuda") -> str:
    """A report as of `corl bench rollout --json`, with shares of the rates that it measured."""
    rows = [
        {"task": "t2i", "bandwidth_share": 1.0, "arithmetic_share": 0.1},
        {"task": "mm2t", "bandwidth_share": 0.25, "arithmetic_share": 0.1},
    ]
    report = {"command": "rollout", "model": "tiny", "device": device, "machine": {"name": name, **RATES}, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(report))
    return f"{name}.json"


def test_a_bench_takes_the_place_of_assumptions_and_of_the_data_sheet(words: list[str], tmp_path: Path) -> None:
    file = bench(tmp_path, "NVIDIA H200")
    rates = ["--memory", "139", "--bandwidth", "4", "--arithmetic", "800"]
    plain, measured = (
        json.loads(corl(*words, "--json", *more, cwd=tmp_path, code=0).stdout)
        for more in (rates, ["--gpu", "h200", "--bench", file])
    )
    assert measured["gpu"] == {"name": "NVIDIA H200", **RATES, "source": "measured by the bench"}
    seconds, assumed = measured["seconds"], plain["seconds"]
    assert seconds["rollout t2i"] == pytest.approx(assumed["rollout t2i"] / 2), "twice the half that is assumed"
    assert seconds["rollout mm2t"] == pytest.approx(assumed["rollout mm2t"] * 2)
    assert seconds["update t2i"] == pytest.approx(assumed["update t2i"])
    assert any("that of update and optimiser assumed" in line for line in measured["basis"])


def test_a_bench_of_another_machine_is_refused(words: list[str], tmp_path: Path) -> None:
    def refused(*more: str) -> str:
        return corl(*words, *more, cwd=tmp_path, code=2).stderr

    h200, a100 = bench(tmp_path, "NVIDIA H200"), bench(tmp_path, "NVIDIA A100-SXM4-40GB")
    cpu = bench(tmp_path, "Xeon, 2 threads", "cpu")
    assert "measured on the CPU Xeon" in refused("--gpu", "h200", "--bench", cpu)
    assert "which says nothing of --gpu h100" in refused("--gpu", "h100", "--bench", h200)
    assert "which says nothing of --gpu a100-80gb" in refused("--gpu", "a100-80gb", "--bench", a100)
    assert "of several machines" in refused("--bench", h200, "--bench", a100)
    assert "not of --bandwidth as given" in refused("--bandwidth", "4", "--bench", h200)
    (tmp_path / "bad.json").write_text("{}")
    assert "is no report of a bench" in refused("--gpu", "h200", "--bench", "bad.json")


def test_what_corl_bench_prints_can_be_planned_with(tmp_path: Path) -> None:
    words = ["--model", "small", "--prompts", "1", "--group-size", "2", "--repeats", "1", "--json"]
    printed = corl("bench", "rollout", *words, cwd=tmp_path, code=0).stdout
    (tmp_path / "rollout.json").write_text(printed)
    done = corl("plan", "world/unified", "--bench", "rollout.json", "--json", cwd=tmp_path, code=0)
    report, machine = json.loads(done.stdout), json.loads(printed)["machine"]
    assert report["gpu"] == machine | {"source": "measured by the bench"}
    assert any(f"measured with small on {machine['name']} (rollout.json)" in line for line in report["basis"])


def test_own_figures_and_more_gpus(words: list[str], tmp_path: Path) -> None:
    own = ["--memory", "200", "--bandwidth", "2", "--arithmetic", "500", "--json"]
    one, two = (json.loads(corl(*words, *own, "--gpus", many, cwd=tmp_path, code=0).stdout) for many in ("1", "2"))
    assert one["gpu"]["memory"] == 200 * 2**30
    assert one["gpu"]["name"] == "a GPU of these figures"
    assert one["gpu"]["source"] == "memory, bandwidth, arithmetic as given"
    assert one["micro_batch_size"] == two["micro_batch_size"] == 2, "the recipe's own"
    assert two["seconds"]["update t2i"] == pytest.approx(one["seconds"]["update t2i"] / 2, rel=0.1)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--gpus", "3"], "cannot be shared evenly by 3 processes"),
        (["--gpus", "16"], "train.micro_batch_size: 2 does not divide the 1 triplets that a process has"),
        (["--gpu", "abacus"], "Choose one of h100"),
    ],
)
def test_what_training_refuses_is_refused(words: list[str], tmp_path: Path, more: list[str], line: str) -> None:
    assert line in corl(*words, *more, cwd=tmp_path, code=2).stderr


def test_a_model_that_cannot_be_read_has_the_shapes_that_corl_knows(tmp_path: Path) -> None:
    words = ["plan", "unified/janus-pro-1b", "--set", "data.path=world", "--set", "data.holdout=0"]
    done = corl(*words, "--from", "nobody/Janus-Pro-1B", "--gpu", "h100", cwd=tmp_path, code=0)
    assert "nobody/Janus-Pro-1B cannot be read here: shapes as corl knows them." in done.stderr
    done = corl(*words, "--from", "nobody/else", "--gpu", "h100", cwd=tmp_path, code=1)
    assert "No Janus checkpoint could be read" in done.stderr


def test_the_size_of_micro_batches_is_noted_and_outlives_the_machine(tmp_path: Path) -> None:
    sets = {"train.batch_size": 4, "sampling.group_size": 2, "sampling.mm2t.max_new_tokens": 4}
    sets |= {"eval.probes": "null", "train.max_steps": 1, "checkpoint.every": 1}
    options = overrides(sets)
    words = ["train", "unified", *options, "--out", "run"]
    first = corl(*words, cwd=tmp_path, code=0)
    assert "4 of a process' 4 triplets in a backward pass" in first.stderr
    file = tmp_path / "run" / "provenance.json"
    noted = json.loads(file.read_text())
    assert noted["micro_batch_size"] == 4
    assert "micro_batch_size: null" in (tmp_path / "run" / "recipe.yaml").read_text()
    file.write_text(json.dumps(noted | {"micro_batch_size": 2}))  # as a smaller machine would have chosen
    for saved in (tmp_path / "run" / "checkpoints").iterdir():
        for inside in saved.iterdir():
            inside.unlink()
        saved.rmdir()
    again = corl(*words, "--resume", cwd=tmp_path, code=0)
    assert "2 of a process' 4 triplets in a backward pass" in again.stderr
