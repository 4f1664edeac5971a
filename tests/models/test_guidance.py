"""Scoring under classifier-free guidance: three distributions, one sampler and one scorer for each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Rollout, Sampling, Scoring, Triplet
from corl_cli.models import logprobs
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.logprobs import Mixed, token_logps
from corl_cli.trainer.preflight import check_identity

SAMPLING = Sampling(group_size=2, temperature=0.8, top_p=0.9, cfg_weight=4.0)
SCORINGS: tuple[Scoring, ...] = ("conditional", "guided", "guided-detached")
ALL = pytest.mark.parametrize("scoring", SCORINGS)


def drawn(policy: JanusPolicy, triplets: list[Triplet], scoring: Scoring, weight: float = 4.0) -> Rollout:
    rollout = policy.sample("t2i", triplets, replace(SAMPLING, scoring=scoring, cfg_weight=weight), key="k")
    assert not rollout.prompt_mask.bool().all(), "the batch must hold padded prompts"
    return rollout


def gradients(policy: JanusPolicy, rollout: Rollout) -> list[torch.Tensor]:
    return list(torch.autograd.grad(policy(rollout).logps.mean(), policy.trainable(), allow_unused=True))


@ALL
def test_scored_log_probs_equal_the_sampled_ones(policy: JanusPolicy, triplets: list[Triplet], scoring) -> None:
    rollout = drawn(policy, triplets, scoring)
    assert torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-4)
    one = policy(rollout.select([3]))  # prompts of other lengths beside it change nothing
    assert torch.allclose(one.logps, rollout.logps[6:8], atol=1e-4)


def test_the_guided_distribution_is_another_and_sharper(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    found = {scoring: drawn(policy, triplets, scoring) for scoring in SCORINGS}
    assert all(torch.equal(own.completion_ids, found["guided"].completion_ids) for own in found.values())
    assert torch.equal(found["guided"].logps, found["guided-detached"].logps)
    assert (found["guided"].logps - found["conditional"].logps).abs().mean() > 0.1
    entropies = {scoring: policy(own).entropies.mean() for scoring, own in found.items()}
    assert entropies["guided"] == entropies["guided-detached"] < entropies["conditional"]


def test_without_guidance_all_are_the_same(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    rollouts = [drawn(policy, triplets, scoring, weight=1.0) for scoring in SCORINGS]
    assert all(torch.equal(own.logps, rollouts[0].logps) for own in rollouts)
    scored = [policy(own) for own in rollouts]
    assert all(torch.equal(own.logps, scored[0].logps) for own in scored)


def test_the_gradient_leaves_the_detached_half_out(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    rollout = drawn(policy, triplets[:3], "guided")
    detached = replace(rollout, sampling=replace(rollout.sampling, scoring="guided-detached"))
    assert torch.equal(policy(rollout).logps, policy(detached).logps)
    pairs = zip(gradients(policy, rollout), gradients(policy, detached), strict=True)
    differences = [float((a - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None]
    assert min(differences) > 1e-3


def test_the_gradient_of_a_guided_logit_by_hand() -> None:
    """w of the head's row for the conditional half; 1 - w of it for the other, or nothing."""
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 5).double()
    states = torch.randn(3, 8, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(Mixed(head, 4.0, detached=True)(states)[:, 2].sum(), states)
    assert torch.allclose(gradient[:, :4].float(), 4 * head.weight[2].float().expand(3, 4))
    assert not gradient[:, 4:].any()
    (gradient,) = torch.autograd.grad(Mixed(head, 4.0, detached=False)(states)[:, 2].sum(), states)
    assert torch.allclose(gradient[:, 4:].float(), -3 * head.weight[2].float().expand(3, 4))


@pytest.mark.parametrize("detached", [False, True])
def test_a_frozen_head_gives_the_same_guided_values_and_gradients(detached: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 11)
    hidden, ids = torch.randn(15, 8, requires_grad=True), torch.randint(11, (15,))
    found = []
    for learns in (True, False):
        head.requires_grad_(learns)
        logps, _ = token_logps(Mixed(head, 3.0, detached=detached), hidden, ids, 0.7, 22)
        found.append([logps, *torch.autograd.grad(logps.sum(), [hidden])])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("detached", [False, True])
def test_chunks_give_the_same_guided_values_and_gradients(detached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 11)
    hidden, ids = torch.randn(15, 8, requires_grad=True), torch.randint(11, (15,))
    found = []
    for chunk in (1 << 20, 44):  # all at once; two positions at a time
        monkeypatch.setattr(logprobs, "CHUNK_LOGITS", chunk)
        logps, _ = token_logps(Mixed(head, 3.0, detached=detached), hidden, ids, 0.7, 22)
        found.append([logps, *torch.autograd.grad(logps.sum(), [hidden, head.weight])])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*found, strict=True))


def test_bfloat16_agrees_within_the_preflights_bounds(
    policy: JanusPolicy, triplets: list[Triplet], tmp_path: Path
) -> None:
    policy.save(tmp_path)
    half = JanusPolicy.load(tmp_path, dtype="bfloat16").eval()
    sampling = Sampling(group_size=16, cfg_weight=5.0, scoring="guided")
    rollout = half.sample("t2i", triplets, sampling, key="k")
    assert 0 < check_identity(lambda own: half(own).logps.detach(), rollout, "bfloat16").mean < 0.25
    other = replace(sampling, scoring="conditional")
    with pytest.raises(CorlError, match="are not those that the sampler recorded") as raised:
        check_identity(lambda own: half(replace(own, sampling=other)).logps.detach(), rollout, "bfloat16")
    assert "sampling.t2i.scoring says is guided" in str(raised.value.hint)
