"""Log-probs of completion tokens without ever holding all logits."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden states [R, D] -> logits [R, V]

CHUNK_LOGITS = 1 << 26  # logits held at once: 256 MiB in float32


def token_logps(
    head: Head, states: Tensor, targets: Tensor, temperature: float, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """log softmax(head(states) / temperature)[targets] and the entropies, [R] each in float32.

    states [R, D]: each must be the one that predicts its target [R]. They pass through the head in chunks, whose logits
    are computed again in the backward pass; the entropies are not, and carry no gradient.
    """
    size = max(1, CHUNK_LOGITS // vocab_size)
    recompute = len(states) > size and torch.is_grad_enabled()

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        logps = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
        chosen = logps.gather(-1, targets[:, None])[:, 0]
        with torch.no_grad():  # last: what is computed again stops at the last tensor that a gradient needs
            entropies = -(logps.exp() * logps).sum(-1)
        return chosen, entropies

    chunks = [
        checkpoint(score, s, t, use_reentrant=False) if recompute else score(s, t)
        for s, t in zip(states.split(size), targets.split(size), strict=True)
    ]
    logps, entropies = zip(*chunks, strict=True)
    return torch.cat(logps), torch.cat(entropies)


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
