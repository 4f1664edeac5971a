"""The memory of a run: against what a real pass takes, and micro-batches that follow from it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Model, Recipe
from corl_cli.core.types import Rollout, Sampling
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import estimate, plan
from corl_cli.pipelines.activations import Layout, activations, logits
from corl_cli.pipelines.memory import Memory
from corl_cli.pipelines.random_weights import JANUS, janus_config
from corl_cli.world import checkpoint
from corl_cli.world.items import WorldTriplets

MIB = 2**20
M_MMAP_THRESHOLD = -3  # of glibc's mallopt


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of Janus-Pro-1B, which is all that an estimate reads."""
    folder = tmp_path_factory.mktemp("large")
    janus_config(JANUS["janus-pro-1b"]).save_pretrained(folder)
    return folder


def recipe_of(folder: Path, *changes: str) -> Recipe:
    """The paper's stage 1 on the world's data, with weights of this folder."""
    return load("unified/janus-pro-1b", [f"model.checkpoint={folder}", "data.path=world", "data.holdout=0", *changes])


@pytest.fixture(scope="module")
def drawings() -> Rollout:
    """Drawings of the world, 24 groups of 8."""
    triplets = [WorldTriplets("train", 24, 0)[index] for index in range(24)]
    return JanusPolicy.load(checkpoint()).sample("t2i", triplets, Sampling(group_size=8), key="x")


@pytest.fixture
def own_pages() -> Iterator[None]:
    """glibc gives large tensors pages of their own, which it returns: a process' memory is that of its tensors."""
    if sys.platform != "linux":
        pytest.skip("a process' peak is told by Linux alone")
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    yield
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_pass_takes_what_was_counted(drawings: Rollout, own_pages: None, checkpointing: bool) -> None:
    policy = JanusPolicy.load(checkpoint())
    if checkpointing:
        policy.checkpoint_layers()
    policy.train()
    for parameter in policy.trainable():
        parameter.grad = torch.ones_like(parameter)
    layout = Layout(
        task="t2i",
        prompts=24,
        group_size=8,
        prompt_tokens=drawings.prompt_ids.shape[1],
        new_tokens=drawings.completion_ids.shape[1],
    )
    counted = activations(policy.model.config, Model(gradient_checkpointing=checkpointing), layout) / MIB
    memory = Memory(torch.device("cpu"))
    policy(drawings).logps.sum().backward()
    taken = memory.peak()
    assert taken is not None
    assert counted > 40
    assert 0.7 < taken / counted < 1.4


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


def test_the_paper_s_first_stage_and_adapters_stay_within_what_they_may_take(large: Path) -> None:
    assert estimate.peak(recipe_of(large), 1, 2).total < 60e9
    assert estimate.peak(recipe_of(large, "model.lora={}"), 1, 1).total < 20e9


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


def test_a_pass_of_one_triplet_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = janus_config(JANUS["small"])
    config.text_config.vocab_size = 2**36  # an embedding of many terabytes
    config.save_pretrained(tmp_path)
    changes = [f"model.checkpoint={tmp_path}", "train.batch_size=1", "eval.probes=null", "train.tasks=[mm2t]"]
    changes += ["rewards.t2i=[]", "algo.credit=per_task"]
    with pytest.raises(CorlError, match="Not even one triplet fits") as refused:
        plan.sized(load("world/unified", changes))
    assert "corl plan world-unified" in str(refused.value.hint)
