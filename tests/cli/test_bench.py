"""`corl bench` on small batches: what its rows claim, not how fast it was."""

import gc
import json
import re
import sys
import weakref

import pytest
import torch
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.cli.common import Lines
from corl_cli.core.errors import CorlError
from corl_cli.pipelines import bench_models, bench_rewards, bench_rollout, bench_step, bench_update, plain
from corl_cli.pipelines.bench import Bench, Peak, Shares, Timing, Turns, beyond, in_turn
from corl_cli.pipelines.build import build_optimizer
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import Machine
from corl_cli.rewards import REWARDS
from corl_cli.scoring import lpips
from corl_cli.scoring.spice import Spice


@pytest.fixture(autouse=True)
def small_heap():
    """Benches collect garbage before they measure memory: not in all that was imported, a third of a second each."""
    gc.freeze()
    yield
    gc.unfreeze()


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


def report(command, *options):
    result = CliRunner().invoke(app, ["bench", command, *options, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["command"], found["device"]) == (command, "cuda" if torch.cuda.is_available() else "cpu")
    assert found["machine"]["bandwidth"] > 0
    assert found["versions"]["torch"] == torch.__version__
    return found


def steps(*options):
    return report("step", "--steps", "1", *options)["rows"]


def test_rollouts_of_random_weights_are_as_long_as_they_may_be_on_both_sides():
    found = report("rollout", "--model", "small", "--prompts", "2", "--group-size", "3", "--repeats", "2")
    assert found["weights"] == "random weights of the shapes of small"
    assert [(row["task"], row["cfg_weight"]) for row in found["rows"]] == [("t2i", 5), ("t2i", 1), ("mm2t", None)]
    for row in found["rows"]:
        assert row["tokens"] == 2 * 3 * (4 if row["task"] == "t2i" else 8)
        assert row["ratio_least"] <= row["ratio_to_transformers"] <= row["ratio_largest"]
        assert min(row["bandwidth_share"], row["arithmetic_share"]) > 0
        assert row["peak_gib"] >= 0 or sys.platform != "linux"
    assert [bool(row["note"]) for row in found["rows"]] == [False, True, False], "one half against two"


def test_rollouts_are_told_in_a_table_without_the_warnings_of_transformers():
    options = ["--model", "small", "--prompts", "1", "--group-size", "2", "--new-tokens", "3", "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", "rollout", *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].split()[:3] == ["mm2t", "-", "6"], "1 x 2 answers of 3 tokens"
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert "random weights end no answer before its limit" in result.stderr
    assert "t2i with CFG 1: transformers computes the half without the prompt in any case" in result.stderr
    assert "guidance_scale" not in result.output
    assert "max_length" not in result.output


def test_an_update_one_prompt_at_a_time_gives_the_gradients_that_a_plain_one_gives():
    options = ["--model", "small", "--prompts", "2", "--group-size", "2", "--repeats", "1", "--micro-batch-size", "1"]
    drawing, answering, both = report("update", *options)["rows"]
    assert [row["task"] for row in (drawing, answering, both)] == ["t2i", "mm2t", "both"]
    assert [row["tokens"] for row in (drawing, answering, both)] == [2 * 2 * 4, 2 * 2 * 8, 2 * 2 * (4 + 8)]
    assert both["seconds"] == pytest.approx(drawing["seconds"] + answering["seconds"])
    assert both["ratio_to_transformers"] > 0
    for row in (drawing, answering, both):
        assert row["micro_batch_size"] == 1
        assert row["peak_gib"] >= 0 or sys.platform != "linux"
        assert row["logp_difference"] < 1e-5
        assert 0 < row["gradient_difference"] < 1e-4, "two ways, not one twice"


def test_a_group_of_one_has_nothing_to_be_compared_with():
    result = CliRunner().invoke(app, ["bench", "update", "--group-size", "1"])
    assert result.exit_code == 2
    assert "--group-size" in result.stderr


def test_the_plain_update_has_the_logits_of_completion_tokens_alone():
    with bench_models.opened("small") as subject:
        (recipe, _) = bench_models.stages(subject, [], ["sampling.group_size=2", "train.batch_size=1"])
        policy = subject.learner(recipe, torch.device("cpu"))
        items = subject.triplets(recipe.data, 0, 1)
        rollouts = [bench_update.recorded(policy, recipe, task, items).rollout for task in ("t2i", "mm2t")]
        seen = []
        for head in (policy.model.lm_head, policy.model.model.generation_head):
            head.register_forward_hook(lambda _, args, logits: seen.append(logits.shape[:2]))
        for rollout in rollouts:
            plain.logps(policy.model, rollout)
    assert seen == [(2, 4), (2, 8 + 1)]  # transformers keeps the last n, the state after the last token among them


def test_steps_of_the_two_stages_have_their_phases():
    unified, refined = steps("--model", "small", "--prompts", "2")
    assert [row["stage"] for row in (unified, refined)] == ["unified-janus-pro-1b", "refined-janus-pro-1b-t2i"]
    assert [row["group_size"] for row in (unified, refined)] == [8, 16], "the paper's"
    for row in (unified, refined):
        phases = [row[phase] for phase in ("rollout", "reward", "reference", "update")]
        assert all(seconds > 0 for seconds in phases)
        assert row["step"] == pytest.approx(sum(phases))
        assert row["step_least"] == row["step_largest"] == pytest.approx(row["step"]), "one step"
        assert row["prompts"] == 2
        assert min(row["rollout_bandwidth_share"], row["update_arithmetic_share"]) > 0
    assert refined["tokens_per_second"] == pytest.approx(4 * refined["images_per_second"]), "drawings of 4 tokens alone"
    assert unified["tokens_per_second"] == pytest.approx(12 * unified["images_per_second"]), "and answers of 8"
    assert set(unified["identity"]) == {"t2i", "mm2t"}
    assert set(refined["identity"]) == {"t2i"}
    assert all(0 <= largest < 1e-4 for row in (unified, refined) for largest in row["identity"].values())


def test_steps_of_a_recipe_are_taken_with_its_settings(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: world/unified\nname: mine\ntrain: {tasks: [mm2t], batch_size: 1}\n")
    (row,) = steps("--recipe", str(tmp_path / "mine.yaml"), "--set", "sampling.group_size=2")
    assert (row["stage"], row["prompts"], row["group_size"]) == ("mine", 1, 2)
    assert row["images_per_second"] == 0


def test_the_table_of_steps_says_what_was_random():
    options = ["--model", "small", "--prompts", "1", "--group-size", "2", "--recipe", "unified/janus-pro-1b"]
    short = ["--set", "sampling.mm2t.max_new_tokens=4", "--steps", "1"]
    result = CliRunner().invoke(app, ["bench", "step", *options, *short])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[1] for line in lines[2:]] == ["rollout", "reward", "reference", "update", "step"]
    assert max(map(len, lines)) <= 120
    assert "random weights of the shapes of small" in result.stderr
    assert "the embedded world's data at 16 pixels" in result.stderr
    assert "sampler and trainer differ by at most" in result.stderr


def test_memory_has_its_phases_beside_an_estimate_of_the_whole():
    options = ["--model", "small", "--prompts", "2", "--group-size", "2", "--recipe", "refined/janus-pro-1b-t2i"]
    found = report("memory", *options, "--set", "model.lora={rank: 4, alpha: 8}")["rows"]
    assert all(row["lora"] for row in found)
    if sys.platform == "linux":
        phases = ["loaded", "rollout t2i", "reward", "reference", "update", "optimizer", "step"]
        assert [row["phase"] for row in found] == phases
        peaks = [row["peak_gib"] for row in found]
        assert peaks[-1] == max(peaks[:-1])
        assert all(0 <= peak < 4 for peak in peaks)
    assert [row["estimated_gib"] is not None for row in found] == [row["phase"] == "step" for row in found]


def test_a_folder_is_measured_with_the_weights_it_holds(policy, tmp_path):
    policy.save(tmp_path)
    with bench_models.opened(str(tmp_path)) as subject:
        assert subject.weights == str(tmp_path)
        held = subject.frozen("float32", torch.device("cpu")).state_dict()
    assert all(torch.equal(value, held[name]) for name, value in policy.state_dict().items())


def test_a_name_that_is_no_model_is_refused():
    result = CliRunner().invoke(app, ["bench", "step", "--model", "janus pro 1b"])
    assert result.exit_code == 2
    assert "'janus pro 1b' is neither a folder here nor the id of a model of the hub" in result.stderr


def test_adapters_alone_can_learn():
    (row,) = steps(
        *["--model", "small", "--prompts", "1", "--recipe", "refined/janus-pro-1b-t2i"],
        *["--set", "sampling.group_size=2", "--set", "model.lora={rank: 4, alpha: 8}"],
    )
    assert row["update"] > 0


def test_too_little_memory_is_told_in_a_line_before_anything_is_built():
    with bench_models.opened("janus-pro-1b") as subject:
        unified, refined = bench_models.stages(subject, [], ["model.dtype=bfloat16"])
        with pytest.raises(CorlError) as caught:
            bench_models.require(unified, 24 * 2**30)
        told = re.fullmatch(
            r"unified-janus-pro-1b needs (.+) GiB for weights, gradients and optimiser alone; 24\.0 are there\.",
            caught.value.message,
        )
        # 1653 M that learn x 16 bytes, 424 M that are frozen and the sampler's copies of 1481 M x 2; both tasks'
        # gradients now and then, 1653 M x 4 more
        assert told
        assert 28.1 < float(told[1]) < 36
        with pytest.raises(CorlError, match="refined-janus-pro-1b-t2i needs"):
            bench_models.require(refined, 24 * 2**30)
        bench_models.require(refined, 80 * 2**30)
        with pytest.raises(CorlError, match=r"janus-pro-1b needs 7\.7 GiB for weights alone"):  # 2077 M x 4 bytes
            bench_models.require_weights(subject, 7 * 2**30)


# Millions of parameters. Those of the 7B: layers 30 (4 x 4096^2 + 3 x 4096 x 11008), words 102400 x 4096 twice.
SIZES = {
    "tiny": {"layers": 5, "embedding": 1, "lm_head": 1, "image head": 4},
    "janus-pro-1b": {"layers": 1233, "embedding": 210, "lm_head": 210, "siglip": 304, "image head": 38, "vq": 72},
    "janus-pro-7b": {"layers": 6072, "embedding": 419, "lm_head": 419, "siglip": 304, "image head": 84, "vq": 72},
}


@pytest.mark.parametrize("name", SIZES)
def test_a_size_has_the_parameters_of_the_model_it_is_named_after(name):
    with bench_models.opened(name) as subject:
        (recipe, _) = bench_models.stages(subject, [], [])
        policy = subject.learner(recipe, torch.device("meta"))
    inner = policy.model.model
    parts = {
        "layers": inner.language_model.layers,
        "embedding": inner.language_model.embed_tokens,
        "lm_head": policy.model.lm_head,
        "siglip": inner.vision_model,
        "image head": inner.generation_head,
        "vq": inner.vqmodel,
    }
    wanted = SIZES[name]
    assert wanted == {
        part: round(sum(parameter.numel() for parameter in parts[part].parameters()) / 1e6) for part in wanted
    }
    assert policy.num_drawing_tokens == policy.num_image_tokens == 576
    assert policy.tokenizer.eos_token_id == policy.model.lm_head.out_features, "beyond what can be sampled"
    if name == "janus-pro-1b":
        assert round(sum(parameter.numel() for parameter in policy.trainable()) / 1e6) == 1653


def test_a_large_model_has_its_prompts_recipe_and_optimiser_before_any_weight_is_there():
    with bench_models.opened("janus-pro-1b") as subject:
        changes = bench_models.settings(prompts=2, group_size=8, micro_batch_size=1)
        unified, _ = bench_models.stages(subject, [], changes)
        assert (unified.train.batch_size, unified.train.micro_batch_size) == (2, 1)
        assert unified.sampling.of("mm2t").max_new_tokens == 512
        policy = subject.learner(unified, torch.device("meta"))
        items = subject.triplets(unified.data, 0, 2)[:]
        assert items[0].image.size == (384, 384)
        drawn, asked = (bench_models.prompt_tokens(policy, task, items) for task in ("t2i", "mm2t"))
        assert drawn < 64 < 576 < asked
        least = bench_rollout.least_work(subject, "t2i", unified.sampling.of("t2i"), 2, drawn, 576, 2)
        assert least.nbytes > 576 * 2 * 1233e6, "each step reads the layers"
        optimizer = build_optimizer(policy, unified.optim)
        assert {parameter.device.type for group in optimizer.param_groups for parameter in group["params"]} == {"meta"}


def test_ratios_are_those_of_neighbours():
    turns = Turns(
        ours=[Timing(1.0, 10), Timing(2.0, 10), Timing(4.0, 10)],
        theirs=[Timing(2.0, 10), Timing(2.0, 10), Timing(16.0, 10)],
    )
    assert turns.ratio == (2.0, 1.0, 4.0)
    assert (turns.seconds, turns.rate, turns.their_rate) == (2.0, 5.0, 5.0)
    both = turns + turns
    assert both.ratio == (2.0, 1.0, 4.0)
    assert (both.seconds, both.tokens) == (4.0, 20)


def test_the_other_way_that_does_not_fit_leaves_neither_a_ratio_nor_what_it_held():
    calls, held = [], []

    def ours():
        assert all(left() is None for left in held)
        return 5

    def theirs():
        calls.append("theirs")
        taken = Lines("taken", 1, 0, 10.0)
        taken.itself = taken  # freed by the collector alone
        held.append(weakref.ref(taken))
        raise torch.OutOfMemoryError

    machine = Machine(name="none", bandwidth=1.0, arithmetic={"float32": 1.0}, memory=1)
    bench = Bench(machine=machine, device=torch.device("cpu"), repeats=3, shown=Lines("work", 1, 0, 10.0))
    turns = in_turn(ours, theirs, bench)
    assert (len(turns.ours), turns.theirs, turns.ratio, turns.their_rate) == (3, [], None, None)
    assert calls == ["theirs"], "it is not tried again"
    assert (turns + turns).ratio is None


def test_shares_are_of_what_the_machine_can_do():
    machine = Machine(name="none", bandwidth=100.0, arithmetic={"float32": 1000.0}, memory=1)
    shares = Shares.of(Work(flops=500.0, nbytes=25.0), 2.0, machine, "float32")
    assert (shares.bandwidth, shares.arithmetic) == (0.125, 0.25)


def test_a_share_beyond_what_was_measured_is_noticed():
    assert not beyond([{"bandwidth_share": 1.0, "ratio_to_transformers": 9.0}])
    assert beyond([{"bandwidth_share": 0.1}, {"update_arithmetic_share": 1.2}])


def test_of_two_peaks_the_larger_counts_where_both_are_known():
    assert Peak(1.0, None).or_larger(Peak(2.0, 3.0)) == (2.0, None)


def test_tasks_that_take_turns_are_counted_as_often_as_they_were_taken():
    with bench_models.opened("small") as subject:
        (recipe, _) = bench_models.stages(subject, [], [])
        lengths, one, other = {"t2i": 10.0, "mm2t": 20.0}, {"length/t2i": 4.0}, {"length/mm2t": 8.0}
        both = bench_step.least(subject, recipe, lengths, [one | other])
        turns = bench_step.least(subject, recipe, lengths, [one, other])
        drawing = bench_step.least(subject, recipe, lengths, [one])
    assert [2 * work.flops for work in turns] == pytest.approx([work.flops for work in both])
    assert 0 < drawing[0].nbytes < both[0].nbytes


def test_what_is_frozen_is_as_the_learner_was_made():
    with bench_models.opened("small") as subject:
        (_, refined) = bench_models.stages(subject, [], ["seed=3"])
        learner = subject.learner(refined, torch.device("cpu"))
        reference = subject.reference(refined, learner)
        assert all(map(torch.equal, reference.state_dict().values(), learner.state_dict().values()))
        assert not reference.trainable()
        (unified, _) = bench_models.stages(subject, [], [])
        room = subject.learner(unified, torch.device("cpu")).cache_bytes
        assert subject.frozen("float32", torch.device("cpu")).cache_bytes == room, "sampled in the same batches"


def test_a_backward_pass_has_no_more_prompts_than_there_are():
    with bench_models.opened("small") as subject:
        (recipe,) = bench_models.stages(subject, ["unified/janus-pro-1b"], ["train.batch_size=1"])
        assert recipe.train.micro_batch_size == 2
        assert bench_models.require(recipe, 2**40).train.micro_batch_size == 1


def test_gradients_are_compared_as_a_share_of_their_norm():
    left, right = [torch.tensor([3.0]), None, torch.tensor([0.0])], [torch.tensor([0.0]), torch.tensor([4.0]), None]
    assert bench_update.relative(left, right) == pytest.approx(5 / 4)
    assert bench_update.relative(right, right) == 0
