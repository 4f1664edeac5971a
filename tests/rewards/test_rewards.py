"""Each reward on rollouts of the random tiny Janus, or with a captioner whose words are known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import Sampling
from corl_cli.rewards import bind
from corl_cli.rewards.matching import matching_score
from corl_cli.scoring.scene_graph import f_score, parse
from corl_cli.scoring.similarity import pixel


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
    looks = pixel([triplet.image for triplet in turned.triplets], turned.outputs)
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
    unnamed = replace(drawings, triplets=[replace(drawings.triplets[0], prompt="the"), *drawings.triplets[1:]])
    scores = reward("cycle", "t2i", Captioner("a red circle")).score(unnamed, policy)
    assert scores.values.isnan().tolist() == [True] + [False] * 5


def test_cycle_with_the_policy_as_captioner_is_deterministic(policy, drawings):
    cycle = reward("cycle", "t2i", policy, max_new_tokens=8)
    assert cycle.needs_reference
    one, two = cycle.score(drawings, policy), cycle.score(drawings, policy)
    assert torch.equal(one.values, two.values)
    assert one.notes == two.notes


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
