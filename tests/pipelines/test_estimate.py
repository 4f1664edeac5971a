"""The memory of a run: against what a real pass takes, and micro-batches that follow from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Lora, Model, Recipe
from corl_cli.core.types import Sampling
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import estimate, plan
from corl_cli.pipelines.activations import Alive, Layout, activations, logits
from corl_cli.pipelines.random_weights import JANUS, janus_config
from corl_cli.world import checkpoint
from corl_cli.world.items import WorldTriplets


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of Janus-Pro-1B, which is all that an estimate reads."""
    folder = tmp_path_factory.mktemp("large")
    janus_config(JANUS["janus-pro-1b"]).save_pretrained(folder)
    return folder


def recipe_of(folder: Path, *changes: str) -> Recipe:
    """The paper's stage 1 on the world's data, with weights of this folder."""
    return load("unified/janus-pro-1b", [f"model.checkpoint={folder}", "data.path=world", "data.holdout=0", *changes])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_pass_holds_what_was_counted(checkpointing: bool) -> None:
    policy = JanusPolicy.load(checkpoint())
    drawings = policy.sample("t2i", WorldTriplets("train", 6, 0)[:], Sampling(group_size=8), key="x")
    if checkpointing:
        policy.checkpoint_layers()
    policy.train()
    for parameter in policy.trainable():
        parameter.grad = torch.zeros_like(parameter)
    shape = {"prompt_tokens": drawings.prompt_ids.shape[1], "new_tokens": drawings.completion_ids.shape[1]}
    layout = Layout(task="t2i", prompts=6, group_size=8, **shape)
    counted = activations(policy.model.config, Model(gradient_checkpointing=checkpointing), layout)
    gradients = [parameter.grad for parameter in policy.trainable() if parameter.grad is not None]
    with Alive([*policy.parameters(), *policy.buffers(), *gradients]) as alive:
        policy(drawings).logps.sum().backward()
    assert alive.peak == pytest.approx(counted, rel=0.2)


def test_weights_gradients_and_moments_by_hand(large: Path) -> None:
    recipe = recipe_of(large)
    learn, embedded = 1653e6, 2 * 102400 * 2048
    there = estimate.standing(recipe, 1)
    assert there.optimiser == pytest.approx(2 * 4 * learn, rel=0.001)
    assert there.gradients == pytest.approx(2 * 4 * learn, rel=0.001), "of both tasks, to compare them"
    assert there.weights == pytest.approx(4 * learn + 2 * (2077e6 - learn), rel=0.01)
    assert there.sampler == pytest.approx(2 * (1233e6 + embedded / 2), rel=0.05)
    assert (there.reference, there.sampling) == (0, 0)
    shared = estimate.standing(recipe_of(large, "distributed.strategy=fsdp"), 8)
    assert shared.optimiser == pytest.approx(there.optimiser / 8, rel=0.001)
    assert shared.sampler > there.sampler
    refined = ["train.tasks=[t2i]", "algo.credit=per_task", "algo.beta=0.02", "rewards.mm2t=[]"]
    refined += ["eval.probes=null"]
    assert estimate.standing(recipe_of(large, *refined), 1).reference > 2 * 2077e6
    assert estimate.standing(recipe_of(large, *refined, "model.lora={}"), 1).reference == 0


# Keys and values of 8 guided drawings of one prompt of 256 tokens, which they share: 2 halves, 24 layers, bfloat16.
DRAWN = 2 * (24 * 2 * 2048) * (256 + 8 * 576) * 2
PICTURES = 3 * (2**21 * 128) * 4  # decoded at once: pixels, channels, float32


def test_the_paper_s_first_stage_by_hand(large: Path) -> None:
    """1653 M of 2077 M weights learn, in float32 with gradient (two, of each task) and two moments; G = 8."""
    learn, rest, layers, heads = 1653e6, 2077e6 - 1653e6, 1233e6, 102400 * 2048 + 38e6
    found = estimate.peak(recipe_of(large), 1, 2)
    held = (4 + 8) * learn + 2 * rest + 2 * (layers + heads)  # and the sampler's copy in bfloat16
    assert found.held == pytest.approx(held, rel=0.01)
    assert found.gradients == pytest.approx(2 * 4 * learn, rel=0.001)
    # By hand for checkpointing: the layers' inputs in float32, their casts, and one layer's own numbers.
    tokens = 2 * (8 * 511 + 1024)
    kept, casts = 24 * tokens * 2048 * 4, 2 * layers
    assert kept + casts < found.activations < kept + casts + tokens * (20 * 2048 + 10 * 5632) * 4 + 2e9
    assert found.sampling == 8 * DRAWN + PICTURES, "8 of 16 prompts: 9 have room"
    assert found.total < 60e9


def test_adapters_by_hand(large: Path) -> None:
    """Rank 64 beside each linear layer of 24: two matrices of 64 rows or columns each."""
    learn = 24 * 64 * (4 * (2048 + 2048) + 3 * (2048 + 5632))
    found = estimate.peak(recipe_of(large, "model.lora={}"), 1, 2)
    assert found.optimiser == found.gradients == 8 * learn
    layers, heads, embedded = 1233e6, 102400 * 2048 + 38e6, 2 * 102400 * 2048
    held = 12 * learn + 2 * 2077e6 + embedded + 2 * (layers + heads)
    assert found.held == pytest.approx(held, rel=0.01)
    assert found.sampling == 4 * DRAWN + PICTURES, "4 of 16 prompts: 4 have room"
    assert found.total < 20e9


