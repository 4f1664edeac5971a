"""CLIPScore as a reward, on a random tiny CLIP of the real class."""

import pytest
import torch

from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import Samples, Sampling
from corl_cli.rewards import bind
from corl_cli.rewards.base import Criterion, Rubric


@pytest.fixture(scope="module")
def reward(tiny_clip):
    bound = bind(RewardSpec.model_validate({"name": "clip", "checkpoint": str(tiny_clip)}), "t2i")
    bound.load(torch.device("cpu"), None)
    return bound


@pytest.fixture(scope="module")
def samples(triplets):
    rows = [triplet for triplet in triplets for _ in range(2)]
    drawn = [triplet.image for triplet in (*triplets, *triplets[::-1])]
    return Samples(task="t2i", triplets=rows, outputs=drawn, sampling=Sampling(group_size=2))


def test_score_is_the_cosine_times_two_and_a_half_or_0(reward, samples):
    cosines = reward.clip(samples.outputs, [triplet.prompt for triplet in samples.triplets]).values
    assert cosines.min() < 0 < cosines.max()
    scores = reward.score(samples, None)
    assert scores.values.tolist() == pytest.approx([2.5 * max(cosine, 0) for cosine in cosines.tolist()])
    assert scores.notes[0].startswith(f"cosine {float(cosines[0]):.4f}")


def test_it_needs_no_policy_and_its_checkpoint_is_ready(reward):
    assert not reward.needs_policy
    assert not reward.needs_reference
    assert [need.state for need in reward.requirements()] == ["ok"]


def test_an_empty_prompt_is_masked_with_its_reason(reward, samples):
    from dataclasses import replace

    silent = [replace(triplet, prompt="") for triplet in samples.triplets[:2]] + samples.triplets[2:]
    rubric = Rubric("t2i", [Criterion(name="clip", weight=1, on_error="mask", reward=reward)])
    result = rubric(replace(samples, triplets=silent), None)
    assert result.valid.tolist() == [False] * 2 + [True] * 10
    assert result.notes["clip"][0] == "the prompt is empty"


def test_the_explanation_holds_the_cosine(reward, samples):
    explained = reward.explain(samples.select([0]), None)
    assert len(explained) == 2
    assert "cosine" in explained[0].facts["note"]
