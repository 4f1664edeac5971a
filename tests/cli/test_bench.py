"""`corl bench` on small batches: what its rows claim, not how fast it was."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.core.errors import CorlError
from corl_cli.pipelines import bench_rewards, bench_step, random_weights
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


def steps(*options):
    result = CliRunner().invoke(app, ["bench", "step", "--steps", "1", *options, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_steps_of_the_two_stages_have_their_phases():
    unified, refined = steps("--size", "small", "--prompts", "2")
    assert [row["stage"] for row in (unified, refined)] == ["unified-janus-pro-1b", "refined-janus-pro-1b-t2i"]
    assert [row["group_size"] for row in (unified, refined)] == [8, 16], "the paper's"
    for row in (unified, refined):
        phases = [row[phase] for phase in ("rollout", "reward", "reference", "update")]
        assert all(seconds > 0 for seconds in phases)
        assert row["step"] == pytest.approx(sum(phases))
        assert row["prompts"] == 2
    assert refined["tokens_per_second"] == pytest.approx(4 * refined["images_per_second"]), "drawings of 4 tokens alone"
    assert unified["tokens_per_second"] > 4 * unified["images_per_second"], "and answers"


def test_steps_of_a_recipe_are_taken_with_its_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: world/unified\nname: mine\ntrain: {tasks: [mm2t], batch_size: 1}\n")
    (row,) = steps("--recipe", str(tmp_path / "mine.yaml"), "--set", "sampling.group_size=2")
    assert (row["stage"], row["prompts"], row["group_size"]) == ("mine", 1, 2)
    assert row["images_per_second"] == 0


def test_the_table_of_steps_says_what_was_random():
    options = ["--size", "small", "--prompts", "1", "--recipe", "unified/janus-pro-1b"]
    short = ["--set", "sampling.mm2t.max_new_tokens=4", "--set", "sampling.group_size=2", "--steps", "1"]
    result = CliRunner().invoke(app, ["bench", "step", *options, *short])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].startswith("unified-janus-pro-1b")
    assert "Random weights of the shapes of small" in result.stderr
    assert "tokenizer and data at 16 pixels" in result.stderr


def test_an_unknown_size_is_refused():
    result = CliRunner().invoke(app, ["bench", "step", "--size", "janus-pro-7b"])
    assert result.exit_code == 2
    assert "'janus-pro-7b' is not one of 'world', 'small', 'janus-pro-1b'" in result.stderr


def test_adapters_alone_can_learn():
    (row,) = steps(
        *["--size", "small", "--prompts", "1", "--recipe", "refined/janus-pro-1b-t2i"],
        *["--set", "sampling.group_size=2", "--set", "model.lora={rank: 4, alpha: 8}"],
    )
    assert row["update"] > 0


def test_too_little_memory_is_told_in_a_line_before_any_step(tmp_path):
    unified, refined = (
        bench_step.with_weights(recipe, "janus-pro-1b", tmp_path)
        for recipe in bench_step.stages([], "janus-pro-1b", None)
    )
    with pytest.raises(CorlError) as caught:
        bench_step.require(unified, 24 * 2**30)
    # 1653 M that learn x 16 bytes; 424 M that are frozen and the sampler's copies of 1443 M x 2
    assert caught.value.message == (
        "unified-janus-pro-1b needs 28.1 GiB for weights, gradients and optimiser alone; 24.0 are there."
    )
    with pytest.raises(CorlError, match=r"needs 35\.1 GiB"):  # a reference of 1653 M x 4 bytes and 424 M x 2
        bench_step.require(refined, 24 * 2**30)
    bench_step.require(refined, 80 * 2**30)


def test_the_large_size_has_the_parameters_of_janus_pro_1b():
    policy = random_weights.janus(random_weights.JANUS["janus-pro-1b"], torch.device("meta"), "bfloat16")
    inner = policy.model.model
    millions = {
        name: round(sum(parameter.numel() for parameter in part.parameters()) / 1e6)
        for name, part in {
            "all": policy,
            "layers": inner.language_model.layers,
            "embedding": inner.language_model.embed_tokens,
            "lm_head": policy.model.lm_head,
            "siglip": inner.vision_model,
            "image head": inner.generation_head,
            "vq": inner.vqmodel,
        }.items()
    }
    assert millions == {
        "all": 2077,
        "layers": 1233,
        "embedding": 210,
        "lm_head": 210,
        "siglip": 304,
        "image head": 38,
        "vq": 72,
    }
    assert policy.num_drawing_tokens == policy.num_image_tokens == 576
    assert round(sum(parameter.numel() for parameter in policy.trainable()) / 1e6) == 1653
