"""Groups packed for scoring: each prompt once, then its completions, and no padding at all.

Every token of a batch stands once in a single row [1, T, D], so that norms, projections and MLPs of transformers'
layers, adapters, checkpointing and sharding run on it as they are. Attention alone knows of the layout: a completion
attends to its prompt, whose keys and values its group shares, and to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Prompts of one length, behind each other in a packed row, and behind them their completions, of these lengths.

    `slots` says where the completions' tokens lie in [completions * width]; None where all are as long.
    """

    prompts: int
    prompt_length: int
    lengths: list[int]
    slots: Tensor | None

    @property
    def group(self) -> int:
        """Completions of each prompt."""
        return len(self.lengths) // self.prompts

    @property
    def sizes(self) -> list[int]:
        """Tokens of all prompts and of all completions."""
        return [self.prompts * self.prompt_length, sum(self.lengths)]

    def pad(self, x: Tensor) -> Tensor:
        """The completions' tokens [tokens, ...] -> [completions, width, ...], zero where there is none."""
        rows, width = len(self.lengths), max(self.lengths)
        if self.slots is not None:
            x = x.new_zeros(rows * width, *x.shape[1:]).index_copy(0, self.slots, x)
        return x.unflatten(0, (rows, width))

    def unpad(self, x: Tensor) -> Tensor:
        """The reverse of `pad`."""
        x = x.flatten(0, 1)
        return x if self.slots is None else x.index_select(0, self.slots)


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """A layout in flash-attn's terms: where each sequence's queries and keys end, from 0 on [S + 1] (int32).

    `keys` picks the keys from the packed row: a prompt's are its own, a completion's those of its prompt and its own.
    """

    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where the T tokens of a packed row come from, and which of its states predict the R written tokens.

    `order` [T] picks from prompts [B, P] and then all but the last completion tokens [N, L - 1], flattened; `positions`
    [1, T] count real tokens; `states` [R] are places in the packed row, `written` [R] in `shape` (N, L), flattened.
    """

    order: Tensor
    positions: Tensor
    states: Tensor
    written: Tensor
    shape: torch.Size
    buckets: list[Bucket]

    def pack(self, prompts: Tensor, fed: Tensor) -> Tensor:
        """Embeddings of prompts [B, P, D] and of all but the last completion tokens [N, L - 1, D] -> [1, T, D]."""
        both = torch.cat([prompts.flatten(0, 1), fed.flatten(0, 1).to(prompts.dtype)])
        return both.index_select(0, self.order)[None]

    def predicting(self, hidden: Tensor) -> Tensor:
        """The states [R, D] that predict the written tokens, of all [1, T, D]."""
        return hidden[0][self.states]

    def chosen(self, ids: Tensor) -> Tensor:
        """The written tokens [R] of completions [N, L]."""
        return ids.flatten().index_select(0, self.written)

    def spread(self, values: Tensor) -> Tensor:
        """Values [R] of the written tokens -> [N, L], 0 elsewhere."""
        return values.new_zeros(self.shape.numel()).index_copy(0, self.written, values).view(self.shape)

    @cached_property
    def sequences(self) -> Sequences:
        """See Sequences."""
        keys: list[Tensor] = []
        queries: list[int] = []
        start = 0
        for bucket in self.buckets:
            ends = range(start, start + bucket.sizes[0], bucket.prompt_length)
            prompts = [torch.arange(first, first + bucket.prompt_length) for first in ends]
            keys += prompts
            queries += [bucket.prompt_length] * bucket.prompts
            start += bucket.sizes[0]
            for row, length in enumerate(bucket.lengths):
                keys.append(torch.cat([prompts[row // bucket.group], torch.arange(start, start + length)]))
                queries.append(length)
                start += length
        device, widths = self.order.device, [len(own) for own in keys]
        return Sequences(
            keys=torch.cat(keys).to(device),
            query_ends=_ends(queries).to(device),
            key_ends=_ends(widths).to(device),
            longest=(max(queries), max(widths)),
        )


def lay_out(prompt_mask: Tensor, completion_mask: Tensor) -> Packing:
    """The layout for left-padded prompts [B, P] and completions [N = B * G, L], each written from its start.

    The masks are read on the CPU: the device waits once, before the layers, and never in them.
    """
    device, real, written = completion_mask.device, prompt_mask.bool().cpu(), completion_mask.bool().cpu()
    group = len(written) // len(real)
    prompts_at = torch.arange(real.numel()).view(real.shape)
    fed_at = real.numel() + torch.arange(written[:, 1:].numel()).view(len(written), -1)
    states = torch.zeros(written.shape, dtype=torch.long)  # those of the packed row that predict each token
    order: list[Tensor] = []
    positions: list[Tensor] = []
    buckets: list[Bucket] = []
    start = 0
    for length in real.sum(1).unique().tolist():
        prompts = (real.sum(1) == length).nonzero()[:, 0]
        rows = (prompts[:, None] * group + torch.arange(group)).flatten()
        fed = written[rows, 1:]
        order += [prompts_at[prompts][real[prompts]], fed_at[rows][fed]]
        positions += [torch.arange(length).repeat(len(prompts)), fed.nonzero()[:, 1] + length]
        first = start + length * len(prompts)
        states[rows, 0] = torch.arange(start + length, first + 1, length).repeat_interleave(group) - 1
        start = first + int(fed.sum())
        states[rows, 1:] = torch.zeros(fed.shape, dtype=torch.long).masked_scatter(fed, torch.arange(first, start))
        lengths = fed.sum(1).tolist()
        slots = None if len(set(lengths)) == 1 else fed[:, : max(lengths)].flatten().nonzero()[:, 0].to(device)
        buckets.append(Bucket(prompts=len(prompts), prompt_length=length, lengths=lengths, slots=slots))
    return Packing(
        order=torch.cat(order).to(device),
        positions=torch.cat(positions)[None].to(device),
        states=states[written].to(device),
        written=written.flatten().nonzero()[:, 0].to(device),
        shape=written.shape,
        buckets=buckets,
    )


def install(language_model: Any) -> None:
    """Let a language model of transformers read packed rows; all other calls stay those of transformers' sdpa."""
    asked = language_model.config._attn_implementation
    if asked not in KERNELS:
        language_model.set_attn_implementation("packed_varlen" if asked == "flash_attention_2" else "packed")


