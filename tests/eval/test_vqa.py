"""Yes/no questions put to real tiny models: batches, padding, what an answer is, and models that cannot be asked."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vqa import tiny_blip_vqa, tiny_chat

from corl_cli.core.errors import CorlError
from corl_cli.eval import vqa
from corl_cli.eval.vqa import VqaModel, is_yes

needs_torchvision = pytest.mark.skipif(find_spec("torchvision") is None, reason="chat models read images with it")
QUESTIONS = ["where is the red circle ?", "how many objects are there ?", "red ?", "is the cross above a blue circle ?"]


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)
    first, second, third = map(Image.fromarray, pixels)
    return [first, second, first, third]


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    return tiny_blip_vqa(tmp_path_factory.mktemp("vqa") / "blip")


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("vqa") / "chat")


def loaded(folder):
    model = VqaModel(str(folder))
    model.load(torch.device("cpu"))
    return model


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**Yes**", True),
        (" YES!\n", True),
        ("_no_", False),
        ("No", False),
        ("`no`.", False),
    ],
)
def test_yes_and_no_in_any_dress(answer, yes):
    assert is_yes(answer) is yes


@pytest.mark.parametrize("answer", ["", "maybe", "yes and no", "yesterday", "No, there is none", "n o", "I cannot say"])
def test_all_else_is_neither(answer):
    with pytest.raises(ValueError, match="neither yes nor no"):
        is_yes(answer)


def test_blip_answers_as_transformers_does(blip_folder, images):
    from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil

    theirs = BlipForQuestionAnswering.from_pretrained(blip_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(blip_folder)
    expected = []
    for image, question in zip(images, QUESTIONS, strict=True):  # one by one: without padding
        pixels = BlipImageProcessorPil.from_pretrained(blip_folder)([image], return_tensors="pt").pixel_values
        words = tokenizer([question], return_tensors="pt")
        tokens = theirs.generate(words.input_ids, pixels, words.attention_mask, max_new_tokens=vqa.MAX_NEW_TOKENS)
        expected.append(tokenizer.decode(tokens[0, 1:], skip_special_tokens=True).strip())
    assert len(set(expected)) > 1
    assert loaded(blip_folder).ask(images, QUESTIONS) == expected


@pytest.mark.parametrize("kind", ["blip", pytest.param("chat", marks=needs_torchvision)])
def test_the_batch_does_not_matter(kind, images, monkeypatch, request):
    model = loaded(request.getfixturevalue(f"{kind}_folder"))
    single = [model.ask([image], [text])[0] for image, text in zip(images, QUESTIONS, strict=True)]
    assert len(set(single)) > 1
    assert model.ask(images, QUESTIONS) == single
    assert model.ask(images[::-1], QUESTIONS[::-1]) == single[::-1]
    monkeypatch.setattr(vqa, "ROWS", 3)
    assert model.ask(images, QUESTIONS) == single
    assert model.ask([], []) == []


@needs_torchvision
def test_a_chat_model_sees_the_image_and_reads_the_question(chat_folder, images):
    model = loaded(chat_folder)
    [first], [other_image], [other_question] = (
        model.ask([image], [question])
        for image, question in ((images[0], QUESTIONS[0]), (images[1], QUESTIONS[0]), (images[0], QUESTIONS[2]))
    )
    assert len({first, other_image, other_question}) == 3


@needs_torchvision
def test_a_chat_model_that_says_yes_and_stops(tmp_path, images):
    assert loaded(tiny_chat(tmp_path / "chat", says="yes")).ask(images, QUESTIONS) == ["yes"] * 4


@needs_torchvision
def test_a_checkpoint_that_samples_is_asked_greedily(chat_folder, tmp_path, images):
    folder = shutil.copytree(chat_folder, tmp_path / "chat")
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "eos_token_id": 3})
    )
    assert loaded(folder).ask(images, QUESTIONS) == loaded(chat_folder).ask(images, QUESTIONS)


def test_a_captioner_is_no_vqa_model(tiny_blip):
    with pytest.raises(
        CorlError, match="holds a BlipForConditionalGeneration, not a BlipForQuestionAnswering"
    ) as error:
        loaded(tiny_blip)
    assert "\n" not in error.value.message


def test_a_text_model_is_no_vqa_model(tiny_text_encoder):
    with pytest.raises(CorlError, match="a bert model cannot be asked about images"):
        loaded(tiny_text_encoder)


@needs_torchvision
def test_a_chat_model_without_a_template_cannot_be_asked(chat_folder, tmp_path):
    folder = shutil.copytree(chat_folder, tmp_path / "chat")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CorlError, match="it has no chat template"):
        loaded(folder)


def test_what_is_lacking_is_said_before_anything_is_loaded(blip_folder, chat_folder, tmp_path):
    assert [need.state for need in VqaModel(str(blip_folder)).requirements()] == ["ok"]
    needs = VqaModel(str(chat_folder)).requirements()
    assert needs[0].state == "ok"
    assert all(need.met for need in needs) == (find_spec("torchvision") is not None)
    assert VqaModel(str(tmp_path / "nowhere")).requirements()[0].state == "missing"
