"""The frozen start that a run compares with, on the learner's own weights and on others."""

from pathlib import Path

import pytest
import torch

from corl_cli.core.recipe import Lora, Model
from corl_cli.core.types import Rollout, Sampling, Task, Triplet
from corl_cli.models import lora
from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import build

SAMPLINGS: dict[Task, Sampling] = {
    "t2i": Sampling(group_size=2, cfg_weight=3.0),
    "mm2t": Sampling(group_size=2, max_new_tokens=6),
}


@pytest.fixture(scope="module")
def base(policy: JanusPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    policy.save(folder)
    return folder


@pytest.fixture(scope="module")
def rollouts(policy: JanusPolicy, triplets: list[Triplet]) -> list[Rollout]:
    return [policy.sample(task, triplets[:2], sampling, key="k") for task, sampling in SAMPLINGS.items()]


def model(start: Path, dtype: str = "float32", **settings: object) -> Model:
    return Model.model_validate({"checkpoint": str(start), "dtype": dtype, **settings})


def learner(of: Model, path: Path, *, resume: bool = False) -> UnifiedPolicy:
    torch.manual_seed(0)
    return build.build_learner(of, path, resume=resume).eval()


@torch.no_grad()
def scores(policy: UnifiedPolicy, rollouts: list[Rollout]) -> torch.Tensor:
    return torch.cat([policy(rollout).logps.flatten() for rollout in rollouts])


def update(policy: UnifiedPolicy, rollouts: list[Rollout]) -> None:
    """A step that moves everything that learns."""
    optimizer = torch.optim.AdamW(policy.trainable(), lr=0.05)
    for _ in range(2):  # fresh adapters: first one half of each, then the other
        sum(policy(rollout).logps.mean() for rollout in rollouts).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_stands_on_the_weights_under_the_adapters(base: Path, rollouts: list[Rollout], dtype: str) -> None:
    spec = model(base, dtype, lora=Lora(rank=4, alpha=8))
    policy = learner(spec, base)
    reference = build.build_reference(spec, base, policy)
    own = {tensor.data_ptr() for tensor in [*reference.parameters(), *reference.buffers()]}
    assert own <= {tensor.data_ptr() for tensor in [*policy.parameters(), *policy.buffers()]}, "nothing is held twice"
    apart = build.build_reference(spec, base, None)
    assert {name: value.dtype for name, value in reference.state_dict().items()} == {
        name: value.dtype for name, value in apart.state_dict().items()
    }
    start = scores(reference, rollouts)
    assert torch.equal(start, scores(policy, rollouts)), "the divergence is exactly 0 before the first update"
    assert torch.equal(start, scores(apart, rollouts))
    learning = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    update(policy, rollouts)
    assert (scores(policy, rollouts) - start).abs().max() > 0.1
    assert torch.equal(scores(reference, rollouts), start), "and no update reaches it"
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == learning
    assert not reference.trainable()
    assert lora.attached(policy.model)  # type: ignore[attr-defined]
    assert not lora.attached(reference.model)  # type: ignore[attr-defined]


def test_it_samples_what_the_start_does(base: Path, triplets: list[Triplet], rollouts: list[Rollout]) -> None:
    spec = model(base, lora=Lora(rank=4, alpha=8))
    policy = learner(spec, base)
    reference = build.build_reference(spec, base, policy)
    policy.sample("mm2t", triplets[:2], SAMPLINGS["mm2t"], key="k")  # both hold samplers of their own
    update(policy, rollouts)
    for rollout in rollouts:
        again = reference.sample(rollout.task, triplets[:2], rollout.sampling, key="k")
        assert torch.equal(again.completion_ids, rollout.completion_ids)
        assert torch.equal(again.logps, rollout.logps)


@pytest.mark.parametrize(("dtype", "second"), [("float32", False), ("bfloat16", True)])
def test_it_is_the_same_before_and_after_a_resume(
    base: Path, rollouts: list[Rollout], tmp_path: Path, dtype: str, second: bool
) -> None:
    spec = model(base, dtype, lora=Lora(rank=4, alpha=8))
    start = base
    if second:  # its adapters are folded in, and what the new ones stand on is saved with them
        first = learner(spec, base)
        update(first, rollouts)
        start = tmp_path / "first"
        first.save(start)
    policy = learner(spec, start)
    before = scores(build.build_reference(spec, start, policy), rollouts)
    assert torch.equal(before, scores(build.build_reference(spec, start, None), rollouts))
    update(policy, rollouts)
    policy.save(tmp_path / "step")
    resumed = learner(spec, tmp_path / "step", resume=True)
    assert torch.equal(scores(resumed, rollouts), scores(policy, rollouts))
    assert torch.equal(scores(build.build_reference(spec, start, resumed), rollouts), before)


@pytest.mark.parametrize("train", [["language_model"], ["language_model", "generation_embeddings", "aligner"]])
def test_without_adapters_half_the_memory_gives_the_same_bits(
    base: Path, rollouts: list[Rollout], train: list[str]
) -> None:
    spec = model(base, "bfloat16", train=train)
    policy = learner(spec, base)
    reference = build.build_reference(spec, base, policy)
    linear = [module for module in reference.modules() if isinstance(module, torch.nn.Linear)]
    assert {module.weight.dtype for module in linear} == {torch.bfloat16}
    assert not reference.trainable()
    assert torch.equal(scores(reference, rollouts), scores(policy, rollouts))
    assert {parameter.dtype for parameter in policy.trainable()} == {torch.float32}
