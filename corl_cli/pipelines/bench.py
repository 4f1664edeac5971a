"""How fast corl samples, next to transformers' own generate on the same weights and prompts, in one run."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from corl_cli.core.recipe import Data, Model
from corl_cli.core.types import Rollout, Sampling, Task
from corl_cli.data import triplets
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.noise import row_keys
from corl_cli.pipelines.build import build_policy

CFG_WEIGHTS = (5.0, 1.0)  # Janus' own; and none, as the embedded world trains
LEAST_GUIDANCE = 1.000001  # transformers' image loop fails at 1, and computes the unconditional half in any case
MAX_NEW_TOKENS = 40


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens per second (median over repeats; padding does not count) of corl and of transformers."""

    task: Task
    cfg_weight: float | None
    tokens_per_second: float
    transformers_tokens_per_second: float
    ratio_to_transformers: float


def bench_rollout(checkpoint: str, prompts: int, group_size: int, repeats: int) -> list[Speed]:
    """Draw and answer `prompts` x `group_size` samples by both, in turn, `repeats` times after one warm-up."""
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = build_policy(Model(checkpoint=checkpoint, dtype=dtype))
    assert isinstance(policy, JanusPolicy)
    policy = policy.to(device).eval()
    plain = policy.model if dtype == "float32" else copy.deepcopy(policy.model).to(policy.dtype)  # as users run it
    items = list(triplets.load(Data(limit=prompts), seed=0))
    speeds = []
    work: list[tuple[Task, Sampling]] = [
        *(("t2i", Sampling(group_size=group_size, cfg_weight=weight)) for weight in CFG_WEIGHTS),
        ("mm2t", Sampling(group_size=group_size, max_new_tokens=MAX_NEW_TOKENS)),
    ]
    for task, sampling in work:
        rollout = policy.sample(task, items, sampling, key="warm-up")
        ours, theirs = [], []
        for repeat in range(repeats + 1):
            ours.append(_rate(lambda: _sampled(policy, rollout, f"bench|{repeat}"), device))  # noqa: B023
            theirs.append(_rate(lambda: _generated(policy, plain, rollout), device))  # noqa: B023
        mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
        speeds.append(
            Speed(
                task=task,
                cfg_weight=sampling.cfg_weight if task == "t2i" else None,
                tokens_per_second=mine,
                transformers_tokens_per_second=other,
                ratio_to_transformers=mine / other,
            )
        )
    return speeds


def _rate(sample: Callable[[], int], device: torch.device) -> float:
    """Tokens per second of one call that returns how many tokens it made."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    tokens = sample()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - begun)


def _sampled(policy: JanusPolicy, like: Rollout, key: str) -> int:
    group = like.sampling.group_size
    ids, mask = like.prompt_ids[::group], like.prompt_mask[::group]
    keys = row_keys((f"{key}|{row}" for row in range(len(like))), policy.device)
    return int(policy.complete(like.task, ids, mask, like.pixel_values, like.sampling, keys)[1].sum())


def _generated(policy: JanusPolicy, model: Any, like: Rollout) -> int:
    """The same samples by transformers' generate: same prompts, G of each, no top-k."""
    group = like.sampling.group_size
    shared = {
        "attention_mask": like.prompt_mask[::group],
        "do_sample": True,
        "top_k": 0,
        "num_return_sequences": group,
    }
    if like.task == "t2i":
        guidance = max(like.sampling.cfg_weight, LEAST_GUIDANCE)
        tokens = model.generate(like.prompt_ids[::group], generation_mode="image", guidance_scale=guidance, **shared)
        return int(tokens.numel())
    ids = model.generate(
        like.prompt_ids[::group], pixel_values=like.pixel_values, max_new_tokens=like.sampling.max_new_tokens, **shared
    )
    written = ids[:, like.prompt_ids.shape[1] :]
    eos = policy.tokenizer.eos_token_id
    return int((((written == eos).cumsum(1) - (written == eos).long()) == 0).sum())
