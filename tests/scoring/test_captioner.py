"""BLIP captions from a random tiny BLIP of the real class, saved and loaded back."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from corl_cli.core.errors import CorlError
from corl_cli.scoring import captioner
from corl_cli.scoring.captioner import Blip


def loaded(folder, max_new_tokens=8):
    blip = Blip(str(folder), max_new_tokens)
    blip.load(torch.device("cpu"))
    return blip


@pytest.fixture(scope="module")
def blip(tiny_blip):
    return loaded(tiny_blip)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (14, 40, 48, 3), np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_captions_are_the_tokens_of_largest_logit(blip, tiny_blip, images):
    model = BlipForConditionalGeneration.from_pretrained(tiny_blip).eval()
    pixels = BlipImageProcessorPil.from_pretrained(tiny_blip)(images[:1], return_tensors="pt").pixel_values
    ids = [2]
    with torch.no_grad():
        seen = model.vision_model(pixels)[0]
        while len(ids) < 9 and ids[-1] != 3:
            logits = model.text_decoder(input_ids=torch.tensor([ids]), encoder_hidden_states=seen).logits
            ids.append(int(logits[0, -1].argmax()))
    written = AutoTokenizer.from_pretrained(tiny_blip).decode(ids[1:], skip_special_tokens=True)
    assert blip(images[:1]) == [written]
    assert written


def test_batched_captions_are_the_single_ones_in_their_order(blip, images, monkeypatch):
    single = [blip([image])[0] for image in images]
    assert len(set(single)) > 5
    assert blip(images) == single
    assert blip(images[::-1]) == single[::-1]
    monkeypatch.setattr(captioner, "IMAGES", 3)
    assert blip(images) == single


def test_an_image_that_stands_twice_is_captioned_once(blip, images, monkeypatch):
    read = []
    pixels = blip.pixels
    monkeypatch.setattr(blip, "pixels", lambda batch, **options: read.extend(batch) or pixels(batch, **options))
    first, second = images[:2]
    captions = blip([first, second, first, first])
    assert len(read) == 2
    assert captions[0] == captions[2] == captions[3]


def test_images_of_any_mode_are_read(blip, images):
    assert blip([images[0].convert("RGBA")]) == blip([images[0]])
    assert blip([images[0].convert("L")]) == blip([images[0].convert("L").convert("RGB")])


def test_no_images_no_captions(blip):
    assert blip([]) == []


def test_beams_and_penalties_of_the_checkpoint_are_left_aside(blip, tiny_blip, images, tmp_path, capfd):
    folder = shutil.copytree(tiny_blip, tmp_path / "blip")
    generation = {"num_beams": 4, "repetition_penalty": 5.0, "max_length": 3, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"max_length": 3}
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder)(images) == blip(images)
    assert capfd.readouterr().err == ""


def test_a_caption_longer_than_the_model_can_write_is_refused(tiny_blip):
    with pytest.raises(CorlError, match="at most 63 tokens, not 64"):
        loaded(tiny_blip, 64)


def test_another_kind_of_model_is_no_captioner(tiny_text_encoder):
    (need,) = Blip(str(tiny_text_encoder), 8).requirements()
    assert need.state == "broken"
    assert "holds a BertModel" in need.detail
    with pytest.raises(
        CorlError, match=r"needs BLIP captioner \(broken\): .* holds a BertModel, not a BlipForConditionalGeneration"
    ):
        loaded(tiny_text_encoder)
