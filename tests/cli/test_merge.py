"""`corl merge` on tiny Januses: the folder that it makes, and what it refuses."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration
from typer.testing import CliRunner
from weights import tensors

from corl_cli.cli.app import app
from corl_cli.core.recipe import Lora
from corl_cli.models import shards
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import merge as pipeline
from corl_cli.world import checkpoint

LEARNT = ("model.language_model.", "lm_head.")


def run(*arguments):
    return CliRunner().invoke(app, ["merge", *map(str, arguments)])


def merged(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def variant(folder, seed, change=None):
    """The world's Janus with what learns moved a little, in float32 as runs save it."""
    shutil.copytree(checkpoint(), folder)
    torch.manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    for name in sorted(weights):
        if name.startswith(LEARNT):
            weights[name] = weights[name].float() + 0.001 * torch.randn(weights[name].shape)
    if change:
        change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def two(tmp_path):
    return variant(tmp_path / "a", 1), variant(tmp_path / "b", 2)


def test_gaussian_is_the_default_and_what_it_makes_can_be_loaded(two, tmp_path):
    out = tmp_path / "out"
    report = merged(*two, "--base", "world", "--out", out)
    assert report == json.loads((out / "merge.json").read_text())
    assert report["method"] == "gaussian"
    assert set(report["groups"]) == {"attention", "embeddings", "lm_head", "mlp", "norms", "others"}
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    base, a, b = (load_file(folder / "model.safetensors")[name].double() for folder in (checkpoint(), *two))
    moved = torch.stack([a - base, b - base])
    centre, spread = moved.mean(), moved.flatten(1).std(1, correction=0).min()
    inside = (moved - centre).abs() <= 2 * spread
    expected = base + torch.where(inside, moved / 2, moved).sum(0)
    found = tensors(out)
    assert torch.equal(found[name], expected.float())
    reading = report["tensors"][name]
    assert reading["merged"] == pytest.approx(((expected - base).norm() / base.norm()).item(), rel=1e-4)
    assert reading["A outside"] == pytest.approx((~inside[0]).double().mean().item())
    assert len(report["most_moved"]) == 10
    frozen = "model.vqmodel.decoder.conv_in.weight"
    assert report["tensors"][frozen]["unmoved"]
    assert torch.equal(found[frozen], load_file(checkpoint() / "model.safetensors")[frozen])

    policy = JanusPolicy.load(out)
    assert torch.equal(policy.weights()[name], expected.float())
    assert JanusForConditionalGeneration.from_pretrained(out).dtype == torch.float32
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "out"}, "nothing else is left"