def run(language_model: Any, embeds: Tensor, packing: Packing) -> Tensor:
    """The last hidden states [1, T, D] of a packed row of embeddings."""
    ready = torch.empty(1, 1, 1, 0)  # transformers takes a mask of four dimensions for finished and builds none, T x T
    hidden: Tensor = language_model(
        inputs_embeds=embeds, attention_mask=ready, position_ids=packing.positions, use_cache=False, packing=packing
    ).last_hidden_state
    return hidden


def checkpoint_layers(language_model: Any, dtype: torch.dtype) -> None:
    """Let the backward pass compute layers again, all but the last: its turn comes first, when all it made is there.

    In float32 what attention gave is kept, the dearest of a layer's operations; in 16 bits it is quick and memory is
    scarce (a quarter more for activations of Janus-Pro-1B with adapters).
    """
    how: dict[str, Any] = {"use_reentrant": False}
    if dtype == torch.float32:
        how["context_fn"] = partial(create_selective_checkpoint_contexts, ATTENTION)
    checkpoint_all(language_model, how)
    language_model.layers[-1].gradient_checkpointing = False


def checkpoint_all(language_model: Any, how: dict[str, Any]) -> None:
    """Let the backward pass compute all layers again; `how` are the arguments of torch's checkpoint."""
    older = language_model.gradient_checkpointing_enable  # the name that transformers before 5.23 knows
    getattr(language_model, "activation_checkpointing_enable", older)(how)


