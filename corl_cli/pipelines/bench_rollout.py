"""How fast corl samples, next to transformers' own generate on the same weights and prompts, in one run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from corl_cli.core.recipe import Data
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.noise import row_keys
from corl_cli.pipelines import costs
from corl_cli.pipelines.bench import Bench, compared, in_turn, percent
from corl_cli.pipelines.bench_models import Subject, fitting, prompt_tokens, require_weights
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import free_memory

CFG_WEIGHTS = (5.0, 1.0)  # Janus' own; and none, as the embedded world trains
LEAST_GUIDANCE = 1.000001  # transformers' image loop fails at 1, and computes the unconditional half in any case


@dataclass(frozen=True, kw_only=True)
class RolloutSpeed:
    """Rollouts of one kind: seconds of one (median over repeats), tokens per second of corl and of transformers.

    Padding is no token. The ratio is the median of the pairs timed one after the other, of which the least and the
    largest are told; None where transformers did not fit into the GPU's memory. Shares are of the machine's measured
    rates, by the least work that there is (costs.py). Memory is corl's in a rollout, above the weights; see Peak.
    """

    task: Task
    cfg_weight: float | None
    dtype: str
    prompts: int
    group_size: int
    repeats: int
    prompt_tokens: float
    tokens: float
    seconds: float
    tokens_per_second: float
    transformers_tokens_per_second: float | None
    ratio_to_transformers: float | None
    ratio_least: float | None
    ratio_largest: float | None
    bandwidth_share: float
    arithmetic_share: float
    peak_gib: float | None
    reserved_gib: float | None
    note: str


def bench_rollout(
    subject: Subject, bench: Bench, prompts: int, group_size: int, new_tokens: int | None
) -> Iterator[RolloutSpeed]:
    """Draw and answer `prompts` x `group_size` samples by both, in turn; CorlError where memory does not suffice.

    Answers have at most `new_tokens` tokens; random weights, which never end one, always write as many.
    """
    dtype = "bfloat16" if bench.device.type == "cuda" else "float32"
    require_weights(subject, free_memory(bench.device))
    policy = subject.frozen(dtype, bench.device)
    plain = policy.model if dtype == "float32" else _in(policy.dtype, policy.model)
    items = subject.triplets(Data(limit=prompts), 0, prompts)
    work: list[tuple[Task, Sampling]] = [
        *(("t2i", Sampling(group_size=group_size, cfg_weight=weight)) for weight in CFG_WEIGHTS),
        ("mm2t", Sampling(group_size=group_size, max_new_tokens=new_tokens or subject.new_tokens)),
    ]
    with _quiet(), fitting(subject.name, prompts, group_size):
        for task, sampling in work:
            yield _speed(subject, policy, plain, task, items, sampling, bench)
            bench.shown.advance(note=task)


def readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for the eye."""
    ratio = row["ratio_to_transformers"]
    return {
        "task": row["task"],
        "CFG": row["cfg_weight"],
        "tokens": f"{row['tokens']:.0f}",
        "seconds": row["seconds"],
        "tokens/s": f"{row['tokens_per_second']:.0f}",
        "transformers": None if ratio is None else f"{row['transformers_tokens_per_second']:.0f}",
        "ratio": None if ratio is None else f"{ratio:.2f}",
        "range": None if ratio is None else f"{row['ratio_least']:.2f}-{row['ratio_largest']:.2f}",
        "bandwidth": percent(row["bandwidth_share"]),
        "arithmetic": percent(row["arithmetic_share"]),
        "GiB": row["peak_gib"],
    }


