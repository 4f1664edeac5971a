"""Which parts of the policy learn, in which precision, and that the sampler follows them."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from corl_cli.core.recipe import Part
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.parts import TOUCHED

PARTS = get_args(Part)
SAMPLINGS = {
    "t2i": Sampling(group_size=2, cfg_weight=3.0, scoring="guided"),
    "mm2t": Sampling(group_size=2, max_new_tokens=10),
}


@pytest.fixture(scope="module")
def saved(policy: JanusPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    policy.save(folder)
    return folder


def part_of(name: str) -> str:
    inner = name.removeprefix("model.").removeprefix("model.").split(".")[0]
    return "language_model" if inner == "lm_head" else inner


def test_every_part_is_known() -> None:
    assert set(TOUCHED) == set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_learns_in_float32_and_the_rest_is_held_in_less(saved: Path, part: Part) -> None:
    policy = JanusPolicy.load(saved, dtype="bfloat16", train=[part])
    learning = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in learning} == {part}
    assert {p.dtype for p in learning.values()} == {torch.float32}
    full = ("norm", "embed_tokens")  # what adds up in float32
    frozen = {n: p for n, p in policy.named_parameters() if not p.requires_grad and not any(own in n for own in full)}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    count = JanusPolicy.count(saved, train=[part])
    assert count.learn == sum(p.numel() for p in learning.values())


@pytest.mark.parametrize("task", ["t2i", "mm2t"])
def test_each_part_gets_a_gradient_from_the_tasks_that_touch_it(
    saved: Path, triplets: list[Triplet], task: Task
) -> None:
    policy = JanusPolicy.load(saved, train=PARTS)
    policy.learn([task])
    expected = {part for part in PARTS if task in TOUCHED[part]}
    assert {part_of(n) for n, p in policy.named_parameters() if p.requires_grad} == expected
    policy(policy.sample(task, triplets[:3], SAMPLINGS[task], key="k")).logps.sum().backward()
    lacking = [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert not lacking


@pytest.mark.parametrize("task", ["t2i", "mm2t"])
def test_the_sampler_follows_every_part_that_learns(saved: Path, triplets: list[Triplet], task: Task) -> None:
    policy = JanusPolicy.load(saved, train=PARTS)
    before = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    for part in (part for part in PARTS if task in TOUCHED[part]):
        with torch.no_grad():
            for parameter in getattr(policy.model.model, part).parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        after = policy.sample(task, triplets, SAMPLINGS[task], key="k")
        assert torch.allclose(policy(after).logps, after.logps, atol=1e-4), part
        width = min(before.logps.shape[1], after.logps.shape[1])
        assert not torch.allclose(before.logps[:, :width], after.logps[:, :width], atol=1e-3), part
        before = after
