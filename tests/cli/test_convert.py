"""`corl convert` on tiny Januses: both ways, and what it refuses."""

import json
import shutil
from pathlib import Path

import original_janus
import pytest
import torch
from fake_hub import FakeHub
from safetensors.torch import save_file
from typer.testing import CliRunner
from weights import tensors

from corl_cli.cli.app import app
from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Lora
from corl_cli.models import fitness, shards
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines.convert import carry_out, check
from corl_cli.world import checkpoint


class After:
    """Progress that has something happen at a step."""

    def __init__(self, steps, happens):
        self.left, self.happens = steps, happens

    def advance(self, steps=1, note=""):
        self.left -= steps
        if self.left == 0:
            self.happens()


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def converted(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments):
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    return result.stderr


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: value.bfloat16() for name, value in original_janus.Original().state_dict().items()}


@pytest.fixture
def original(state, tmp_path):
    """A checkpoint as DeepSeek's are: bfloat16, in one pickle."""
    folder = original_janus.save_files(tmp_path / "original")
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def test_the_world_goes_to_deepseeks_format_and_comes_back_the_same(tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    report = converted("world", "--out", there)
    assert (report["from"], report["to"], report["dtype"]) == ("transformers", "deepseek", "bfloat16")
    assert report["equal"]
    assert not report["known_to_deepseek"]
    assert json.loads((there / "config.json").read_text())["model_type"] == "multi_modality"
    again = converted(there, "--out", back)
    assert again["answers"] == report["answers"]
    assert (again["dropped"], again["zeros"]) == (report["zeros"], 0)
    ours, theirs = tensors(checkpoint()), tensors(back)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    for name in ("config.json", "generation_config.json", "processor_config.json", "tokenizer.json"):
        assert json.loads((back / name).read_text()) == json.loads((checkpoint() / name).read_text()), name
    assert (back / "chat_template.jinja").read_text() == (checkpoint() / "chat_template.jinja").read_text()


def test_a_pickle_becomes_a_checkpoint_that_can_be_trained(original, state, tmp_path):
    out = tmp_path / "out"
    result = run(original, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Left out: 14 tensors" in result.stdout
    assert "all is finite" in result.stdout
    assert f"--from {out}" in result.stderr
    fitness.check(out)
    policy = JanusPolicy.load(out)
    qkv = state["vision_model.vision_tower.blocks.1.attn.qkv.weight"].float()
    found = policy.weights()["model.vision_model.encoder.layers.1.self_attn.v_proj.weight"]
    assert torch.equal(found, qkv[2 * original_janus.WIDTH :])
    assert {path.name for path in tmp_path.iterdir()} == {"original", "out"}, "nothing else is left"


@pytest.fixture(scope="module")
def whole(state, tmp_path_factory):
    """The same in transformers' format."""
    folder = tmp_path_factory.mktemp("whole")
    original = original_janus.save_files(folder / "original")
    torch.save(state, original / "pytorch_model.bin")
    converted(original, "--out", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(kind, original, whole, state, tmp_path, monkeypatch):
    names = sorted(state)
    parts = {f"{number}.{kind}": names[number::2] for number in range(2)}
    (original / "pytorch_model.bin").unlink()
    for file, part in parts.items():
        (save_file if kind == "safetensors" else torch.save)({name: state[name] for name in part}, original / file)
    stem = shards.WEIGHTS if kind == "safetensors" else shards.PICKLED
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (original / f"{stem}.index.json").write_text(json.dumps(index))
    monkeypatch.setattr(shards, "SHARD_BYTES", 100_000)
    converted(original, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    ours, theirs = tensors(whole), tensors(tmp_path / "out")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    half = (original / f"1.{kind}").read_bytes()
    (original / f"1.{kind}").write_bytes(half[: len(half) // 2])
    assert f"1.{kind} cannot be read" in refused(original, "--out", tmp_path / "half")
    (original / f"1.{kind}").unlink()
    assert f"lacks 1.{kind}" in refused(original, "--out", tmp_path / "half")


def test_another_type(original, state, tmp_path):
    assert converted(original, "--out", tmp_path / "wide", "--dtype", "float32")["dtype"] == "float32"
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    wide = tensors(tmp_path / "wide")
    assert torch.equal(wide["lm_head.weight"], state["language_model.lm_head.weight"].float())
    report = converted(tmp_path / "wide", "--out", tmp_path / "narrow", "--dtype", "bfloat16", "--to", "deepseek")
    assert report["dtype"] == "bfloat16"
    narrow = tensors(tmp_path / "narrow")
    kept = {name: value for name, value in state.items() if "attn_pool" not in name and "codebook_used" not in name}
    assert all(torch.equal(narrow[name], kept[name]) for name in kept)
    assert narrow.keys() == state.keys(), "all that the original loads is there"


def test_adapters_are_folded_on_the_way(tmp_path):
    policy = JanusPolicy.load(checkpoint(), adapters=Lora(rank=4, alpha=8))
    torch.manual_seed(0)
    for name, parameter in policy.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    policy.save(tmp_path / "lora")
    converted(tmp_path / "lora", "--out", tmp_path / "there")
    name = "layers.0.self_attn.q_proj.weight"
    expected = JanusPolicy.load(tmp_path / "lora").weights()[f"model.language_model.{name}"]
    assert torch.allclose(tensors(tmp_path / "there")[f"language_model.model.{name}"], expected, atol=1e-6)
    same = refused(tmp_path / "lora", "--out", tmp_path / "no", "--to", "transformers")
    assert "corl merge" in same


def test_a_dry_run_writes_nothing(original, tmp_path):
    report = converted(original, "--out", tmp_path / "out", "--dry-run")
    assert (report["to"], report["dropped"]) == ("transformers", 14)
    assert "answers" not in report
    assert {path.name for path in tmp_path.iterdir()} == {"original"}


def test_tensors_that_do_not_fit_are_named(original, state, tmp_path):
    broken = dict(state) | {"aligner.layers.0.bias": torch.zeros(3), "vision_gen_dec_model.bias": torch.zeros(1)}
    del broken["gen_embed.weight"]
    torch.save(broken, original / "pytorch_model.bin")
    words = refused(original, "--out", tmp_path / "out")
    for part in ("lacks gen_embed.weight", "vision_gen_dec_model.bias, which no Janus has", "layers.0.bias is [3]"):
        assert part in words


def test_other_models_are_refused(original, tmp_path):
    said = json.loads((original / "config.json").read_text())
    for flow in ("gen_head_config", "gen_vision_config", "gen_aligner_config"):
        del said[flow]
    (original / "config.json").write_text(json.dumps(said))
    assert "JanusFlow" in refused(original, "--out", tmp_path / "out")
    change(original / "config.json", model_type="clip")
    assert "is no Janus: its config.json says clip" in refused(original, "--out", tmp_path / "out")
    for content in ("{", "[]", "", POINTER):
        (original / "config.json").write_text(content)
        assert "config.json" in refused(original, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_hold_no_weights_are_called_so(original, state, tmp_path):
    file = original / "pytorch_model.bin"
    for content, words in ((POINTER, "pointer of Git LFS"), ("", "it is empty"), ("x" * 99, "damaged, or holds more")):
        file.write_text(content)
        said = refused(original, "--out", tmp_path / "out")
        assert words in said
        assert "weights_only" not in said
    torch.save(state, file)
    (original / "preprocessor_config.json").unlink()
    said = refused(original, "--out", tmp_path / "out")
    assert f"{original} has no preprocessor_config.json." in said
    assert "Errno" not in said


def test_what_would_convert_into_another_model_is_refused_before_anything_is_written(original, tmp_path):
    said = json.loads((original / "config.json").read_text())
    for changes, words in (
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scales its rotary embeddings (type linear, factor 2.0)"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads (5)"),
    ):
        change(original / "config.json", language_config=said["language_config"] | changes)
        told = refused(original, "--out", tmp_path / "out", "--dry-run")
        assert f"{original} cannot be converted: " in told
        assert words in told
    change(original / "config.json", **said)
    for key, value in (("do_normalize", False), ("image_mean", None), ("image_std", None)):
        kept = (original / "preprocessor_config.json").read_text()
        change(original / "preprocessor_config.json", **{key: value})
        assert f"says that {key} is {json.dumps(value)}" in refused(original, "--out", tmp_path / "out")
        (original / "preprocessor_config.json").write_text(kept)


def test_how_the_model_is_prompted_is_told(original, whole, tmp_path):
    said = run(original, "--out", tmp_path / "out", "--dry-run").stdout
    assert '"<|User|>: WORDS\\n\\n<|Assistant|>:", which is a guess' in said
    assert f"change the roles in {tmp_path / 'out'}/chat_template.jinja" in said
    for name, user in (("deepseek-ai/Janus-1.3B", "User"), ("deepseek-ai/Janus-Pro-1B", "<|User|>")):
        change(original / "config.json", _name_or_path=name)
        report = converted(original, "--out", tmp_path / "out", "--dry-run")
        assert (report["prompt"].split(":")[0], report["prompt_from"]) == (user, "name")
    assert converted(whole, "--out", tmp_path / "out", "--dry-run")["prompt_from"] == "files"
    shutil.copy(whole / "chat_template.jinja", original)
    assert converted(original, "--out", tmp_path / "out", "--dry-run")["prompt_from"] == "files"


def test_what_deepseeks_code_cannot_be_is_refused(tmp_path):
    folder = shutil.copytree(checkpoint(), tmp_path / "janus")
    said = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", vision_config=said["vision_config"] | {"hidden_act": "relu"})
    assert "vision_config.hidden_act is relu, not gelu" in refused(folder, "--out", tmp_path / "out")


def test_options_that_do_not_fit(original, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert "in DeepSeek's format already" in refused(original, "--out", out, "--to", "deepseek")
    assert "exists and is not empty" in refused(original, "--out", original)
    assert "needs SOURCE and --out" in refused("world")
    assert "--fetch-only goes with --recipe" in refused("world", "--fetch-only")
    assert "no/where" in refused("no/where", "--out", out)
    assert "world is in transformers' format already" in refused("world", "--out", out, "--to", "transformers")
    said = refused("runs/nowhere", "--out", out)
    assert "neither a folder here nor in the hub's cache" in said
    assert "hf download" not in said
    assert "--set belong to --fetch-only" in refused("world", "--out", out, "--set", "train.max_steps=2")
    assert "a dry run fetches nothing" in refused("no/where", "--out", out, "--dry-run")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
    assert "GB free" in refused(original, "--out", out)
    assert not out.exists()


def test_what_fails_half_way_leaves_nothing(original, state, tmp_path):
    poisoned = state["gen_embed.weight"].clone()
    poisoned[3] = torch.inf
    torch.save(state | {"gen_embed.weight": poisoned}, original / "pytorch_model.bin")
    words = refused(original, "--out", tmp_path / "out")
    assert "holds NaN or infinity in model.generation_embeddings.weight" in words
    torch.save(state, original / "pytorch_model.bin")

    job = check(str(original), out=tmp_path / "out")

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(job, After(job.steps - 1, interrupt))  # all is written and compared, and nothing asked
    assert {path.name for path in tmp_path.iterdir()} == {"original"}


def test_a_disk_that_changes_what_is_written_is_noticed(original, tmp_path):
    job = check(str(original), out=tmp_path / "out")

    def damage():
        (file,) = tmp_path.rglob(shards.WEIGHTS)
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)

    with pytest.raises(CorlError, match="was written as other numbers than were read"):
        carry_out(job, After(len(job.specs) + 1, damage))
    assert not (tmp_path / "out").exists()


def test_a_model_larger_than_the_memory_is_converted_and_not_asked(original, tmp_path, monkeypatch):
    read = Path.read_text
    told = {"/proc/meminfo": "MemAvailable: 1 kB"}
    monkeypatch.setattr(Path, "read_text", lambda path, *rest, **more: told.get(str(path)) or read(path, *rest, **more))
    result = run(original, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "was not asked anything" in result.stdout
    fitness.check(tmp_path / "out")


def test_a_model_of_the_hub_is_fetched_without_what_is_not_needed(original, tmp_path, monkeypatch):
    (original / "demo.gguf").write_text("no part of the model")
    name = "deepseek-ai/Janus-Tiny"
    with FakeHub({name: original}, {}) as hub:
        hub.reach(monkeypatch, tmp_path / "home")
        assert "a dry run fetches nothing" in refused(name, "--out", tmp_path / "out", "--dry-run")
        report = converted(name, "--out", tmp_path / "out")
        assert not any(path.endswith(".gguf") for _, path, _ in hub.asked)
    assert report["source"] == name
    fitness.check(tmp_path / "out")


def test_fetching_what_a_recipe_needs():
    nothing = run("--fetch-only", "--recipe", "world/sft")
    assert nothing.exit_code == 0
    assert "needs nothing from a network" in nothing.stdout
    dry = run("--fetch-only", "--recipe", "unified/janus-pro-1b", "--dry-run", "--json")
    assert dry.exit_code == 0
    rows = {row["name"]: row for row in json.loads(dry.stdout)}
    assert rows["deepseek-community/Janus-Pro-1B"]["kind"] == "model"
    small = ("--set", "model.checkpoint=world")
    assert (
        "deepseek-community/Janus-Pro-1B" not in run("--fetch-only", "--recipe", "unified/janus-pro-1b", *small).stdout
    )
    fetched = run("--fetch-only", "--recipe", "unified/janus-pro-1b", "--json")
    assert fetched.exit_code == 1, "tests have no network"
    states = {row["name"]: row["state"] for row in json.loads(fetched.stdout)}
    assert states.keys() == rows.keys()
    assert "failed" in states.values()
    assert all(row["MB"] is None for row in json.loads(fetched.stdout) if row["state"] == "failed")
    assert "Not fetched: " in fetched.stderr
