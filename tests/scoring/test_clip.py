"""Cosines of a random tiny CLIP of the real class, and where its checkpoint may be."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from corl_cli.core.errors import CorlError
from corl_cli.scoring import checkpoints, clip
from corl_cli.scoring.clip import Clip

TEXTS = ["a red circle", "two blue squares above a cross", "a cross", "a red circle", "green"]


def loaded(folder):
    model = Clip(str(folder))
    model.load(torch.device("cpu"))
    return model


@pytest.fixture(scope="module")
def model(tiny_clip):
    return loaded(tiny_clip)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_cosines_are_those_of_transformers(model, tiny_clip, images):
    whole = CLIPModel.from_pretrained(tiny_clip).eval()
    texts = AutoTokenizer.from_pretrained(tiny_clip)(TEXTS, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessorPil.from_pretrained(tiny_clip)(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        out = whole(input_ids=texts.input_ids, attention_mask=texts.attention_mask, pixel_values=pixels)
    cosines = (out.logits_per_image / whole.logit_scale.exp()).diagonal()
    measured = model(images, TEXTS)
    assert torch.allclose(measured.values, cosines, atol=1e-5)
    assert measured.details[0] == {"cosine": f"{cosines[0]:.4f}"}


def test_batch_and_order_do_not_matter(model, images, monkeypatch):
    single = [float(model([image], [text]).values[0]) for image, text in zip(images, TEXTS, strict=True)]
    assert len({round(value, 4) for value in single}) == 5
    assert model(images, TEXTS).values.tolist() == pytest.approx(single, abs=1e-5)
    assert model(images[::-1], TEXTS[::-1]).values.tolist() == pytest.approx(single[::-1], abs=1e-5)
    monkeypatch.setattr(clip, "ROWS", 2)
    assert model(images, TEXTS).values.tolist() == pytest.approx(single, abs=1e-5)


def test_each_text_is_embedded_once(model, images, monkeypatch):
    read = []
    embed = model.embed_texts
    monkeypatch.setattr(model, "embed_texts", lambda texts: read.extend(texts) or embed(texts))
    model(images, TEXTS)
    assert read == ["a red circle", "two blue squares above a cross", "a cross", "green"]


def test_an_empty_text_has_no_cosine(model, images):
    measured = model(images[:2], ["  ", "a cross"])
    assert [math.isnan(value) for value in measured.values] == [True, False]
    assert measured.details[0] == {"failed": "the prompt is empty"}


def test_a_long_text_is_cut_and_it_is_said(model, images, capfd):
    ten = "a red circle and a blue square and a cross"  # with its two marks the 12 tokens that are read
    measured = model([images[0]] * 3, [ten, f"{ten} and a circle", f"{ten} two"])
    assert "cut short" not in measured.details[0]
    assert measured.details[1]["cut short"] == "the prompt's last 3 of 15 tokens are not read"
    assert measured.values.tolist() == pytest.approx([float(measured.values[0])] * 3, abs=1e-6)
    assert capfd.readouterr().err == ""


def test_nothing_to_embed(model):
    assert model([], []).values.shape == (0,)


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub; `hub / "org--name"` becomes the snapshot's folder when a checkpoint is put there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, name: str, folder: Path) -> Path:
    """Lay a folder into the hub's cache as a download would."""
    place = hub / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(folder, place / "snapshots" / ("0" * 40))


def test_a_whole_folder_is_ready(tiny_clip):
    need = checkpoints.requirement("CLIP model", str(tiny_clip), "CLIPModel")
    assert (need.name, need.state, need.detail) == ("CLIP model", "ok", str(tiny_clip))


def test_a_checkpoint_in_the_hubs_cache_is_ready_and_read_without_asking(tiny_clip, model, hub, images):
    cache(hub, "org/clip", tiny_clip)
    need = checkpoints.requirement("CLIP model", "org/clip", "CLIPModel")
    assert (need.state, need.detail) == ("ok", "org/clip, in the hub's cache")
    assert torch.equal(loaded("org/clip")(images, TEXTS).values, model(images, TEXTS).values)


