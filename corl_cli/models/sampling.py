"""Drawing and writing with a Decoder: a token of every row at a time, chosen by keyed noise.

One token is a step of fixed shapes that reads and writes tensors at fixed addresses, so that a GPU can replay it
(graphs.py); a drawing never waits for the device, a text now and then, to see which of its rows have ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corl_cli.core.types import Sampling
from corl_cli.models.decoder import Cache, Decoder
from corl_cli.models.graphs import Graphs
from corl_cli.models.logprobs import guide
from corl_cli.models.noise import Noise


@dataclass
class Written:
    """What has been sampled so far: tokens, whether they count, and their log-probs [N, L].

    `position` [1] is where the next tokens go, `place` the same for this process.
    """

    tokens: Tensor
    mask: Tensor
    logps: Tensor
    position: Tensor
    place: int = 0

    @classmethod
    def blank(cls, rows: int, length: int, fill: int, device: torch.device) -> Written:
        """Room for `length` tokens in each row."""
        return cls(
            tokens=torch.full((rows, length), fill, device=device),
            mask=torch.zeros(rows, length, dtype=torch.bool, device=device),
            logps=torch.zeros(rows, length, device=device),
            position=torch.zeros(1, dtype=torch.long, device=device),
        )

    def put(self, rows: Tensor, tokens: Tensor, mask: Tensor, logps: Tensor) -> None:
        """The next token of some rows [R]."""
        at = (rows, self.position.expand(len(rows)))
        for held, new in ((self.tokens, tokens), (self.mask, mask), (self.logps, logps)):
            held.index_put_(at, new)
        self.position.add_(1)


def draw(
    decoder: Decoder,
    prompts: Tensor,
    mask: Tensor,
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
    states, cache = decoder.prefill(prompts, mask, group, num_tokens)
    noise = Noise(keys, len(embeddings), num_tokens)
    drawn = Written.blank(len(keys), num_tokens, 0, prompts.device)
    rows = torch.arange(len(keys), device=prompts.device)
    last = torch.zeros_like(rows)
    everywhere = torch.ones_like(rows, dtype=torch.bool)
    logits = torch.empty(len(states) * group, len(embeddings), device=prompts.device)

    def pick(states: Tensor) -> None:
        mixed = scored = logits.copy_(decoder.logits("t2i", states))
        if unconditional is not None:
            conditional, other = logits.chunk(2)
            mixed = guide(conditional, other, sampling.cfg_weight)
            scored = conditional if sampling.scoring == "conditional" else mixed
        token, logp = choose(mixed, scored, sampling, noise.at(drawn.place, drawn.position))
        drawn.put(rows, token, everywhere, logp)
        last.copy_(token)

    def step() -> None:
        token = last if unconditional is None else torch.cat([last, last])
        pick(decoder.step(embeddings[token], cache))

    pick(states.repeat_interleave(group, 0))
    graphs = Graphs(prompts.device)
    for drawn.place in range(1, num_tokens):
        graphs.run(cache.width, step)
        cache.length += 1
    return drawn.tokens, drawn.logps


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
    states, cache = decoder.prefill(prompts, mask, group, limit)
    states = states.repeat_interleave(group, 0)
    text = Written.blank(len(keys), limit, pad_id, prompts.device)
    every = torch.empty(len(keys), decoder.logits("mm2t", states[:1]).shape[-1], device=prompts.device)
    batch = _Batch.whole(cache, Noise(keys, every.shape[-1], limit), len(prompts), group)
    graphs = Graphs(prompts.device)

    def pick(states: Tensor) -> None:
        logits = every[: len(states)].copy_(decoder.logits("mm2t", states))
        token, logp = choose(logits, logits, sampling, batch.noise.at(text.place, text.position))
        token = torch.where(batch.alive, token, pad_id)
        text.put(batch.rows, token, batch.alive, torch.where(batch.alive, logp, 0.0))
        batch.alive.logical_and_(token != eos_id)
        batch.last.copy_(token)

    def step() -> None:
        pick(decoder.step(decoder.embed(batch.last), batch.cache))

    pick(states)
    for text.place in range(1, limit):
        if text.place % decoder.pace.look == 0:
            smaller = batch.shrunk(decoder.pace.shrink)
            if smaller is None:
                break
            if smaller is not batch:
                batch, graphs = smaller, Graphs(prompts.device)
        graphs.run(batch.cache.width, step)
        batch.cache.length += 1
    length = int(text.mask.any(0).sum())
    return text.tokens[:, :length], text.mask[:, :length], text.logps[:, :length]


@dataclass(frozen=True)
class _Batch:
    """The rows that are being written, B' prompts with G' samples each: which of all they are, their last tokens, and
    which of them have not ended.
    """

    cache: Cache
    noise: Noise
    rows: Tensor
    last: Tensor
    alive: Tensor
    shape: tuple[int, int]

    @classmethod
    def whole(cls, cache: Cache, noise: Noise, count: int, group: int) -> _Batch:
        """All rows."""
        rows = torch.arange(count * group, device=cache.column.device)
        return cls(cache, noise, rows, torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool), (count, group))

    def shrunk(self, share: float) -> _Batch | None:
        """The prompts that have unfinished rows, with as many samples as the one that has most; itself where more than
        `share` of the rows would stay, None where all have ended.
        """
        count, most = int(self.alive.sum()), share * len(self.rows)
        if count == 0:
            return None
        if count > most:
            return self
        alive = self.alive.view(self.shape)
        left = alive.sum(1)
        groups, size = left.nonzero()[:, 0], int(left.max())
        if len(groups) * size > most:
            return self
        samples = (~alive[groups]).byte().argsort(dim=1, stable=True)[:, :size]  # the unfinished first
        rows = (groups[:, None] * self.shape[1] + samples).flatten()
        return _Batch(
            cache=self.cache.take(groups, samples),
            noise=self.noise.take(rows),
            rows=self.rows[rows],
            last=self.last[rows],
            alive=self.alive[rows],
            shape=(len(groups), size),
        )


def choose(mixed: Tensor, scored: Tensor, sampling: Sampling, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Next tokens [R] by Gumbel-max from the mixed logits [R, V], and their log-probs under the scored ones."""
    temperature = sampling.temperature
    if temperature not in (0, 1):
        mixed, scored = mixed / temperature, scored / temperature
    token = (mixed if temperature == 0 else nucleus(mixed, sampling.top_p) + noise).argmax(-1)
    return token, torch.log_softmax(scored, dim=-1).gather(-1, token[:, None])[:, 0]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [R, V] with -inf outside the smallest set of tokens whose probability reaches top_p (Holtzman 2020)."""
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
