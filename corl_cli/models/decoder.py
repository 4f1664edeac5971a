"""A Llama laid out for sampling: a copy of its weights, a preallocated cache, each prompt read once.

transformers' generate builds masks, caches and processors anew for every token and evaluates heads it does not need;
a drawing of 576 tokens spends most of its time there. This decoder holds a copy of the weights in the compute
precision, with fused projections, adapters folded in and fixed addresses, refreshed in place when the policy has
changed. As under the trainer's autocast only the products run in that precision: residual stream, norms and rotations
stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corl_cli.core.types import Task
from corl_cli.models.lora import weight
from corl_cli.models.products import copied, multiply, multiply_add

SHARED_PROMPT = 64  # tokens from which a prompt's keys are read once for its group: two products cost more than one


class Pace(NamedTuple):
    """How a device likes its steps.

    Attention covers the used columns rounded up to `columns`, whose rest is hidden: 1 is exact, more lets one recorded
    step serve many positions. Finished rows are looked for every `look` tokens, and leave when at most `shrink` of the
    batch is left: on a GPU rows cost little and looking stops the queue; on a CPU copying a cache costs about a step.
    """

    columns: int
    look: int
    shrink: float


GPU = Pace(columns=128, look=16, shrink=0.5)
CPU = Pace(columns=1, look=1, shrink=0.75)


@dataclass
class Cache:
    """Keys and values of B prompts with G rows each, of which `length` columns are in use; `column` is the same number
    on the device.

    `held` are keys and values of each layer [2, B, kv_heads, G, T, D]; `prompts`, where they are shared, those of the
    prompts [2, B, kv_heads, P, D]. `hidden` [B * kv_heads * G, 1, T] and `hidden_prompts`
    [B * kv_heads, 1, P] are minus infinity at padding, None where there is none. `rotations` [N, D / 2] are those of
    each position, `offsets` [B * G] each row's real position of column 0.
    """

    held: list[Tensor]
    prompts: list[Tensor]
    hidden: Tensor | None
    hidden_prompts: Tensor | None
    rotations: Tensor
    offsets: Tensor
    length: int
    column: Tensor
    pace: Pace

    @property
    def width(self) -> int:
        """The columns that the next step attends to."""
        step = self.pace.columns
        return min(-(-(self.length + 1) // step) * step, self.held[0].shape[4])

    def take(self, groups: Tensor, samples: Tensor) -> Cache:
        """The cache of some of the groups [B'] and of the same number of samples of each [B', G']."""
        _, count, kv_heads, size, *columns = self.held[0].shape
        heads = torch.arange(kv_heads, device=groups.device)
        own = ((groups[:, None, None] * kv_heads + heads[None, :, None]) * size + samples[:, None]).flatten()
        shape = (2, len(groups), kv_heads, samples.shape[1], *columns)
        hidden_prompts = self.hidden_prompts
        if hidden_prompts is not None:
            hidden_prompts = hidden_prompts.view(count, kv_heads, 1, -1)[groups].flatten(0, 1)
        return replace(
            self,
            held=[both.flatten(1, 3)[:, own].view(shape) for both in self.held],
            prompts=[both[:, groups] for both in self.prompts],
            hidden=None if self.hidden is None else self.hidden[own],
            hidden_prompts=hidden_prompts,
            offsets=self.offsets[(groups[:, None] * size + samples).flatten()],
        )


def shares(length: int, group_size: int) -> bool:
    """Whether a prompt of this length keeps its keys apart from those of its rows, which all read them."""
    return length >= SHARED_PROMPT and group_size > 1


def cache_bytes(config: Any, dtype: torch.dtype, length: int, group_size: int, room: int) -> int:
    """Bytes of the cache of one prompt of this length with `room` new tokens a row, of a Llama's configuration."""
    prompts = 1 if shares(length, group_size) else group_size
    entries: int = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
    return entries * (prompts * length + group_size * room) * dtype.itemsize


class Decoder:
    """Reads a batch of prompts (`prefill`), then takes one token of each row at a time (`step`)."""

    def __init__(self, llama: Any, heads: Mapping[Task, nn.Module], dtype: torch.dtype) -> None:
        config = llama.config
        if config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
            raise ValueError("the decoder reads Llama layers without biases and with SiLU")
        self.llama = llama
        self.num_heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.eps: float = config.rms_norm_eps
        self._added = torch.tensor(self.eps)  # made once: to make it takes longer than a norm
        self.dtype = dtype
        self.layers = [{name: fused.to(dtype, copy=True) for name, fused in self._fused(own)} for own in llama.layers]
        self._heads = dict(heads)
        self.heads = {task: copied(head).to(dtype).requires_grad_(False) for task, head in heads.items()}
        self.pace = GPU if self.device.type == "cuda" else CPU
        self._seen = self._versions()

    @property
    def device(self) -> torch.device:
        """Where the copy is."""
        return self.layers[0]["o"].device

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the policy's weights again if any has changed since."""
        versions = self._versions()
        if versions == self._seen:
            return
        for held, layer in zip(self.layers, self.llama.layers, strict=True):
            for name, fused in self._fused(layer):
                held[name].copy_(fused)
        for task, head in self._heads.items():
            for held_weight, own in zip(self.heads[task].parameters(), head.parameters(), strict=True):
                held_weight.copy_(own)
        self._seen = versions

    def embed(self, ids: Tensor) -> Tensor:
        """Text embeddings of token ids, [...] -> [..., D]."""
        embedded: Tensor = self.llama.embed_tokens(ids)
        return embedded

    def logits(self, task: Task, states: Tensor) -> Tensor:
        """What a task's head says of hidden states, [R, D] -> [R, V] in the compute precision; maybe not contiguous."""
        logits: Tensor = self.heads[task](states.to(self.dtype))
        return logits

    def prefill(
        self, embeds: Tensor, mask: Tensor, group_size: int, room: int, *, shared: bool | None = None
    ) -> tuple[Tensor, Cache]:
        """Read left-padded prompts: embeds [B, P, D], mask [B, P] -> last hidden states [B, D] and a cache.

        The cache has `group_size` rows for each prompt with room for as many new tokens each. The prompts' keys are
        shared by their rows where that pays, unless `shared` says whether.
        """
        count, length, _ = embeds.shape
        shared = shares(length, group_size) if shared is None else shared
        visible = mask.bool()
        padded = not bool(visible.all())
        cache = self._blank(count, group_size, room if shared else length + room, embeds)
        lengths = visible.sum(1)
        cache.rotations = self._rotations(int(lengths.max()) + room, embeds)
        positions = (visible.long().cumsum(1) - 1).clamp(min=0)
        attend = None
        if padded:  # a padding query sees itself, or its softmax would be over nothing
            causal = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril()
            itself = torch.eye(length, dtype=torch.bool, device=embeds.device)
            attend = _bias(((causal & visible[:, None]) | itself)[:, None], self.dtype)
        states, read = self._read(embeds.float(), cache.rotations[positions], attend)
        if shared:
            cache.prompts = [both.contiguous() for both in read]
            cache.offsets = lengths.repeat_interleave(group_size)
            cache.hidden_prompts = self._hide(visible, 1) if padded else None
        else:
            for held, both in zip(cache.held, read, strict=True):
                held[..., :length, :] = both[:, :, :, None]
            cache.offsets = (lengths - length).repeat_interleave(group_size)
            cache.hidden = self._hide(F.pad(visible, (0, room), value=True), group_size) if padded else None
            cache.length = length
            cache.column.fill_(length)
        return states, cache

    def step(self, embeds: Tensor, cache: Cache) -> Tensor:
        """Append one token to each row: embeds [R, D] -> hidden states [R, D].

        Moves `cache.column`; whoever calls counts `cache.length`, which is not the device's.
        """
        _, count, kv_heads, size, _, _ = cache.held[0].shape
        rows = (count, size, self.num_heads + 2 * kv_heads, self.head_dim)
        rotation = cache.rotations.index_select(0, cache.offsets + cache.column).view(count, size, 1, -1)
        width, hidden = cache.width, self._hidden(cache)
        x = embeds.float()
        for number, (own, layer) in enumerate(zip(self.llama.layers, self.layers, strict=True)):
            qkv = multiply(self._norm(x, own.input_layernorm), layer["qkv"]).contiguous().view(rows)
            q, both = self._split(qkv, rotation)  # both [2, B, kv_heads, G, D]
            if cache.pace.columns == 1:
                cache.held[number].select(4, cache.length).copy_(both)  # four times as fast on a CPU
            else:
                cache.held[number].index_copy_(4, cache.column, both[..., None, :])
            attended = self._attend(q, cache, number, width, hidden)
            x = self._finish(x, attended, own, layer)
        cache.column.add_(1)
        return self._scaled(x, self.llama.norm)

    def _read(self, x: Tensor, rotation: Tensor, attend: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The last states [B, D] of whole prompts [B, P, D], and of each layer what `_split` calls both."""
        count, length, width = x.shape
        rows = (count, length, self.num_heads + 2 * self.kv_heads, self.head_dim)
        x, read = x.view(-1, width), []
        for own, layer in zip(self.llama.layers, self.layers, strict=True):
            qkv = multiply(self._norm(x, own.input_layernorm), layer["qkv"]).contiguous().view(rows)
            q, both = self._split(qkv, rotation[:, :, None])
            read.append(both)
            k, v = both
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                k,
                v,
                attn_mask=attend,
                is_causal=attend is None,
                enable_gqa=self.num_heads != self.kv_heads,
            )
            x = self._finish(x, attended.transpose(1, 2).reshape(count * length, -1), own, layer)
        return self._scaled(x.reshape(count, length, width)[:, -1], self.llama.norm), read

    def _split(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, L, heads, D], and keys and values [2, B, kv_heads, L, D], of qkv [B, L, heads + 2 kv_heads, D].

        Queries and keys are rotated in place by complex numbers [B, L, 1, D / 2]: the weights are laid out so that the
        two entries that are turned together are neighbours.
        """
        turned = qkv.view(*qkv.shape[:3], -1, 2)[:, :, : -self.kv_heads]
        if qkv.dtype == torch.float32:
            torch.view_as_complex(turned).mul_(rotation)
        else:
            turned.copy_(torch.view_as_real(torch.view_as_complex(turned.float()) * rotation))
        both = qkv[:, :, self.num_heads :].view(*qkv.shape[:2], 2, self.kv_heads, -1).permute(2, 0, 3, 1, 4)
        return qkv[:, :, : self.num_heads], both

    def _attend(self, q: Tensor, cache: Cache, number: int, columns: int, hidden: Tensor | None) -> Tensor:
        """One query for each row [B, G, heads, D] over its prompt and its own columns -> [B * G, heads * D].

        For one query plain products are faster than the fused kernel (1.7 times on a CPU at the world's size); the
        heads that share keys become their rows, and so do the samples that share a prompt.
        """
        count, size, heads, width = q.shape
        kv_heads = self.kv_heads
        q = q.view(count, size, kv_heads, -1, width).transpose(1, 2)  # [B, kv_heads, G, heads / kv_heads, D]
        own = q.reshape(count * kv_heads * size, -1, width)
        keys, values = cache.held[number].flatten(1, 3)[:, :, :columns].unbind()
        scores = _scores(own, keys, hidden)
        if not cache.prompts:
            attended = torch.bmm(_softmax(scores, self.dtype), values)
        else:
            first_keys, first_values = cache.prompts[number].flatten(1, 2).unbind()
            first = _scores(own.reshape(count * kv_heads, -1, width), first_keys, cache.hidden_prompts)
            length = first.shape[-1]
            weights = _softmax(torch.cat([first.view(*scores.shape[:2], length), scores], -1), self.dtype)
            attended = torch.bmm(weights[..., length:], values)
            of_prompt = weights[..., :length].reshape(count * kv_heads, -1, length)
            attended = attended + torch.bmm(of_prompt, first_values).view(attended.shape)
        return attended.view(count, kv_heads, size, -1, width).transpose(1, 2).reshape(count * size, heads * width)

    def _finish(self, x: Tensor, attended: Tensor, own: Any, layer: Mapping[str, Tensor]) -> Tensor:
        """The rest of a layer after attention."""
        x = multiply_add(x, attended, layer["o"])
        gate, up = multiply(self._norm(x, own.post_attention_layernorm), layer["gate_up"]).chunk(2, dim=-1)
        return multiply_add(x, F.silu(gate).mul_(up), layer["down"])

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        return self._scaled(x, norm).to(self.dtype)

    def _scaled(self, x: Tensor, norm: Any) -> Tensor:
        """x [R, D] over its root mean square, in float32."""
        width, gain = x.shape[-1], norm.weight.float()
        if x.is_cuda:
            return F.rms_norm(x, (width,), gain, self.eps)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # torch's own is ten operations on a CPU
        return (x * torch.addcmul(self._added, size, size, value=1 / width).rsqrt_()).mul_(gain)

    def _blank(self, count: int, group_size: int, columns: int, like: Tensor) -> Cache:
        """An empty cache; zeros where a step also reads what is hidden, which is multiplied by 0."""
        shape = (2, count, self.kv_heads, group_size, columns, self.head_dim)
        new = like.new_empty if self.pace.columns == 1 else like.new_zeros
        nothing = torch.zeros(1, dtype=torch.long, device=like.device)
        return Cache(
            held=[new(shape, dtype=self.dtype) for _ in self.layers],
            prompts=[],
            hidden=None,
            hidden_prompts=None,
            rotations=like.new_zeros(0),
            offsets=nothing,
            length=0,
            column=nothing.clone(),
            pace=self.pace,
        )

    def _hide(self, visible: Tensor, group_size: int) -> Tensor:
        """Minus infinity where not visible [B, T], for every head and row: [B * kv_heads * G, 1, T]."""
        return _bias(visible, torch.float32).repeat_interleave(self.kv_heads * group_size, 0)[:, None]

    def _hidden(self, cache: Cache) -> Tensor | None:
        """What is added to the scores of the next step: padding, and columns that are still empty."""
        hidden = None if cache.hidden is None else cache.hidden[..., : cache.width]
        if cache.pace.columns == 1:
            return hidden
        empty = torch.arange(cache.width, device=cache.column.device) > cache.column
        future = _bias(~empty, torch.float32)
        return future if hidden is None else hidden + future

    def _rotations(self, count: int, like: Tensor) -> Tensor:
        """e^(i angle) of each position and pair of entries [count, D / 2]."""
        positions = torch.arange(count, device=like.device)[None]
        cos, sin = self.llama.rotary_emb(like.new_zeros(1, dtype=torch.float32), positions)
        return torch.complex(*(table[0, :, : self.head_dim // 2].contiguous() for table in (cos, sin)))

    def _fused(self, layer: Any) -> Iterator[tuple[str, Tensor]]:
        """The weights of a Llama layer, those that read the same input stacked; queries and keys as in `_split`."""
        attention, mlp = layer.self_attn, layer.mlp
        turned = torch.cat([weight(attention.q_proj), weight(attention.k_proj)])  # halves of a head are turned together
        pairs = turned.unflatten(0, (-1, 2, self.head_dim // 2)).transpose(1, 2).reshape(turned.shape)
        yield "qkv", torch.cat([pairs, weight(attention.v_proj)])
        yield "o", weight(attention.o_proj)
        yield "gate_up", torch.cat([weight(mlp.gate_proj), weight(mlp.up_proj)])
        yield "down", weight(mlp.down_proj)

    def _versions(self) -> list[int]:
        modules = (self.llama, *self._heads.values())
        return [parameter._version for module in modules for parameter in module.parameters()]


def _scores(q: Tensor, keys: Tensor, hidden: Tensor | None) -> Tensor:
    """q [n, r, D] on keys [n, T, D], scaled, -> [n, r, T] in float32; `hidden` is added.

    In 16 bits a score of 40 would be rounded by 0.1, more than all else between the sampler and the scorer.
    """
    scale, turned = q.shape[-1] ** -0.5, keys.transpose(1, 2)
    if q.dtype == torch.float32:
        added, beta = (q.new_empty(1), 0) if hidden is None else (hidden, 1)
        return torch.baddbmm(added, q, turned, beta=beta, alpha=scale)
    products = torch.bmm(q, turned, out_dtype=torch.float32) if q.is_cuda else torch.bmm(q.float(), turned.float())
    return products.mul_(scale) if hidden is None else products.mul_(scale).add_(hidden)


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    return scores.softmax(-1).to(dtype)


def _bias(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, minus infinity elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, -torch.inf)
