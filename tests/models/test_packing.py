"""Packed rows give the log-probs and gradients of transformers' own forward pass over expanded rows."""

import copy
import sys
from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import is_flash_attn_2_available

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Lora, Model
from corl_cli.core.types import Rollout, Sampling, Scoring, Task, Triplet
from corl_cli.models import logprobs, lora, packing
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.packing import lay_out, run
from corl_cli.pipelines.build import build_policy
from corl_cli.world.tiny import build_config, build_model, build_processor

BOTH = pytest.mark.parametrize("task", ["t2i", "mm2t"])


def made(**sizes: int) -> JanusPolicy:
    """A random tiny Janus, its language model's sizes changed."""
    torch.manual_seed(0)
    processor = build_processor()
    config = build_config(processor.tokenizer)
    for name, value in sizes.items():
        setattr(config.text_config, name, value)
    model = build_model(processor) if not sizes else type(build_model(processor))(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    return JanusPolicy(model, processor).eval()


def ragged(policy: JanusPolicy, triplets: list[Triplet], task: Task, group: int, **sampling: Any) -> Rollout:
    """Groups whose prompts are padded and whose texts end early, one of them with its first token."""
    drawn = policy.sample(task, triplets, Sampling(group_size=group, max_new_tokens=9, **sampling), key="k")
    assert not drawn.prompt_mask.bool().all()
    if task == "t2i":
        return drawn
    length = drawn.completion_ids.shape[1]
    lengths = torch.linspace(length, 1, len(drawn)).round().long()
    words = drawn.completion_ids.where(drawn.completion_ids != policy.image_token_id, 40)  # transformers counts images
    return replace(drawn, completion_ids=words, completion_mask=torch.arange(length) < lengths[:, None])


def plain(policy: JanusPolicy, rollout: Rollout) -> Tensor:
    """Log-probs [N, L]: rows expanded, an image for each, logits of all positions (of t2i the conditional ones)."""
    model, ids = policy.model, rollout.completion_ids
    mask = torch.cat([rollout.prompt_mask, rollout.completion_mask.long()], 1)
    shared = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "use_cache": False}
    if rollout.task == "mm2t":
        assert rollout.pixel_values is not None
        pixels = rollout.pixel_values.repeat_interleave(rollout.sampling.group_size, 0)
        logits = model(input_ids=torch.cat([rollout.prompt_ids, ids], 1), pixel_values=pixels, **shared).logits
    else:
        prompts = model.get_input_embeddings()(rollout.prompt_ids)
        drawn = model.prepare_embeddings_for_image_generation(ids)
        hidden = model.model.language_model(inputs_embeds=torch.cat([prompts, drawn], 1), **shared).last_hidden_state
        logits = model.model.generation_head(hidden)
    logps = torch.log_softmax(logits[:, rollout.prompt_ids.shape[1] - 1 : -1] / rollout.sampling.temperature, -1)
    return logps.gather(-1, ids[..., None])[..., 0] * rollout.completion_mask


def assert_same(policy: JanusPolicy, rollout: Rollout) -> None:
    """Log-probs, and the gradients of a loss that weighs each token differently."""
    weights = torch.linspace(-1, 1, rollout.completion_ids.numel()).view_as(rollout.completion_ids)
    learning = policy.trainable()
    found, expected = policy(rollout).logps, plain(policy, rollout)
    assert torch.allclose(found, expected, atol=1e-5)
    gradients = [torch.autograd.grad((own * weights).sum(), learning, allow_unused=True) for own in (found, expected)]
    compared = 0
    for own, other in zip(*gradients, strict=True):
        if other is not None and other.any():
            assert own is not None
            assert (own - other).norm() <= 1e-5 * other.norm()
            compared += 1
    assert compared > 5


@BOTH
@pytest.mark.parametrize("group", [1, 3])
def test_packed_rows_are_scored_as_expanded_ones(
    policy: JanusPolicy, triplets: list[Triplet], task: Task, group: int
) -> None:
    assert_same(policy, ragged(policy, triplets, task, group, temperature=0.8))


