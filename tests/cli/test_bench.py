"""`corl bench rewards` on small batches: what its rows claim, not how fast it was."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.pipelines import bench_rewards
from corl_cli.rewards import REWARDS
from corl_cli.scoring import lpips
from corl_cli.scoring.spice import Spice


def rows(*names, prompts=2, group_size=3, options=()):
    chosen = [word for name in names for word in ("--reward", name)]
    size = ["--prompts", str(prompts), "--group-size", str(group_size), "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", "rewards", *chosen, *size, *options, "--json"])
    assert result.exit_code == 0, result.output
    return {row["part"] or row["reward"]: row for row in json.loads(result.stdout)}


def test_every_reward_and_every_measure_of_cycle_has_its_name():
    assert bench_rewards.parts([]) == [*bench_rewards.CYCLE, *(name for name in REWARDS if name != "cycle")]
    assert bench_rewards.parts(["cycle"]) == list(bench_rewards.CYCLE)
    assert bench_rewards.parts(["format", "pixel"]) == ["pixel", "format"]


def test_an_unknown_name_is_refused_before_anything_runs():
    result = CliRunner().invoke(app, ["bench", "rewards", "--reward", "lpips-vg"])
    assert result.exit_code == 2
    assert result.stderr == (
        "error: There is no reward or measure 'lpips-vg' to measure.\nhint: Did you mean lpips-vgg?\n"
    )


def test_rewards_that_need_no_weights():
    found = rows("pixel", "scene_graph", "accuracy", "format", "checker")
    assert set(found) == {"pixel", "scene_graph", "accuracy", "format", "checker"}
    for row in found.values():
        assert row["rows"] == 6
        assert row["seconds"] > 0
        assert row["weights"] is None
        assert row["reward"] == ("cycle" if row["part"] else row["reward"])


def test_what_the_policy_is_needed_for():
    found = rows("matching", "captions-policy", prompts=1, group_size=2)
    assert {row["weights"] for row in found.values()} == {"own"}
    assert all(row["seconds"] > 0 for row in found.values())


def test_random_weights_are_called_random():
    found = rows("clip", "embedding", "captions-blip", prompts=1, group_size=2)
    small = "random" if torch.cuda.is_available() else "random, small"
    for row in found.values():
        assert row["weights"] in ("own", small)
        assert row["seconds"] > 0


def test_weights_that_are_here_are_used(tiny_blip, monkeypatch):
    monkeypatch.setattr(bench_rewards, "BLIP", str(tiny_blip))
    assert rows("captions-blip", prompts=1, group_size=2)["captions-blip"]["weights"] == "own"


@pytest.mark.parametrize("heads", ["installed", "missing"])
def test_lpips_reads_the_real_image_once_or_for_every_drawing(heads, monkeypatch, tmp_path):
    if heads == "missing":
        monkeypatch.setattr(lpips, "find_spec", lambda name: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = rows("lpips-vgg", "lpips-vgg-unshared", options=["--image-size", "20"])
    assert found["lpips-vgg"]["note"] == "8 images of 20x20 through the network"  # 2 (1 + 3)
    assert found["lpips-vgg-unshared"]["note"] == "12 images of 20x20 through the network"  # 2 (3 + 3)
    assert {row["weights"] for row in found.values()} == {"random"}
    assert all(row["seconds"] > 0 and row["memory_mib"] is not None for row in found.values())


def test_what_can_score_nothing_has_no_number():
    row = rows("lpips-vgg", options=["--image-size", "8"])["lpips-vgg"]
    assert row["seconds"] is None
    assert row["memory_mib"] is None
    assert "8x8" in row["note"]


def test_what_is_missing_has_a_row_that_says_so():
    found = rows("spice", prompts=1, group_size=2)["spice"]
    missing = [need for need in Spice().requirements() if need.state != "ok"]
    if missing:
        assert found["seconds"] is None
        assert found["note"] == f"{missing[0].name} is not here: {missing[0].detail}"
    else:
        assert found["seconds"] > 0


def test_the_table_names_the_batch():
    result = CliRunner().invoke(
        app, ["bench", "rewards", "--reward", "format", "--prompts", "1", "--group-size", "2", "--repeats", "1"]
    )
    head, _, row = result.stdout.splitlines()[:3]
    assert head.split() == ["reward", "part", "rows", "milliseconds", "memory_mib", "weights", "note"]
    assert re.search(r"\s\d+\.\d\d\s", row)
    assert "1 prompts x 2 samples" in result.stderr
