"""Objects from Mask2Former's logits, colours by CLIP, and real models of both kinds, tiny and random or rigged."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.eval.base import Item, Setting, Work
from corl_cli.eval.geneval import GenEval, GenEvalOptions
from corl_cli.eval.geneval.colours import CANVAS, ClipColours
from corl_cli.eval.geneval.detector import Mask2Former, objects
from corl_cli.eval.geneval.prompts import CLASSES
from corl_cli.eval.geneval.rules import COLOURS, Detection
from corl_cli.scoring import checkpoints
from corl_cli.scoring.clip import Clip

CAT, DOG = CLASSES.index("cat"), CLASSES.index("dog")
NONE = 80  # the last class


def logits(*queries):
    """Class logits of queries that are each given as {class: probability}, the rest of it "none"."""
    made = torch.full((len(queries), 81), -1e4)
    for row, chances in zip(made, queries, strict=True):
        for index, chance in chances.items():
            row[index] = math.log(chance)
        row[NONE] = math.log(max(1 - sum(chances.values()), 1e-9))
    return made


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_score_is_the_classes_probability_times_the_masks():
    masks = torch.tensor([[[2.0, -2.0, -2.0], [1.0, -2.0, -2.0]], [[-1.0, -1.0, -1.0], [-1.0, 3.0, 3.0]]])
    found = objects(logits({CAT: 0.75}, {CAT: 0.5, DOG: 0.25}), masks, (2, 3), (2, 3), 0.2)
    assert {name: len(things) for name, things in found.items()} == {"cat": 2, "dog": 1}
    first, second = found["cat"]
    assert first.score == pytest.approx(0.75 * (sigmoid(2) + sigmoid(1)) / 2, rel=1e-5)
    assert first.box.tolist() == [0, 0, 1, 2]
    assert first.mask.tolist() == [[True, False, False], [True, False, False]]
    assert second.score == pytest.approx(0.5 * sigmoid(3), rel=1e-5)
    assert second.box.tolist() == found["dog"][0].box.tolist() == [1, 1, 3, 2]
    assert found["dog"][0].score == pytest.approx(0.25 * sigmoid(3), rel=1e-5)


def test_what_cannot_exceed_the_threshold_is_left_out():
    masks = torch.ones(2, 2, 2)
    found = objects(logits({CAT: 0.75}, {DOG: 0.25}), masks, (2, 2), (2, 2), 0.3)
    assert list(found) == ["cat"]


def test_an_empty_mask_is_worth_nothing():
    found = objects(logits({CAT: 0.75}), -torch.ones(1, 2, 2), (2, 2), (2, 2), 0.3)
    assert (found["cat"][0].score, found["cat"][0].box.tolist()) == (0.0, [0.0] * 4)


def test_masks_come_in_the_images_own_size():
    """Between the centres of two pixels, 2 and -2, the resized mask changes sign half way."""
    masks = torch.tensor([[[2.0, -2.0], [2.0, -2.0]]])
    found = objects(logits({CAT: 0.9}), masks, (8, 8), (6, 4), 0.3)["cat"][0]
    assert found.mask.shape == (6, 4)
    assert found.box.tolist() == [0, 0, 2, 6]


def test_only_the_hundred_likeliest_pairs_become_objects():
    every = {index: (80 - index) / 10000 for index in range(80)}
    found = objects(logits(every, every), torch.ones(2, 1, 1), (1, 1), (1, 1), 0.0)
    assert [name for name, things in found.items() for _ in things] == [name for name in CLASSES[:50] for _ in "12"]


# ---- real models ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_mask2former(tmp_path_factory):
    """The folder of a random tiny Mask2Former of 80 classes, whose processor says 384 as the hub's does."""
    folder = tmp_path_factory.mktemp("tiny") / "mask2former"
    return saved(network(), folder)


def network(num_labels=80):
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32)  # the least: 32 groups are normed
    config = Mask2FormerConfig(
        backbone_config=backbone,
        **widths,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=4,
        num_labels=num_labels,
    )
    torch.manual_seed(0)
    return Mask2FormerForUniversalSegmentation(config)


def rigged(index, chance=5.0):
    """A network that sees one object of a class all over every image."""
    model = network()
    with torch.no_grad():
        model.class_predictor.weight.zero_()
        model.class_predictor.bias.zero_()[index] = 3 + chance
        features = model.model.pixel_level_module.decoder.mask_projection
        features.weight.zero_()
        features.bias.fill_(1.0)
        embedder = model.model.transformer_module.decoder.mask_predictor.mask_embedder
        last = [layer for layer in embedder.modules() if isinstance(layer, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.fill_(1.0)
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "Mask2FormerImageProcessor",
        "size": {"height": 384, "width": 384},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "size_divisor": 32,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def loaded(folder):
    detector = Mask2Former(str(folder))
    detector.load(torch.device("cpu"))
    return detector


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))