@BOTH
def test_chunks_and_checkpointed_layers_change_nothing(
    triplets: list[Triplet], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = made()
    rollout = ragged(policy, triplets[:3], task, 2)
    policy.checkpoint_layers()
    policy.train()
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 1000)  # a few positions at a time
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 300)
    monkeypatch.setattr(logprobs, "LEAST_ROWS", 1)
    assert_same(policy, rollout)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float32_layers_attend_once_and_16_bits_again_in_the_backward_pass_but_the_last(
    triplets: list[Triplet], dtype: str
) -> None:
    policy = JanusPolicy(made().model, build_processor(), dtype)
    rollout = policy.sample("t2i", triplets[:1], Sampling(group_size=2), key="x")
    policy.checkpoint_layers()
    policy.train()
    counts = Counter[str]()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[str(func)] += 1
            return func(*args, **(kwargs or {}))

    with Counting():
        policy(rollout).logps.sum().backward()
    passes = counts["aten._scaled_dot_product_flash_attention_for_cpu.default"]
    layers = policy.model.config.text_config.num_hidden_layers
    assert passes == 2 * (layers if dtype == "float32" else 2 * layers - 1), "prompts, and completions"


@BOTH
def test_heads_that_share_keys_and_adapters(triplets: list[Triplet], task: Task) -> None:
    policy = made(num_key_value_heads=2)
    lora.attach(policy.model, Lora(rank=4), None)
    for name, parameter in policy.model.named_parameters():
        if lora.is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.05)
    learner = JanusPolicy(policy.model, policy.processor).eval()
    assert all(lora.is_adapter(name) for name, p in learner.named_parameters() if p.requires_grad)
    assert_same(learner, ragged(learner, triplets, task, 2))


