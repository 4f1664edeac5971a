"""Log-probs of completion tokens without ever holding all logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden states [R, D] -> logits [R, V]

CHUNK_LOGITS = 1 << 27  # logits held at once: 512 MiB in float32; the drawings of one group of 8 fit
BLOCK_LOGITS = 1 << 22  # of those, worked on at once: 16 MiB, which a CPU takes from memory that it holds already


def token_logps(
    head: Head, states: Tensor, targets: Tensor, temperature: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """log softmax(head(states) / temperature)[targets] and the entropies, [R] each in float32.

    states [R, D]: each must be the one that predicts its target [R]. They pass through the head in chunks, whose logits
    are computed again in the backward pass if they do not all fit into CHUNK_LOGITS. Entropies carry no gradient.
    """
    size = max(1, CHUNK_LOGITS // vocab_size)
    recompute = len(states) > size and torch.is_grad_enabled()

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = _Chosen.apply(head(states), targets, temperature)
        return found

    chunks = [
        checkpoint(score, s, t, use_reentrant=False) if recompute else score(s, t)
        for s, t in zip(states.split(size), targets.split(size), strict=True)
    ]
    logps, entropies = zip(*chunks, strict=True)
    return torch.cat(logps), torch.cat(entropies)


class _Chosen(torch.autograd.Function):
    """log softmax(logits [R, V] / temperature)[targets] and entropies, [R] each.

    The gradient is 1 at the target less the probabilities, which are at hand from the entropies and are overwritten
    with it: autograd's own takes several passes over all logits and as many copies of them. So there is one backward
    pass, and no second derivative. Logits count from the largest, so that neither sum is a difference of large numbers,
    and the normaliser is told by the likeliest token, whose probability is never small.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        learning = ctx.needs_input_grad[0]
        shares = torch.empty(logits.shape if learning else 0, dtype=torch.float32, device=logits.device)
        chosen, entropies = (torch.empty(len(logits), device=logits.device) for _ in range(2))
        rows = max(1, BLOCK_LOGITS // logits.shape[1])
        for start in range(0, len(logits), rows):
            some = slice(start, start + rows)
            scaled = logits[some].float() / temperature if temperature != 1 else logits[some].float()
            below = scaled - scaled.amax(-1, keepdim=True)
            own = torch.softmax(below, -1, out=shares[some]) if learning else below.softmax(-1)
            normaliser = -own.amax(-1).log()
            chosen[some] = below.gather(-1, targets[some, None])[:, 0] - normaliser
            entropies[some] = normaliser - (own * below).sum(-1)
        ctx.save_for_backward(shares, targets)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        shares, targets = ctx.saved_tensors
        each = (gradient / ctx.temperature)[:, None]
        return shares.mul_(-each).scatter_add_(-1, targets[:, None], each).to(ctx.dtype), None, None


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Logits under classifier-free guidance, u + w (c - u), in float32 (Ho and Salimans 2022)."""
    unconditional = unconditional.float()
    return unconditional + weight * (conditional.float() - unconditional)


def mixed(head: Head, weight: float, *, detached: bool) -> Head:
    """A head over the conditional and the unconditional states side by side [R, 2 D], which gives guided logits.

    `detached` leaves the unconditional half without a gradient.
    """

    def apply(states: Tensor) -> Tensor:
        conditional, unconditional = states.chunk(2, -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
            other = head(unconditional)
        return guide(head(conditional), other, weight)

    return apply