def test_a_pass_has_no_more_than_the_triplets_of_a_process(large: Path) -> None:
    recipe = recipe_of(large)
    assert estimate.peak(recipe, 8, 16).activations == estimate.peak(recipe, 8, 2).activations


def test_a_tower_that_learns_is_counted() -> None:
    config = janus_config(JANUS["small"])
    layout = Layout(task="mm2t", prompts=8, group_size=2, prompt_tokens=20, new_tokens=4)
    frozen = activations(config, Model(), layout)
    seen = activations(config, Model(train=["language_model", "vision_model", "aligner"]), layout)
    vision = config.vision_config
    by_hand = 8 * 4 * vision.num_hidden_layers * 10 * vision.hidden_size * 4  # ten numbers a width
    assert seen - frozen > by_hand


def test_a_login_node_says_that_the_size_is_chosen_where_it_runs(tmp_path: Path) -> None:
    rows = plan.describe(too_large(tmp_path), "unified")
    assert rows["micro-batches"].startswith("chosen where it runs")
    assert "with one triplet, as estimated" in rows["memory"]


def test_more_triplets_in_a_pass_take_more_but_not_more_logits(large: Path) -> None:
    config = estimate.configuration(str(large))
    one, two = (
        Layout(task="mm2t", prompts=prompts, group_size=8, prompt_tokens=640, new_tokens=512) for prompts in (1, 2)
    )
    model = Model(dtype="bfloat16", gradient_checkpointing=True)
    assert activations(config, model, one) < activations(config, model, two)
    assert logits(config, model, one) == logits(config, model, two)
    fewer = Layout(task="mm2t", prompts=1, group_size=8, prompt_tokens=640, new_tokens=16)
    by_hand = 8 * 16 * 102400 * (4 + 2) + 102400 * 2048 * (4 + 2)
    assert logits(config, model, fewer) == by_hand


def test_a_frozen_head_holds_the_logits_of_few_rows(large: Path) -> None:
    config, model = estimate.configuration(str(large)), Model(dtype="bfloat16", lora=Lora())
    layout = Layout(task="mm2t", prompts=1, group_size=8, prompt_tokens=640, new_tokens=512)
    gradients = 8 * 512 * 2048 * 4
    assert logits(config, model, layout) == 128 * 102400 * (4 * 4 + 2 * 2) + gradients
    drawn = replace(layout, task="t2i")
    assert logits(config, Model(dtype="bfloat16"), drawn) == 128 * 16384 * (4 * 4 + 2 * 2) + gradients
    learning = Model(dtype="bfloat16", train=["language_model", "generation_head"])
    inside = 2048 * 2048 + 2048 * 16384
    assert logits(config, learning, drawn) == pytest.approx((8 * 512 * 16384 + inside) * (4 + 2), rel=1e-3)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_few_layers_are_counted_too(layers: int) -> None:
    config = janus_config(JANUS["small"])
    config.text_config.num_hidden_layers = layers
    layout = Layout(task="t2i", prompts=2, group_size=2, prompt_tokens=20, new_tokens=16)
    whole, again = (activations(config, Model(gradient_checkpointing=again), layout) for again in (False, True))
    assert 0 < again <= whole


@given(st.integers(1, 64), st.floats(0, 100), st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_the_largest_divisor_that_fits_is_taken(share: int, room: float, each: float) -> None:
    found = plan.largest(share, room, lambda size: each * size)
    fitting = [size for size in range(1, share + 1) if share % size == 0 and each * size <= room]
    assert found == (max(fitting) if fitting else None)


def test_on_a_cpu_all_triplets_go_at_once_and_a_number_of_ones_own_stays() -> None:
    recipe = load("world/unified")
    assert plan.sized(recipe, 2).train.micro_batch_size == recipe.train.batch_size // 2
    own = load("world/unified", ["train.micro_batch_size=3"])
    assert plan.sized(own) == own
    assert plan.resumed(own, 6, 1) == own


@pytest.mark.parametrize(
    ("noted", "processes", "size"), [(6, 1, 6), (6, 2, 6), (6, 3, 4), (5, 4, 3), (None, 2, 6), (1, 1, 1)]
)
def test_a_resumed_run_keeps_its_number_where_it_divides_the_share(
    noted: int | None, processes: int, size: int
) -> None:
    recipe = load("world/unified", ["train.batch_size=12"])
    assert plan.resumed(recipe, noted, processes).train.micro_batch_size == size


def too_large(folder: Path) -> Recipe:
    """A recipe with an embedding of many terabytes."""
    config = janus_config(JANUS["small"])
    config.text_config.vocab_size = 2**36
    config.save_pretrained(folder)
    changes = [f"model.checkpoint={folder}", "train.batch_size=1", "eval.probes=null", "train.tasks=[mm2t]"]
    return load("world/unified", [*changes, "rewards.t2i=[]", "algo.credit=per_task"])


def test_a_pass_of_one_triplet_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorlError, match="Not even one triplet fits") as refused:
        plan.sized(too_large(tmp_path))
    assert "corl plan world-unified" in str(refused.value.hint)