@pytest.mark.parametrize("scoring", ["guided", "guided-detached"])
def test_both_halves_of_guided_scoring_are_packed(
    policy: JanusPolicy, triplets: list[Triplet], scoring: Scoring
) -> None:
    """Against one row at a time, which has neither padding nor a shared prompt."""
    rollout = ragged(policy, triplets, "t2i", 2, cfg_weight=4.0, scoring=scoring)
    together = policy(rollout).logps
    alone = []
    for row in range(len(rollout)):
        own, real = rollout.select([row // 2]), rollout.prompt_mask[row].bool()
        one = replace(
            own,
            sampling=replace(own.sampling, group_size=1),
            prompt_ids=rollout.prompt_ids[row : row + 1, real],
            prompt_mask=rollout.prompt_mask[row : row + 1, real],
            completion_ids=rollout.completion_ids[row : row + 1],
            completion_mask=rollout.completion_mask[row : row + 1],
        )
        alone.append(policy(one).logps)
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@BOTH
def test_a_token_moves_later_states_of_its_own_completion_alone(
    policy: JanusPolicy, triplets: list[Triplet], task: Task
) -> None:
    rollout = policy.sample(task, triplets[:2], Sampling(group_size=3, max_new_tokens=8), key="k")
    rollout = replace(rollout, completion_mask=torch.ones_like(rollout.completion_mask))
    changed = rollout.completion_ids.clone()
    changed[1, 2] = (changed[1, 2] + 1) % 40
    before, after = policy(rollout).entropies, policy(replace(rollout, completion_ids=changed)).entropies
    moved = ~torch.isclose(before, after, atol=1e-6)
    assert moved[1, 3:].all()
    moved[1, 3:] = False
    assert not moved.any()


@settings(max_examples=12)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=2, max_size=2)), max_size=4),
    padding=st.integers(0, 3),
)
def test_any_lengths_and_any_padding(lengths: list[tuple[int, list[int]]], padding: int) -> None:
    """Hidden states of a packed row against each row alone; a prompt of one token is BOS among padding."""
    lengths = lengths or [(1, [1, 1])]
    model = LANGUAGE_MODEL
    width, longest = padding + max(own for own, _ in lengths), 5
    prompts, fed = torch.randn(len(lengths), width, 128), torch.randn(2 * len(lengths), longest - 1, 128)
    real = torch.arange(width) >= width - torch.tensor([own for own, _ in lengths])[:, None]
    written = torch.arange(longest) < torch.tensor([row for _, rows in lengths for row in rows])[:, None]
    packing = lay_out(real, written)
    assert packing.order.numel() == int(real.sum()) + int(written[:, 1:].sum()), "nothing is padded"
    with torch.no_grad():
        states = packing.predicting(run(model, packing.pack(prompts, fed), packing))
        expected = []
        for row, count in enumerate(written.sum(1).tolist()):
            own = torch.cat([prompts[row // 2][real[row // 2]], fed[row, : count - 1]])[None]
            expected.append(model(inputs_embeds=own, use_cache=False).last_hidden_state[0, -count:])
    assert torch.allclose(states, torch.cat(expected), atol=1e-5)


LANGUAGE_MODEL = made(num_key_value_heads=1).model.model.language_model


def test_values_are_spread_to_where_they_were_written() -> None:
    packing = lay_out(torch.tensor([[0, 1], [1, 1]]), torch.tensor([[1, 1, 0], [1, 0, 0]]))
    assert packing.spread(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[1, 2, 0], [3, 0, 0]]
    assert packing.chosen(torch.tensor([[5, 6, 7], [8, 9, 9]])).tolist() == [5, 6, 8]
    assert packing.order.tolist() == [1, 4, 2, 3]  # the second token of the first prompt, its completion's first, …
    assert packing.positions.tolist() == [[0, 1, 0, 1]]
    assert packing.states.tolist() == [0, 1, 3]


def varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
) -> Tensor:
    """What flash-attn documents of its function: sequences one after another, the last query sees the last key."""
    assert causal
    assert dropout_p == 0
    assert {cu_seqlens_q.dtype, cu_seqlens_k.dtype} == {torch.int32}
    found = torch.empty_like(q)
    for (a, b), (c, d) in zip(cu_seqlens_q.unfold(0, 2, 1), cu_seqlens_k.unfold(0, 2, 1), strict=True):
        queries, keys, values = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
        assert queries.shape[1] <= max_seqlen_q
        assert keys.shape[1] <= max_seqlen_k
        repeat = len(queries) // len(keys)
        scores = queries @ keys.repeat_interleave(repeat, 0).transpose(1, 2) * softmax_scale
        seen = torch.ones(scores.shape[1:]).tril(scores.shape[2] - scores.shape[1]).bool()
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        found[a:b] = (weights @ values.repeat_interleave(repeat, 0)).transpose(0, 1)
    return found


@BOTH
def test_flash_attention_is_given_the_same_layout(
    triplets: list[Triplet], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = made(num_key_value_heads=2)
    rollout = ragged(policy, triplets, task, 3)
    expected = policy(rollout).logps
    stand_in = ModuleType("flash_attn")
    stand_in.flash_attn_varlen_func = varlen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    model = copy.deepcopy(policy.model)
    model.model.language_model.config._attn_implementation = "flash_attention_2"  # as if it had been loaded so
    flash = JanusPolicy(model, policy.processor).eval()
    assert torch.allclose(flash(rollout).logps, expected, atol=1e-5)
    assert model.model.language_model.config._attn_implementation != "flash_attention_2"


@pytest.mark.parametrize(("dtype", "fault"), [("float32", "computes in 16 bits"), ("bfloat16", "is not installed")])
def test_flash_attention_that_cannot_be_had_is_one_clear_line(
    dtype: Literal["float32", "bfloat16"], fault: str
) -> None:
    if dtype == "bfloat16" and is_flash_attn_2_available():
        pytest.skip("flash-attn is here")
    with pytest.raises(UsageError, match=f"model.attention: flash-attn {fault}"):
        build_policy(Model(checkpoint="world", attention="flash_attention_2", dtype=dtype))


def test_a_frozen_copy_scores_to_the_bit_as_what_it_was_copied_from(triplets: list[Triplet]) -> None:
    learner, frozen = (
        JanusPolicy(made().model, build_processor(), "bfloat16", train).eval() for train in (["language_model"], [])
    )
    assert not frozen.trainable()
    for task in ("t2i", "mm2t"):
        rollout = ragged(learner, triplets, task, 2)  # type: ignore[arg-type]
        assert torch.equal(learner(rollout).logps, frozen(rollout).logps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels of a GPU")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("ahead", [0, 5])
def test_a_gpus_kernels_attend_and_learn_as_the_mask_says(dtype: torch.dtype, close: float, ahead: int) -> None:
    own = [torch.randn(2, length, 4, 64, device="cuda", dtype=dtype) for length in (9, 9 + ahead, 9 + ahead)]
    mask = torch.ones(9, 9 + ahead, dtype=torch.bool, device="cuda").tril(ahead)
    found = []
    for masked in (False, True):
        q, k, v = (x.clone().requires_grad_() for x in own)
        if masked:
            q_, k_, v_ = (x.transpose(1, 2).float() for x in (q, k, v))
            attended = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_, mask).transpose(1, 2)
        else:
            attended = packing._causal(q, k, v, dropout_p=0.0, scale=None)
        found.append([attended, *torch.autograd.grad(attended.float().square().sum(), (q, k, v))])
    for left, right in zip(*found, strict=True):
        assert torch.allclose(left.float(), right.float(), atol=close, rtol=close)
