"""Log-probs of completion tokens without ever holding all logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 27  # logits held at once for a head that learns: 512 MiB in float32
BLOCK_LOGITS = 1 << 21  # worked on at once: 8 MiB, which stay in a CPU's cache
LEAST_ROWS = 128  # that pass through a frozen head at once, however many logits they have


def token_logps(
    head: nn.Module, states: Tensor, targets: Tensor, temperature: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """log softmax(head(states) / temperature)[targets] and the entropies, [R] each in float32.

    states [R, D]: each must be the one that predicts its target [R]; a head takes each row [D] to logits by itself.
    Rows pass through a frozen head a few at a time, with their gradients at once, and no logits are kept; through one
    that learns in chunks, whose logits are computed again in the backward pass if they do not all fit into
    CHUNK_LOGITS. Entropies carry no gradient.
    """
    if not any(parameter.requires_grad for parameter in head.parameters()):
        own = states if torch.is_grad_enabled() else states.detach()
        found: tuple[Tensor, Tensor] = _Frozen.apply(own, targets, head, temperature, rows_at_once(vocab_size))
        return found
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


def rows_at_once(vocab_size: int) -> int:
    """Rows whose logits a frozen head makes at once."""
    return max(LEAST_ROWS, BLOCK_LOGITS // vocab_size)


class _Frozen(torch.autograd.Function):
    """What token_logps gives for a head whose weights take no gradient.

    A row's log-prob depends on its own state alone: its gradient [D] is found with it, while its logits [V] are at
    hand, and the backward pass multiplies it by a number. There is no second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, head: nn.Module, temperature: float, size: int
    ) -> tuple[Tensor, Tensor]:
        learning = ctx.needs_input_grad[0]
        logps, entropies = (torch.empty(len(states), device=states.device) for _ in range(2))
        gradients = torch.empty_like(states if learning else states[:0])
        for start in range(0, len(states), size):
            some = slice(start, start + size)
            with torch.set_grad_enabled(learning):
                own = states[some].detach().requires_grad_(learning)
                chosen, entropies[some] = _Chosen.apply(head(own), targets[some], temperature)
                if learning:
                    (gradients[some],) = torch.autograd.grad(chosen.sum(), own)
            logps[some] = chosen.detach()
        ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        (own,) = ctx.saved_tensors
        return own * gradient[:, None].to(own.dtype), None, None, None, None


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
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        shares, targets = ctx.saved_tensors
        each = (gradient / ctx.temperature)[:, None]
        return shares.mul_(-each).scatter_add_(-1, targets[:, None], each).to(ctx.dtype), None, None


def guide(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """Logits under classifier-free guidance, u + w (c - u), in float32 (Ho and Salimans 2022)."""
    unconditional = unconditional.float()
    return unconditional + weight * (conditional.float() - unconditional)


class Mixed(nn.Module):
    """A head over the conditional and the unconditional states side by side [R, 2 D], which gives guided logits.

    `detached` leaves the unconditional half without a gradient.
    """

    def __init__(self, head: nn.Module, weight: float, *, detached: bool) -> None:
        super().__init__()
        self.head, self.weight, self.detached = head, weight, detached

    def forward(self, states: Tensor) -> Tensor:
        conditional, unconditional = states.chunk(2, -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detached):
            other = self.head(unconditional)
        return guide(self.head(conditional), other, self.weight)