def test_linear_of_one_model_with_its_copy_is_that_model(two, tmp_path):
    shutil.copytree(two[0], tmp_path / "copy")
    report = merged(
        two[0], tmp_path / "copy", "--method", "linear", "--weight", 1, "--weight", 2, "--out", tmp_path / "out"
    )
    ours, theirs = tensors(two[0]), tensors(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(reading["unmoved"] for reading in report["tensors"].values())
    assert report["parameters"]["weights"] == pytest.approx([1 / 3, 2 / 3])


def test_the_order_of_models_does_not_matter(two, tmp_path):
    for number, order in enumerate((two, two[::-1])):
        merged(*order, "--base", "world", "--out", tmp_path / f"out{number}")
    ours, theirs = tensors(tmp_path / "out0"), tensors(tmp_path / "out1")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_task_arithmetic_into_shards(two, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1_000_000)
    out = tmp_path / "out"
    assert run(*two, "--base", "world", "--method", "task-arithmetic", "--scale", 0.5, "--out", out).exit_code == 0
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 1
    name = "lm_head.weight"
    base, a, b = (load_file(folder / "model.safetensors")[name].double() for folder in (checkpoint(), *two))
    expected = (base + 0.5 * (a - base + b - base)).float()
    assert torch.equal(JanusPolicy.load(out).weights()[name], expected)
    again = tmp_path / "again"
    merged(out, two[0], "--method", "linear", "--out", again)
    assert torch.allclose(tensors(again)[name], (expected + a.float()) / 2, atol=1e-6)


def test_adapters_are_folded_and_merged(two, tmp_path):
    policy = JanusPolicy.load(checkpoint(), adapters=Lora(rank=4, alpha=8))
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    policy.save(tmp_path / "lora")
    report = merged(tmp_path / "lora", "--out", tmp_path / "folded")
    assert report["method"] == "fold"
    assert (tmp_path / "folded" / "config.json").is_file(), "it comes from the model underneath"
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    expected = JanusPolicy.load(tmp_path / "lora").weights()[name]
    assert torch.allclose(JanusPolicy.load(tmp_path / "folded").weights()[name], expected, atol=1e-6)
    assert report["tensors"][name]["A"] > 0.01

    merged(tmp_path / "lora", two[0], "--method", "linear", "--out", tmp_path / "mean")
    mean = (expected + tensors(two[0])[name]) / 2
    assert torch.allclose(tensors(tmp_path / "mean")[name], mean, atol=1e-6)


def test_a_model_that_did_not_move_has_no_share_outside(two, tmp_path):
    shutil.copytree(checkpoint(), tmp_path / "still")
    report = merged(two[0], tmp_path / "still", "--base", "world", "--out", tmp_path / "out")
    reading = report["tensors"]["lm_head.weight"]
    assert (reading["B"], reading["B outside"]) == (0, None)
    assert reading["A outside"] > 0.9, "sigma is 0: all of A is added in full"


def test_without_a_base_changes_are_told_against_the_first_model(two, tmp_path):
    result = run(*two, "--method", "linear", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "base = A, as no --base was given" in result.output.partition("lm_head")[0]


def test_a_model_given_twice_is_refused(two, tmp_path):
    (tmp_path / "link").symlink_to(two[0])
    result = run(*two, tmp_path / "link", "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{tmp_path}/link is given twice: it is {two[0]}" in result.stderr


@pytest.mark.parametrize(
    ("name", "fetched"), [("/no/such", False), ("./here", False), ("runs/x", False), ("a/b", True)]
)
def test_only_what_may_be_on_the_hub_is_fetched_from_there(name, fetched, tmp_path):
    result = run(name, "world", "--method", "linear", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "is neither a folder here nor" in result.stderr
    assert ("hf download" in result.stderr) == fetched


def test_a_table_for_people(two, tmp_path):
    result = run(*two, "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 0
    groups = [line.split()[0] for line in result.stdout.splitlines()[2:8]]
    assert set(groups) == {"attention", "embeddings", "lm_head", "mlp", "norms", "others"}
    assert "moved most" in result.stdout
    assert "--from" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "o"], "--method gaussian needs --base"),
        (["--out", "o", "--method", "task-arithmetic"], "--method task-arithmetic needs --base"),
        (["--out", "o", "--base", "world", "--weight", "1"], "gaussian merging has no weights"),
        (["--out", "o", "--method", "linear", "--weight", "1"], "given once for 2 models"),
        (["--out", "o", "--method", "linear", "--weight", "0", "--weight", "0"], "not all of them 0"),
        (["--out", "o", "--method", "linear", "--scale", "2"], "linear merging has none"),
        (["--out", "o", "--method", "task-arithmetic", "--base", "world", "--scale", "nan"], "finite"),
        (["--out", "o", "--base", "no/where"], "no/where is neither a folder here nor in the hub's cache"),
    ],
)
def test_options_that_do_not_fit(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("world", "world", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit_are_told_all_at_once(two, tmp_path):
    def drop(weights):
        del weights["lm_head.weight"]
        weights["model.aligner.fc1.bias"] = torch.ones(3)

    other = variant(tmp_path / "c", 3, drop)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["newword"] = 999
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "out").mkdir()
    result = run(two[0], other, "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0] == f"error: {other} lacks lm_head.weight, which world has."
    assert lines[1] == f"model.aligner.fc1.bias is [3] in {other} and [128] in world."
    assert lines[2].startswith(f"{other} has another tokenizer than world")
    assert not list((tmp_path / "out").iterdir())


def test_one_model_without_adapters_has_nothing_to_fold(tmp_path):
    result = run("world", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "without LoRA adapters there is nothing to fold" in result.stderr


def test_damaged_pickles_and_empty_folders_are_refused(two, tmp_path):
    (two[0] / "model.safetensors").unlink()
    (two[0] / "pytorch_model.bin").write_bytes(b"")
    (two[1] / "model.safetensors").unlink()
    result = run(*two, "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{two[0]}/pytorch_model.bin cannot be read" in result.stderr
    assert f"{two[1]} holds no weights" in result.stderr


def test_a_folder_that_holds_something_is_left_alone(two, tmp_path):
    result = run(*two, "--base", "world", "--out", two[0])
    assert result.exit_code == 2
    assert "exists and is not empty" in result.stderr


def test_nan_and_interrupts_leave_nothing(two, tmp_path, monkeypatch):
    def poison(weights):
        weights["model.language_model.norm.weight"][3] = torch.nan

    bad = variant(tmp_path / "bad", 3, poison)
    result = run(two[0], bad, "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{bad} holds NaN or infinity in model.language_model.norm.weight" in result.stderr

    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(pipeline, "kind", interrupt)  # after the weights, before the report
    assert run(*two, "--base", "world", "--out", tmp_path / "out").exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "bad"}


def test_a_disk_without_room_is_told_before_anything_is_written(two, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    result = run(*two, "--base", "world", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "GB free" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