def least_work(
    subject: Subject, task: Task, sampling: Sampling, prompts: int, prompt_tokens: float, new_tokens: float, size: int
) -> Work:
    """The least work of one rollout; `size` are the bytes of a number."""
    if task == "mm2t":
        return costs.writing(subject.config, prompts, sampling.group_size, prompt_tokens, new_tokens, size)
    halves = 1 if sampling.cfg_weight == 1 else 2
    return costs.drawing(subject.config, prompts, sampling.group_size, prompt_tokens, new_tokens, halves, size)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Encoded prompts of one task: ids and mask [B, P], and the images asked about [B, C, H, W]."""

    task: Task
    ids: Tensor
    mask: Tensor
    pixels: Tensor | None

    @classmethod
    def of(cls, policy: JanusPolicy, task: Task, items: Sequence[Triplet]) -> Prompts:
        """Those of triplets."""
        if task == "t2i":
            ids, mask = policy.prompts.draw([triplet.prompt for triplet in items])
            return cls(task=task, ids=ids.to(policy.device), mask=mask.to(policy.device), pixels=None)
        asked = policy.encode(task, items, [""] * len(items))
        return cls(task=task, ids=asked.prompt_ids, mask=asked.prompt_mask, pixels=asked.pixel_values)

    def complete(self, policy: JanusPolicy, sampling: Sampling, key: str) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, mask and log-probs [N, L] of completions by corl."""
        rows = len(self.ids) * sampling.group_size
        keys = row_keys((f"{key}|{row}" for row in range(rows)), policy.device)
        return policy.complete(self.task, self.ids, self.mask, self.pixels, sampling, keys)


def _speed(
    subject: Subject,
    policy: JanusPolicy,
    plain: Any,
    task: Task,
    items: Sequence[Triplet],
    sampling: Sampling,
    bench: Bench,
) -> RolloutSpeed:
    prompts, turn = Prompts.of(policy, task, items), count()
    turns = in_turn(
        lambda: int(prompts.complete(policy, sampling, f"bench|{next(turn)}")[1].sum()),
        partial(_generated, policy, plain, prompts, sampling),
        bench,
    )
    dtype, read = str(policy.dtype).removeprefix("torch."), prompt_tokens(policy, task, items)
    written = turns.tokens / (len(items) * sampling.group_size)
    work = least_work(subject, task, sampling, len(items), read, written, policy.dtype.itemsize)
    return RolloutSpeed(
        **compared(turns, work, bench, dtype),
        task=task,
        cfg_weight=sampling.cfg_weight if task == "t2i" else None,
        prompts=len(items),
        group_size=sampling.group_size,
        prompt_tokens=read,
        transformers_tokens_per_second=turns.their_rate,
        note=_note(task, sampling, fits=bool(turns.theirs)),
    )


def _note(task: Task, sampling: Sampling, *, fits: bool) -> str:
    if not fits:
        return "transformers did not fit into the GPU's memory"
    if task == "t2i" and sampling.cfg_weight == 1:
        return "transformers computes the half without the prompt in any case, corl does not"
    return ""


def _in(dtype: torch.dtype, model: Any) -> Any:
    """A copy with all weights in one precision, as users load it: rotations stay in float32."""
    found = copy.deepcopy(model)
    for parameter in found.parameters():
        parameter.data = parameter.data.to(dtype)
    return found


def _generated(policy: JanusPolicy, model: Any, prompts: Prompts, sampling: Sampling) -> int:
    """The same samples by transformers' generate: same prompts, G of each, no top-k; returns how many tokens."""
    tokenizer = policy.tokenizer
    shared = {"do_sample": True, "top_k": 0, "num_return_sequences": sampling.group_size}
    inputs = {"attention_mask": prompts.mask}
    if prompts.task == "t2i":
        guidance = max(sampling.cfg_weight, LEAST_GUIDANCE)
        tokens = model.generate(prompts.ids, generation_mode="image", guidance_scale=guidance, **inputs, **shared)
        return int(tokens.numel())
    ids = model.generate(
        prompts.ids,
        pixel_values=prompts.pixels,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **inputs,
        **shared,
    )
    written = ids[:, prompts.ids.shape[1] :]
    ended = written == tokenizer.eos_token_id
    return int((ended.cumsum(1) - ended.long() == 0).sum())  # up to and with the first end of sequence


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings of its own defaults (guidance_scale, max_length), told at every call."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