def test_a_detector_needs_no_tokenizer(tiny_mask2former, tmp_path):
    (need,) = Mask2Former(str(tiny_mask2former)).requirements()
    assert need.state == "ok"
    assert checkpoints.requirement("x", str(tiny_mask2former)).state == "broken"  # as a model of texts
    bare = shutil.copytree(tiny_mask2former, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    (need,) = Mask2Former(str(bare)).requirements()
    assert "holds no weights" in need.detail


def test_the_network_sees_800_pixels_whatever_its_processor_says(tiny_mask2former, photograph):
    detector = loaded(tiny_mask2former)
    shapes = []
    detector.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    found = detector(photograph, 0.0)
    assert shapes == [(1, 3, 800, 1088)]  # 1066 and 2/3, up to a multiple of 32
    things = [thing for things in found.values() for thing in things]
    assert len(things) == 100
    assert {thing.mask.shape for thing in things} == {(48, 64)}
    assert all(0 <= thing.score <= 1 for thing in things)


def test_objects_are_those_of_the_networks_own_logits(tmp_path, photograph):
    detector = loaded(saved(rigged(CAT), tmp_path / "cat"))
    found = detector(photograph, 0.3)
    assert set(found) == {"cat"}
    assert len(found["cat"]) == 4  # of each query
    chance = math.exp(8) / (math.exp(8) + 80)
    for thing in found["cat"]:
        assert thing.score == pytest.approx(chance * sigmoid(32), rel=1e-4)
        assert thing.box.tolist() == [0, 0, 64, 48]


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(CorlError, match="it knows 133 classes, not the 80 of COCO's objects"):
        loaded(saved(network(133), tmp_path / "panoptic"))


def test_damage_is_named(tiny_mask2former, tmp_path):
    torn = shutil.copytree(tiny_mask2former, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((tiny_mask2former / "model.safetensors").read_bytes()[:9000])
    with pytest.raises(CorlError, match="No object detector could be read from"):
        loaded(torn)


def test_colours_are_the_nearest_mean_text(tiny_clip):
    clip = Clip(str(tiny_clip))
    clip.load(torch.device("cpu"))
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
    mask = np.zeros((40, 40), bool)
    mask[4:20, 10:30] = True
    things = [
        Detection(np.array([10, 4, 30, 20], np.float32), 1.0, mask),
        Detection(np.array([0, 0, 40, 40], np.float32), 1.0),
    ]
    alone = np.array(image)
    alone[~mask] = (0x99, 0x99, 0x99)
    crops = [Image.fromarray(alone[4:20, 10:30]), image]
    wanted = []
    for crop in crops:
        cosines = []
        for colour in COLOURS:
            texts = [
                f"a photo of a {colour} dog",
                f"a photo of a {colour}-colored dog",
                f"a photo of a {colour} object",
            ]
            mean = clip.embed_texts(texts).mean(0)
            cosines.append(float(clip.embed_images([crop])[0] @ mean / mean.norm()))
        wanted.append(COLOURS[int(np.argmax(cosines))])
    assert CANVAS == "#999"
    assert ClipColours(clip)(image, "dog", things) == wanted


# ---- the benchmark with real parts ------------------------------------------------------------------------------


def benchmark(detector, clip):
    made = GenEval("geneval", GenEvalOptions(detector=str(detector), clip=str(clip)), Setting())
    made.load(torch.device("cpu"))
    return made


def test_the_self_test_says_what_is_wrong_with_a_random_detector_and_clip(tiny_mask2former, tiny_clip):
    checks = {check.name: check for check in benchmark(tiny_mask2former, tiny_clip).self_test()}
    cat = checks["the cat of a photograph is found"]
    assert not cat.passed
    assert "0.0" in cat.found
    assert "facebook/mask2former-swin-small-coco-instance" in cat.remedy
    balls = checks["the colours of plain balls are named"]
    assert not balls.passed
    assert balls.found.startswith("red ball: ")
    assert "openai/clip-vit-large-patch14" in balls.remedy


def test_the_self_test_knows_a_cat_from_a_dog(tmp_path, tiny_clip):
    found = {}
    for index in (CAT, DOG):
        checks = benchmark(saved(rigged(index), tmp_path / str(index)), tiny_clip).self_test()
        found[index] = {check.name: check.passed for check in checks}
    assert list(found[CAT].values())[:3] == [True, True, True]
    assert list(found[DOG].values())[:3] == [False, False, False]


def test_scores_say_what_was_found(tmp_path, tiny_clip, photograph):
    made = benchmark(saved(rigged(CAT), tmp_path / "cat"), tiny_clip)
    photograph.save(tmp_path / "0000.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "0000.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    include = [{"class": "cat", "count": 2}]
    wanted = {
        "many": {"tag": "two_object", "include": include},
        "counted": {"tag": "counting", "include": include, "exclude": [{"class": "cat", "count": 3}]},
        "coloured": {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]},
    }
    items = {name: Item(id=name, task="t2i", prompt=name, group="", data=data) for name, data in wanted.items()}
    files = [("many", "0000"), ("counted", "0000"), ("coloured", "0000"), ("many", "gone"), ("many", "torn")]
    files.append(("many", "text"))
    work = [Work(item=items[name], sample=i, output=tmp_path / f"{file}.png") for i, (name, file) in enumerate(files)]
    scores = list(made.score(work, tmp_path))
    assert [score.value for score in scores[:2]] == [1.0, 0.0]
    assert scores[1].reason == "expected cat<3, found 4"
    assert scores[0].details["tag"] == "two_object"
    assert scores[0].details["detections"]["cat"][0][:4] == [0, 0, 64, 48]
    assert scores[2].details["colours"]["cat"][0] in COLOURS
    failed = ["the image is missing", "the image cannot be read", "the image cannot be read"]
    assert [(score.value, score.reason) for score in scores[3:]] == [(None, reason) for reason in failed]
    assert [(score.item, score.sample) for score in scores] == [(name, i) for i, (name, _) in enumerate(files)]
    json.dumps([score.details for score in scores], allow_nan=False)
