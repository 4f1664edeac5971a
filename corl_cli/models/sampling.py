"""Autoregressive sampling over Llama's weights: a preallocated cache, each prompt prefilled once, keyed noise.

transformers' generate builds masks, caches and processors anew for every token and evaluates heads it does not need;
a drawing of 576 tokens spends most of its time there. This decoder holds a copy of the weights in the compute
precision, with fused projections, adapters folded in and fixed addresses, refreshed in place when the policy has
changed. As under the
trainer's autocast only the products run in that precision: residual stream, norms and rotations stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corl_cli.core.types import Sampling
from corl_cli.models.logprobs import Head, guide
from corl_cli.models.lora import weight
from corl_cli.models.noise import gumbel

NOISE_BLOCK = 1 << 20  # numbers of sampling noise made at once: fewer, larger calls where the vocabulary is small


@dataclass
class Cache:
    """Keys and values [R, heads, T, D] of each layer, of which `length` columns are in use.

    `bias` [R, 1, 1, T] hides padding from attention (None where there is none), `rotation` are the cosines and sines
    [R, 1, T, D] of each row's own positions: padding does not count.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor | None
    rotation: tuple[Tensor, Tensor]
    length: int

    def take(self, rows: Tensor) -> Cache:
        """The cache of the given rows."""
        return self._each(lambda tensor: tensor[rows])

    def repeat(self, times: int) -> Cache:
        """The cache with each row repeated (three times as fast as indexing)."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cache:
        return replace(
            self,
            keys=[change(keys) for keys in self.keys],
            values=[change(values) for values in self.values],
            bias=None if self.bias is None else change(self.bias),
            rotation=(change(self.rotation[0]), change(self.rotation[1])),
        )


class Decoder:
    """A Llama laid out for sampling: `prefill` a batch of prompts, then `step` one token at a time."""

    def __init__(self, llama: Any, lm_head: nn.Linear, dtype: torch.dtype) -> None:
        config = llama.config
        if config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
            raise ValueError("the decoder reads Llama layers without biases and with SiLU")
        self.llama = llama
        self.lm_head = lm_head
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.split = [self.heads + self.kv_heads, self.kv_heads]  # queries and keys, which rotate; values, which do not
        self.eps = config.rms_norm_eps
        self.dtype = dtype
        self.layers = [{name: fused.to(dtype, copy=True) for name, fused in _fused(layer)} for layer in llama.layers]
        self.words = lm_head.weight.detach().to(dtype, copy=True)
        self._seen = self._versions()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the policy's weights again if any has changed since."""
        versions = self._versions()
        if versions == self._seen:
            return
        for held, layer in zip(self.layers, self.llama.layers, strict=True):
            for name, fused in _fused(layer):
                held[name].copy_(fused)
        self.words.copy_(self.lm_head.weight)
        self._seen = versions

    def embed(self, ids: Tensor) -> Tensor:
        """Text embeddings of token ids, [...] -> [..., D]."""
        embedded: Tensor = self.llama.embed_tokens(ids)
        return embedded

    def word_logits(self, hidden: Tensor) -> Tensor:
        """Logits over the text vocabulary, [R, D] -> [R, V]."""
        return F.linear(hidden.to(self.dtype), self.words)

    def prefill(self, embeds: Tensor, mask: Tensor, capacity: int) -> tuple[Tensor, Cache]:
        """Read left-padded prompts: embeds [R, P, D], mask [R, P] -> last hidden states [R, D] and a cache.

        The cache has room for `capacity` columns in all.
        """
        rows, length, _ = embeds.shape
        shape = (rows, self.kv_heads, capacity, self.head_dim)
        visible = torch.ones(rows, capacity, dtype=torch.bool, device=embeds.device)
        visible[:, :length] = mask.bool()
        cache = Cache(
            keys=[embeds.new_zeros(shape, dtype=self.dtype) for _ in self.layers],
            values=[embeds.new_zeros(shape, dtype=self.dtype) for _ in self.layers],
            bias=None if mask.all() else _bias(visible[:, None, None], self.dtype),
            rotation=self._rotation(visible),
            length=length,
        )
        attend = None
        if cache.bias is not None:
            # a padding query sees itself, or its softmax would be over nothing
            causal = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril()
            itself = torch.eye(length, dtype=torch.bool, device=embeds.device)
            attend = _bias(((causal & mask.bool()[:, None]) | itself)[:, None], self.dtype)
        hidden = self._run(embeds, cache, 0, attend)
        return hidden[:, -1], cache

    def step(self, embeds: Tensor, cache: Cache) -> Tensor:
        """Append one token to each row: embeds [R, D] -> hidden states [R, D]."""
        start = cache.length
        cache.length += 1
        attend = None if cache.bias is None else cache.bias[..., : cache.length]
        return self._run(embeds[:, None], cache, start, attend)[:, 0]

    def _rotation(self, visible: Tensor) -> tuple[Tensor, Tensor]:
        positions = (visible.long().cumsum(-1) - 1).clamp(min=0)
        cos, sin = self.llama.rotary_emb(self.llama.norm.weight.float(), positions)
        return cos[:, None], sin[:, None]

    def _run(self, x: Tensor, cache: Cache, start: int, attend: Tensor | None) -> Tensor:
        rows, length, width = x.shape
        x = x.float().reshape(rows * length, width)
        cos, sin = (table[:, :, start : cache.length] for table in cache.rotation)
        for own, layer, keys, values in zip(self.llama.layers, self.layers, cache.keys, cache.values, strict=True):
            qkv = F.linear(self._norm(x, own.input_layernorm), layer["qkv"])
            both, v = qkv.view(rows, length, -1, self.head_dim).transpose(1, 2).split(self.split, dim=1)
            q, k = _rotate(both, cos, sin).to(self.dtype).split([self.heads, self.kv_heads], dim=1)
            keys[:, :, start : cache.length] = k
            values[:, :, start : cache.length] = v
            attended = _attend(q, keys[:, :, : cache.length], values[:, :, : cache.length], attend)
            x = x + F.linear(attended.transpose(1, 2).reshape(rows * length, -1), layer["o"])
            gate, up = F.linear(self._norm(x, own.post_attention_layernorm), layer["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate).mul_(up), layer["down"])
        return F.rms_norm(x, (width,), self.llama.norm.weight.float(), self.eps).view(rows, length, width)

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], norm.weight.float(), self.eps).to(self.dtype)

    def _versions(self) -> list[int]:
        return [weight._version for module in (self.llama, self.lm_head) for weight in module.parameters()]