def test_half_a_download_is_not_ready(tiny_clip, hub):
    (cache(hub, "org/clip", tiny_clip) / "model.safetensors").unlink()
    assert checkpoints.requirement("CLIP model", "org/clip").state == "missing"


def test_a_hub_id_that_is_not_here(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    need = checkpoints.requirement("CLIP model", "org/clip")
    assert need.state == "missing"
    assert "hf download org/clip" in need.remedy
    with pytest.raises(
        CorlError, match=r"needs CLIP model \(missing\): org/clip is neither a folder here nor whole in the hub's cache"
    ):
        loaded("org/clip")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert checkpoints.requirement("CLIP model", "org/clip").state == "download"


@pytest.mark.parametrize("name", ["./clip", "/nowhere/clip", "~/no/such/clip", "a/b/clip", "models/clip", ".."])
def test_what_can_only_be_a_folder_is_never_asked_of_the_hub(name, tmp_path, monkeypatch, hub):
    (tmp_path / "work" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    need = checkpoints.requirement("CLIP model", name)
    assert need.state == ("broken" if name == ".." else "missing")  # the one folder holds no model
    with pytest.raises(CorlError):
        loaded(name)


def test_damage_is_named(tiny_clip, tmp_path):
    def damaged(name, text):
        folder = shutil.copytree(tiny_clip, tmp_path / str(len(list(tmp_path.iterdir()))))
        (folder / name).write_text(text) if text is not None else (folder / name).unlink()
        return str(folder)

    shards = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    sharded = damaged("model.safetensors", None)
    (Path(sharded) / "model.safetensors.index.json").write_text(shards)
    (Path(sharded) / "model-1.safetensors").write_text("")
    cases = {
        damaged("config.json", None): "holds no config.json",
        damaged("config.json", "{"): "holds a config.json that cannot be read",
        damaged("config.json", '{"architectures": ["BertModel"]}'): "holds a BertModel, not a CLIPModel",
        damaged("model.safetensors", None): "holds no weights",
        damaged("tokenizer.json", None): "holds no tokenizer",
        sharded: "lacks model-2.safetensors",
        str(tiny_clip / "config.json"): "is a file, not a folder",
    }
    for folder, fault in cases.items():
        need = checkpoints.requirement("CLIP model", folder, "CLIPModel")
        assert (need.state, need.met) == ("broken", False)
        assert fault in need.detail
        with pytest.raises(CorlError, match=fault):
            loaded(folder)


def test_what_only_reading_shows_is_one_line(tiny_clip, tmp_path, capfd):
    torn = shutil.copytree(tiny_clip, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((tiny_clip / "model.safetensors").read_bytes()[:5000])
    mute = shutil.copytree(tiny_clip, tmp_path / "mute")
    (mute / "tokenizer.json").write_text("{}")
    blind = shutil.copytree(tiny_clip, tmp_path / "blind")
    (blind / "preprocessor_config.json").unlink()
    other = shutil.copytree(tiny_clip, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["projection_dim"] = 8
    (other / "config.json").write_text(json.dumps(config))
    deeper = shutil.copytree(tiny_clip, tmp_path / "deeper")
    config["projection_dim"] = 16
    config["text_config"]["num_hidden_layers"] = 3
    (deeper / "config.json").write_text(json.dumps(config))
    for folder in (torn, mute, blind, other, deeper):
        with pytest.raises(CorlError, match=f"No CLIP model could be read from {folder}: ") as caught:
            loaded(folder)
        assert len(caught.value.message.splitlines()) == 1
        assert caught.value.hint
    assert "16 tensors are missing or misshapen, text_model.encoder.layers.2" in caught.value.message
    assert capfd.readouterr().err == ""
