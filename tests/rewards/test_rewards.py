"""Each reward on rollouts of the random tiny Janus, or with a captioner whose words are known."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import Sampling
from corl_cli.rewards import bind
from corl_cli.rewards.matching import matching_score
from corl_cli.scoring.heatmap import token_map
from corl_cli.scoring.scene_graph import f_score, parse
from corl_cli.scoring.similarity import Pixel, fitted


class Captioner:
    """Stands for a frozen policy that says `caption` of every image; keeps what it was asked."""

    def __init__(self, caption: str) -> None:
        self.caption = caption

    def sample(self, task, triplets, sampling, *, key):
        self.asked = (task, triplets, sampling, key)
        return SimpleNamespace(outputs=[self.caption] * len(triplets))


def reward(name: str, task: str, reference=None, **options):
    bound = bind(RewardSpec.model_validate({"name": name, **options}), task)
    bound.load(torch.device("cpu"), reference)
    return bound


@pytest.fixture
def drawings(policy, triplets):
    """A rollout whose drawings are the real images."""
    return policy.encode("t2i", triplets, [triplet.image for triplet in triplets])


@pytest.fixture
def answers(policy, triplets):
    """A rollout whose answers are right, and keep to the format."""
    return policy.encode("mm2t", triplets, [f"<think> so </think> <answer> {t.answer} </answer>" for t in triplets])


def test_accuracy_and_format_of_answers(policy, answers):
    assert reward("accuracy", "mm2t").score(answers, policy).values.tolist() == [1] * 6
    assert reward("format", "mm2t").score(answers, policy).values.tolist() == [1] * 6
    broken = replace(answers, outputs=["", "<answer></answer>", *answers.outputs[2:]])
    assert reward("accuracy", "mm2t").score(broken, policy).values.tolist() == [0, 0, 1, 1, 1, 1]
    assert reward("format", "mm2t").score(broken, policy).values.tolist() == [0, 0, 1, 1, 1, 1]


def test_accuracy_without_an_answer_to_compare_with_is_missing(policy, answers):
    unknown = replace(answers, triplets=[replace(answers.triplets[0], answer=" "), *answers.triplets[1:]])
    assert reward("accuracy", "mm2t").score(unknown, policy).values.isnan().tolist() == [True] + [False] * 5


def test_checker_pays_for_true_drawings(policy, drawings):
    scores = reward("checker", "t2i", partial_weight=0.5).score(drawings, policy)
    assert scores.values.tolist() == [1.5] * 6
    assert scores.parts["correct"].tolist() == scores.parts["partial"].tolist() == [1] * 6


def test_checker_cannot_score_prompts_of_another_language(policy, drawings):
    other = replace(drawings, triplets=[replace(drawings.triplets[0], prompt="a horse"), *drawings.triplets[1:]])
    scores = reward("checker", "t2i").score(other, policy)
    assert scores.values.isnan().tolist() == [True] + [False] * 5
    assert "a horse" in scores.notes[0]


def test_cycle_is_the_weighted_sum_of_looks_and_words(policy, drawings):
    turned = replace(drawings, outputs=drawings.outputs[::-1])
    captioner = Captioner("a red circle")
    cycle = reward("cycle", "t2i", captioner, perceptual_weight=2, text_weight=0.5, max_new_tokens=9)
    scores = cycle.score(turned, policy)
    looks = Pixel()([triplet.image for triplet in turned.triplets], turned.outputs).values
    said = parse("a red circle").tuples()
    words = torch.tensor([f_score(said, parse(triplet.prompt).tuples()) for triplet in turned.triplets])
    assert torch.equal(scores.parts["pixel"], looks)
    assert torch.equal(scores.parts["scene_graph"], words)
    assert torch.allclose(scores.values, 2 * looks + 0.5 * words)
    assert all("a red circle" in note for note in scores.notes)
    task, triplets, sampling, _ = captioner.asked
    assert task == "mm2t"
    assert [triplet.image for triplet in triplets] == turned.outputs
    assert {triplet.question for triplet in triplets} == {"describe the image"}
    assert sampling == Sampling(group_size=1, temperature=0.0, max_new_tokens=9)


def test_cycle_of_an_empty_caption_is_zero_and_of_an_empty_prompt_missing(policy, drawings):
    silent = reward("cycle", "t2i", Captioner("")).score(drawings, policy)
    assert silent.parts["scene_graph"].tolist() == [0] * 6
    for prompt, why in (("the", "the prompt names nothing"), (" ", "the prompt is empty")):
        unnamed = replace(drawings, triplets=[replace(drawings.triplets[0], prompt=prompt), *drawings.triplets[1:]])
        scores = reward("cycle", "t2i", Captioner("a red circle")).score(unnamed, policy)
        assert scores.values.isnan().tolist() == [True] + [False] * 5
        assert why in scores.notes[0]


def test_cycle_refuses_images_of_other_sizes_unless_told_how_to_resize(policy, drawings):
    wide = Image.new("RGB", (64, 32), "red")
    samples = replace(drawings, triplets=[replace(drawings.triplets[0], image=wide), *drawings.triplets[1:]])
    scores = reward("cycle", "t2i", Captioner("a red circle")).score(samples, policy)
    assert scores.values.isnan().tolist() == [True] + [False] * 5
    assert "the drawing is 32x32, the real image 64x32" in scores.notes[0]
    assert "resize" in scores.notes[0]
    for how in ("stretch", "crop"):
        assert (
            reward("cycle", "t2i", Captioner("a red circle"), resize=how).score(samples, policy).values.isfinite().all()
        )


def test_cropping_takes_the_centre_and_stretching_everything():
    wide = Image.new("RGB", (8, 4), "red")
    wide.paste("blue", (2, 0, 6, 4))
    assert fitted(wide, (4, 4), "crop").getcolors() == [(16, (0, 0, 255))]
    assert len(fitted(wide, (4, 4), "stretch").getcolors()) > 1
    assert fitted(wide, wide.size, "crop") is wide


def test_cycle_compares_at_the_size_that_it_is_given(policy, drawings):
    """Two pictures that differ in a checkerboard are alike once it is averaged away."""
    board = Image.fromarray((np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    samples = replace(drawings, triplets=[replace(t, image=grey) for t in drawings.triplets], outputs=[board] * 6)
    own = reward("cycle", "t2i", Captioner("a")).score(samples, policy).parts["pixel"]
    small = reward("cycle", "t2i", Captioner("a"), size=8).score(samples, policy).parts["pixel"]
    assert own[0] == pytest.approx(0.75, abs=0.01)
    assert small[0] > 0.97


def test_cycle_crops_first_and_then_treats_both_images_alike(policy, drawings):
    wide = drawings.outputs[0].resize((64, 32))
    samples = replace(drawings, triplets=[replace(t, image=wide) for t in drawings.triplets], outputs=[wide] * 6)
    scores = reward("cycle", "t2i", Captioner("a"), resize="crop", size=16).score(samples, policy)
    assert scores.parts["pixel"].tolist() == [1] * 6


def test_a_half_without_weight_is_left_out_with_all_that_it_needs(policy, drawings):
    unnamed = replace(drawings, triplets=[replace(t, prompt="!!!") for t in drawings.triplets])
    looks = reward("cycle", "t2i", text="spice", captioner="no/such-blip", text_weight=0)
    assert not looks.needs_reference
    assert looks.requirements() == []
    scores = looks.score(unnamed, policy)
    assert torch.equal(scores.values, scores.parts["pixel"])
    assert set(scores.parts) == {"pixel"}
    assert len(looks.explain(unnamed, policy)[0].pictures) == 3
    says = reward("cycle", "t2i", Captioner("a red circle"), perceptual="lpips-vgg", perceptual_weight=0)
    assert says.requirements() == []
    assert set(says.score(drawings, policy).parts) == {"scene_graph"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "x.pth"}, "backbone has no effect with perceptual: pixel"),
        ({"text": "spice", "synonyms": False}, "synonyms has no effect with text: spice"),
        ({"text_encoder": "x"}, "text_encoder has no effect with text: scene_graph"),
        ({"captioner": "x", "caption_prompt": "what"}, "caption_prompt has no effect with captioner: x"),
        ({"text_weight": 0, "perceptual_weight": 0}, "must be above 0"),
    ],
)
def test_cycle_refuses_options_without_effect(options, words):
    with pytest.raises(UsageError, match=words):
        bind(RewardSpec.model_validate({"name": "cycle", **options}), "t2i")


def test_cycle_explains_itself(policy, drawings):
    (first, *_), cycle = drawings.triplets, reward("cycle", "t2i", Captioner("a red circle"))
    found = cycle.explain(drawings, policy)
    assert len(found) == 6
    assert found[0].facts["caption by policy"] == "a red circle"
    assert {"pixel", "scene_graph", "matched", "missing", "extra"} <= set(found[0].facts)
    assert [tile.text for tile in found[0].pictures] == ["drawing", "real image", "where pixel differs"]
    assert found[0].pictures[1].image is first.image
    assert found[0].facts["mean squared error"] == "0.0000"  # the drawing is the real image


def test_cycle_with_the_policy_as_captioner_is_deterministic(policy, drawings):
    cycle = reward("cycle", "t2i", policy, max_new_tokens=8)
    assert cycle.needs_reference
    one, two = cycle.score(drawings, policy), cycle.score(drawings, policy)
    assert torch.equal(one.values, two.values)
    assert one.notes == two.notes


def test_matching_of_a_row_does_not_change_with_its_neighbours(policy, drawings):
    """Left padding and the batch around it leave a score alone: long prompts beside short ones, any order."""
    matching = reward("matching", "t2i")
    lengths = ["dot", "a red circle above a very large blue square and a small green triangle", "a red circle"]
    triplets = [replace(t, prompt=lengths[i % 3]) for i, t in enumerate(drawings.triplets)]
    samples = replace(drawings, triplets=triplets)
    together = matching.score(samples, policy).values
    alone = [matching.score(samples.select([row]), policy).values for row in range(6)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)
    turned = matching.score(samples.select([5, 4, 3, 2, 1, 0]), policy).values
    assert torch.allclose(turned.flip(0), together, atol=1e-5)
    assert together.std() > 1e-3


def test_matching_reads_the_policy_or_its_frozen_start(policy, drawings):
    other = copy.deepcopy(policy)
    torch.nn.init.normal_(next(iter(other.trainable())), std=0.5)
    own = reward("matching", "t2i", other).score(drawings, policy).values
    frozen = reward("matching", "t2i", other, hidden="reference")
    assert frozen.needs_reference
    assert torch.equal(frozen.score(drawings, policy).values, reward("matching", "t2i").score(drawings, other).values)
    assert not torch.allclose(frozen.score(drawings, policy).values, own)


def test_matching_of_an_empty_prompt_says_so(policy, drawings):
    samples = replace(drawings, triplets=[replace(drawings.triplets[0], prompt=" "), *drawings.triplets[1:]])
    scores = reward("matching", "t2i").score(samples, policy)
    assert scores.values.isnan().tolist() == [True] + [False] * 5
    assert scores.notes[0] == "the prompt has no text tokens"


def test_matching_explains_itself_with_a_heatmap_per_word(policy, drawings):
    scores = reward("matching", "t2i").score(drawings, policy)
    explained = reward("matching", "t2i").explain(drawings, policy)
    for triplet, value, found in zip(drawings.triplets, scores.values, explained, strict=True):
        halves = [float(text) for label, text in found.facts.items() if "mean" in label]
        assert sum(halves) / 2 == pytest.approx(float(value), abs=2e-4)
        words = [tile.text.rpartition(" ")[0].strip("'") for tile in found.pictures[1:]]
        assert "".join(words) == triplet.prompt.replace(" ", "")


def test_matching_speaks_of_a_border_only_where_there_is_one_and_of_words_it_does_not_know(policy, drawings):
    (triplet, *_), square = drawings.triplets, drawings.outputs[0]
    for drawing, border in ((square, False), (square.resize((40, 20)), True)):
        samples = replace(drawings, triplets=[replace(triplet, prompt="red xylophone")] * 6, outputs=[drawing] * 6)
        found = reward("matching", "t2i").explain(samples, policy)[0]
        assert ("grey is the border" in found.facts["colours"]) == border
        assert found.pictures[2].text.startswith("'(word not in the vocabulary)' ")


def test_a_heatmap_colours_each_cell_and_greys_the_border():
    wide = Image.new("RGB", (40, 20), "white")  # padded to a square: a quarter of grey above and below
    picture = token_map(wide, torch.tensor([0.0, 0.0, 0.0, 1.0]), 0.0, 1.0)
    assert picture.getpixel((80, 5)) == picture.getpixel((80, 155)) == (128, 128, 128)
    dark, bright = picture.getpixel((40, 60)), picture.getpixel((120, 100))
    assert sum(bright) > sum(dark)
    with pytest.raises(ValueError, match="no square grid"):
        token_map(wide, torch.zeros(5), 0.0, 1.0)


def test_matching_by_hand():
    images = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    texts = torch.tensor([[[3.0, 0.0], [3.0, 4.0], [-1.0, -1.0]]])
    mask = torch.tensor([[1, 1, 0]])
    # cosines: image 0 with 1 and 0.6, image 1 with 0 and 0.8; image means (1 + 0.8) / 2, text means (1 + 0.8) / 2
    assert matching_score(images, texts, mask).tolist() == pytest.approx([0.9])
    # with the second word alone: images 0.6 and 0.8, mean 0.7; the word's best is 0.8
    assert matching_score(images, texts, torch.tensor([[0, 1, 0]])).tolist() == pytest.approx([(0.7 + 0.8) / 2])


def test_matching_without_words_is_missing_and_bf16_is_scored_in_fp32():
    images, texts = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [False] * 5])
    scores = matching_score(images.bfloat16(), texts.bfloat16(), mask)
    assert scores.dtype == torch.float32
    assert scores.isnan().tolist() == [False, True]


@given(st.integers(0, 10_000), st.floats(0.1, 100))
def test_matching_is_bounded_and_blind_to_order_scale_and_padding(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(1, 4, 8, generator=generator), torch.randn(1, 3, 8, generator=generator)
    mask = torch.ones(1, 3, dtype=torch.bool)
    score = matching_score(images, texts, mask)
    assert -1 - 1e-6 <= float(score) <= 1 + 1e-6
    assert torch.allclose(score, matching_score(scale * images.flip(1), texts.flip(1), mask), atol=1e-6)
    padded = torch.cat([torch.full((1, 2, 8), 7.0), texts], 1)
    assert torch.allclose(score, matching_score(images, padded, torch.tensor([[0, 0, 1, 1, 1]])), atol=1e-6)
    assert torch.allclose(matching_score(texts, texts, mask), torch.ones(1), atol=1e-5)


def test_matching_of_a_row_does_not_depend_on_its_neighbours(policy, drawings):
    matching = reward("matching", "t2i")
    scores = matching.score(drawings, policy).values
    alone = [float(matching.score(drawings.select([row]), policy).values) for row in range(6)]
    assert scores.tolist() == pytest.approx(alone, abs=1e-5)
    assert not math.isnan(sum(alone))