def draw(
    decoder: Decoder,
    prompts: Tensor,
    mask: Tensor,
    head: Head,
    embeddings: Tensor,
    sampling: Sampling,
    keys: Tensor,
    num_tokens: int,
    unconditional: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Image tokens and their log-probs [N, num_tokens] for B prompts [B, P, D], N = len(keys) = B * G rows.

    `embeddings` [V, D] are the inputs that image tokens become.

    With `unconditional` prompts [B, P, D] the logits are mixed (classifier-free guidance); log-probs are those of the
    conditional half at the sampling temperature, or of the mixture where the sampling's scoring is guided.
    """
    group = len(keys) // len(prompts)
    if unconditional is not None:
        prompts, mask = torch.cat([prompts, unconditional]), mask.repeat(2, 1)
    hidden, cache = decoder.prefill(prompts, mask, prompts.shape[1] + num_tokens)
    hidden, cache = hidden.repeat_interleave(group, 0), cache.repeat(group)
    tokens, logps = [], []
    block = max(1, NOISE_BLOCK // (len(keys) * len(embeddings)))  # positions whose noise is made at once
    for position in range(num_tokens):
        if position % block == 0:
            noise = gumbel(keys, range(position, min(position + block, num_tokens)), len(embeddings))
        logits = head(hidden).float()
        mixed = scored = logits
        if unconditional is not None:
            conditional, other = logits.chunk(2)
            mixed = guide(conditional, other, sampling.cfg_weight)
            scored = conditional if sampling.scoring == "conditional" else mixed
        token, logp = choose(mixed, scored, sampling, noise[position % block])
        tokens.append(token)
        logps.append(logp)
        if position < num_tokens - 1:
            hidden = decoder.step(embeddings[token if unconditional is None else token.repeat(2)], cache)
    return torch.stack(tokens, 1), torch.stack(logps, 1)


def write(
    decoder: Decoder,
    prompts: Tensor,
    mask: Tensor,
    sampling: Sampling,
    keys: Tensor,
    eos_id: int,
    pad_id: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Text tokens, their mask and log-probs [N, L] for B prompts [B, P, D]; L is the longest completion drawn.

    A row ends with its first end-of-sequence token, which belongs to it; finished rows leave the batch.
    """
    group, limit = len(keys) // len(prompts), sampling.max_new_tokens
    hidden, cache = decoder.prefill(prompts, mask, prompts.shape[1] + limit)
    hidden, cache = hidden.repeat_interleave(group, 0), cache.repeat(group)
    tokens = torch.full((len(keys), limit), pad_id, device=prompts.device)
    written = torch.zeros(len(keys), limit, dtype=torch.bool, device=prompts.device)
    logps = torch.zeros(len(keys), limit, device=prompts.device)
    rows = torch.arange(len(keys), device=prompts.device)  # the rows still in the batch
    alive = torch.ones(len(keys), dtype=torch.bool, device=prompts.device)  # of those, the unfinished
    for position in range(limit):
        logits = decoder.word_logits(hidden).float()
        noise = gumbel(keys[rows], range(position, position + 1), logits.shape[-1])[0]
        token, logp = choose(logits, logits, sampling, noise)
        going = rows[alive]
        tokens[going, position], logps[going, position] = token[alive], logp[alive]
        written[going, position] = True
        alive = alive & (token != eos_id)
        remaining = int(alive.sum())
        if remaining == 0 or position == limit - 1:
            break
        if remaining <= 0.75 * len(rows):  # copying the cache costs about a step: not for single rows
            keep = alive.nonzero()[:, 0]
            rows, token, cache, alive = rows[keep], token[keep], cache.take(keep), alive[keep]
        hidden = decoder.step(decoder.embed(token), cache)
    length = position + 1
    return tokens[:, :length], written[:, :length], logps[:, :length]


def choose(mixed: Tensor, scored: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens [R] by Gumbel-max from the mixed logits [R, V], and their log-probs under the scored ones."""
    temperature = sampling.temperature or 1.0
    if sampling.temperature == 0:
        token = mixed.argmax(-1)
    else:
        token = (nucleus(mixed / temperature, sampling.top_p) + noise).argmax(-1)
    logps = torch.log_softmax(scored / temperature, dim=-1)
    return token, logps.gather(-1, token[:, None])[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [R, V] with -inf outside the smallest set of tokens whose probability reaches top_p (Holtzman 2020)."""
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of queries [R, heads, L, D] over cached keys and values [R, kv_heads, T, D] with an additive bias.

    For one query two plain products are faster than the fused kernel (1.7 times on a CPU at the world's size), and the
    heads that share keys become its rows.
    """
    rows, heads, length, width = q.shape
    kv_heads = keys.shape[1]
    if length > 1:
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=bias, is_causal=bias is None, enable_gqa=heads != kv_heads
        )
    scores = q.view(rows, kv_heads, heads // kv_heads, width) @ keys.transpose(-1, -2) * width**-0.5
    if bias is not None:
        scores = scores + bias
    return (scores.float().softmax(-1).to(values.dtype) @ values).view(rows, heads, 1, width)


def _fused(layer: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of a Llama layer, those that read the same input stacked."""
    attention, mlp = layer.self_attn, layer.mlp
    yield "qkv", torch.cat([weight(attention.q_proj), weight(attention.k_proj), weight(attention.v_proj)])
    yield "o", weight(attention.o_proj)
    yield "gate_up", torch.cat([weight(mlp.gate_proj), weight(mlp.up_proj)])
    yield "down", weight(mlp.down_proj)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, minus infinity elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -torch.inf)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