def by_bucket(q: Tensor, k: Tensor, v: Tensor, packing: Packing, **options: Any) -> Tensor:
    """Attention of a packed row's queries [T, heads, D] over its keys and values [T, kv_heads, D], by torch's sdpa."""
    sizes = [size for bucket in packing.buckets for size in bucket.sizes]
    parts = iter(zip(*(x.split(sizes) for x in (q, k, v)), strict=True))
    attended = []
    for bucket in packing.buckets:
        prompt_q, prompt_k, prompt_v = (x.unflatten(0, (bucket.prompts, bucket.prompt_length)) for x in next(parts))
        attended.append(_causal(prompt_q, prompt_k, prompt_v, **options).flatten(0, 1))
        own_q, own_k, own_v = next(parts)
        if len(own_q):
            keys, values = (
                _behind(prompt, bucket.pad(own), bucket.group) for prompt, own in ((prompt_k, own_k), (prompt_v, own_v))
            )
            attended.append(bucket.unpad(_causal(bucket.pad(own_q), keys, values, **options)))
    return torch.cat(attended)


def by_sequence(q: Tensor, k: Tensor, v: Tensor, packing: Packing, *, dropout_p: float, scale: float | None) -> Tensor:
    """See by_bucket; by flash-attn, in 16 bits on a GPU."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    own = packing.sequences
    attended: Tensor = flash_attn_varlen_func(
        q,
        k.index_select(0, own.keys),
        v.index_select(0, own.keys),
        cu_seqlens_q=own.query_ends,
        cu_seqlens_k=own.key_ends,
        max_seqlen_q=own.longest[0],
        max_seqlen_k=own.longest[1],
        dropout_p=dropout_p,
        softmax_scale=scale,
        causal=True,  # the last query sees the last key, where there are more keys than queries
    )
    return attended


def _behind(prompts: Tensor, own: Tensor, group: int) -> Tensor:
    """What prompts [B, P, heads, D] hold before what each of their completions [B * group, L, heads, D] does."""
    shared = prompts[:, None].expand(-1, group, -1, -1, -1)
    return torch.cat([shared, own.unflatten(0, shared.shape[:2])], 2).flatten(0, 1)


def _causal(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Attention of queries [R, L, heads, D] over keys and values [R, K, kv_heads, D]: the last query sees the last key,
    the one before it the last but one."""
    times = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), repeat_kv(k.transpose(1, 2), times), repeat_kv(v.transpose(1, 2), times)
    length, ahead = q.shape[2], k.shape[2] - q.shape[2]
    if q.is_cuda and ahead:  # fused kernels know this mask
        attended = F.scaled_dot_product_attention(q, k, v, causal_lower_right(length, length + ahead), **options)
    elif 4 * ahead <= length:  # a CPU's kernel leaves out what is_causal hides, which is worth a few idle queries
        idle = F.pad(q, (0, 0, ahead, 0))
        attended = F.scaled_dot_product_attention(idle, k, v, is_causal=True, **options)[:, :, ahead:]
    else:
        mask = torch.ones(length, length + ahead, dtype=torch.bool, device=q.device).tril(ahead)
        attended = F.scaled_dot_product_attention(q, k, v, mask, **options)
    return attended.transpose(1, 2)


def _ends(lengths: list[int]) -> Tensor:
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


def _attend(
    kernel: Callable[..., Tensor],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: query [R, heads, T, D], key and value [R, kv_heads, T, D]."""
    if packing is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    # the rotation leaves queries and keys in float32 under autocast, which looks into no kernel that is chosen here
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return kernel(q, k, v, packing, dropout_p=dropout, scale=scaling)[None], None


ATTENTION = [
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._efficient_attention_forward.default,
]
KERNELS = {"packed": by_bucket, "packed_varlen": by_sequence}
for _name, _kernel in KERNELS.items():
    AttentionInterface.register(_name, partial(_attend, _kernel))
    AttentionMaskInterface.register(_name, sdpa_mask)
