"""The on-policy identity: silent when it holds, and naming the cause when it does not."""

from dataclasses import replace

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Rollout, Sampling, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.trainer.preflight import check_identity


@pytest.fixture(params=["t2i", "mm2t"])
def rollout(request, policy: JanusPolicy, triplets: list[Triplet]) -> Rollout:
    sampling = Sampling(group_size=2, temperature=0.6, cfg_weight=4.0, max_new_tokens=10)
    return policy.sample(request.param, triplets, sampling, key="k")


def _cause(policy: JanusPolicy, rollout: Rollout, logps: torch.Tensor) -> str:
    with pytest.raises(CorlError, match="are not those that the sampler recorded") as caught:
        check_identity(lambda own: policy(own).logps.detach(), replace(rollout, logps=logps), "float32")
    return str(caught.value.hint)


def test_holds_for_what_was_sampled(policy: JanusPolicy, rollout: Rollout) -> None:
    assert check_identity(lambda own: policy(own).logps.detach(), rollout, "float32").largest < 1e-4


def test_names_temperature(policy: JanusPolicy, rollout: Rollout) -> None:
    warm = policy(replace(rollout, sampling=replace(rollout.sampling, temperature=1.0))).logps
    assert "temperature" in _cause(policy, rollout, warm.detach())


def test_names_top_k(policy: JanusPolicy, rollout: Rollout) -> None:
    assert "top-k" in _cause(policy, rollout, rollout.logps + 0.3 * rollout.completion_mask)


def test_names_padding(policy: JanusPolicy, rollout: Rollout) -> None:
    padded = ~rollout.prompt_mask.bool().all(1, keepdim=True)
    assert "padding" in _cause(policy, rollout, rollout.logps - 0.3 * padded)


def test_names_guidance_or_shift(policy: JanusPolicy, rollout: Rollout) -> None:
    noise = torch.randn(rollout.logps.shape, generator=torch.Generator().manual_seed(0))
    assert ("CFG" if rollout.task == "t2i" else "shift") in _cause(policy, rollout, rollout.logps + noise)
