"""The sampler's Llama next to transformers' own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corl_cli.models.decoder import CPU, Cache, Decoder, Pace, _scores

BLOCKS = Pace(columns=4, look=1, shrink=1.0)


def llama(kv_heads: int, layers: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaModel  # after corl has mended torchvision

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    model = LlamaModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # attention that looks somewhere
    return model


def decoder(model: Any, pace: Pace = CPU, dtype: torch.dtype = torch.float32) -> Decoder:
    made = Decoder(model, {"mm2t": torch.nn.Linear(32, 11, bias=False)}, dtype)
    made.pace = pace
    return made


@torch.no_grad()
def whole(model: Any, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).last_hidden_state


@torch.no_grad()
def stepped(own: Decoder, embeds: torch.Tensor, cache: Cache) -> list[torch.Tensor]:
    states = []
    for column in range(embeds.shape[1]):
        states.append(own.step(embeds[:, column], cache))
        cache.length += 1
    return states


@pytest.mark.parametrize("pace", [CPU, BLOCKS])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_steps_with_a_cache_equal_one_pass_over_everything(kv_heads: int, shared: bool, pace: Pace) -> None:
    model, group, prompt = llama(kv_heads), 3, 6
    embeds, new = torch.randn(2, prompt, 32), torch.randn(2 * group, 5, 32)
    mask = torch.ones(2, prompt, dtype=torch.long)
    mask[1, :2] = 0  # left padding
    rows = torch.cat([embeds.repeat_interleave(group, 0), new], 1)
    expected = whole(model, rows, torch.cat([mask.repeat_interleave(group, 0), torch.ones(6, 5, dtype=torch.long)], 1))
    own = decoder(model, pace)
    with torch.no_grad():
        last, cache = own.prefill(embeds, mask, group, 5, shared=shared)
    assert bool(cache.prompts) == shared
    assert torch.allclose(last.repeat_interleave(group, 0), expected[:, prompt - 1], atol=1e-5)
    for column, states in enumerate(stepped(own, new, cache)):
        assert torch.allclose(states, expected[:, prompt + column], atol=1e-5)


@settings(max_examples=15)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),  # real lengths of the prompts
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([CPU, BLOCKS]),
    st.randoms(use_true_random=False),
)
def test_rows_that_leave_change_nothing_for_those_that_stay(lengths, group, shared, pace, random) -> None:
    model, prompt = llama(2, layers=1), max(lengths)
    count = len(lengths)
    embeds, new = torch.randn(count, prompt, 32), torch.randn(count * group, 6, 32)
    mask = torch.tensor([[0] * (prompt - length) + [1] * length for length in lengths])
    own = decoder(model, pace)
    with torch.no_grad():
        _, cache = own.prefill(embeds, mask, group, 6, shared=shared)
        _, other = own.prefill(embeds, mask, group, 6, shared=shared)
    expected = stepped(own, new, cache)
    groups = torch.tensor(sorted(random.sample(range(count), random.randint(1, count))))
    size = random.randint(1, group)
    samples = torch.tensor([random.sample(range(group), size) for _ in groups])
    stepped(own, new[:, :2], other)
    rows = (groups[:, None] * group + samples).flatten()
    for column, states in enumerate(stepped(own, new[rows, 2:], other.take(groups, samples))):
        assert torch.allclose(states, expected[2 + column][rows], atol=1e-5)


def test_bfloat16_keeps_what_is_added_up_in_float32() -> None:
    model = llama(4)
    embeds, new = torch.randn(2, 6, 32), torch.randn(2, 3, 32)
    expected = whole(model, torch.cat([embeds, new], 1), torch.ones(2, 9, dtype=torch.long))
    for shared in (False, True):
        own = decoder(model, BLOCKS, torch.bfloat16)
        with torch.no_grad():
            last, cache = own.prefill(embeds, torch.ones(2, 6, dtype=torch.long), 1, 3, shared=shared)
        assert last.dtype == torch.float32
        for column, states in enumerate(stepped(own, new, cache)):
            error = (states - expected[:, 6 + column]).abs().max()
            assert 0 < error < 0.15


def test_large_scores_are_not_rounded_to_bfloat16() -> None:
    score = 8.0625 * 5.03125  # 40.564453125, and 40.5 in 16 bits
    q, keys = torch.tensor([[[8.0625]]]).bfloat16(), torch.tensor([[[5.03125]]]).bfloat16()
    assert _scores(q, keys, None).item() == score != torch.tensor(score).bfloat16().item()
    assert _scores(q, keys, torch.full((1, 1, 1), -torch.inf)).item() == -torch.inf


def test_the_heads_follow_their_modules() -> None:
    model, head = llama(4), torch.nn.Linear(32, 11)
    own = Decoder(model, {"t2i": head}, torch.float32)
    states = torch.randn(3, 32)
    before = own.logits("t2i", states)
    assert torch.equal(before, head(states))
    with torch.no_grad():
        head.bias.add_(1.0)
    assert torch.equal(own.logits("t2i", states), before), "until it is refreshed"
    own.refresh()
    assert torch.equal(own.logits("t2i", states), head(states))
