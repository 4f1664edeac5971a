"""Log-probs of completion tokens without ever holding all logits."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from corl_cli.models.base import Scored

Head = Callable[[Tensor], Tensor]  # hidden states [R, D] -> logits [R, V]

CHUNK_LOGITS = 1 << 26  # logits held at once: 256 MiB in float32


def token_logps(head: Head, hidden: Tensor, ids: Tensor, mask: Tensor, temperature: float, vocab_size: int) -> Scored:
    """log softmax(head(hidden) / temperature)[ids] and the entropies, where mask.

    hidden [N, L, D]: row k must be the state that predicts token k; ids, mask [N, L]. Only unmasked positions pass
    through the head, in chunks whose logits are computed again in the backward pass.
    """
    active = mask.bool()
    states, targets = hidden[active], ids[active]
    size = max(1, CHUNK_LOGITS // vocab_size)
    recompute = len(states) > size and torch.is_grad_enabled()

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logps = torch.log_softmax(head(states).float() / temperature, dim=-1)
        with torch.no_grad():
            entropies = torch.special.entr(logps.exp()).sum(-1)
        return logps.gather(-1, targets[:, None])[:, 0], entropies

    chunks = [
        checkpoint(score, s, t, use_reentrant=False) if recompute else score(s, t)
        for s, t in zip(states.split(size), targets.split(size), strict=True)
    ]
    blank = torch.zeros(ids.shape, dtype=torch.float32, device=hidden.device)
    columns = zip(*chunks, strict=True)
    return (
        Scored(*(blank.masked_scatter(active, torch.cat(column)) for column in columns))
        if chunks
        else Scored(blank, blank)
    )


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
