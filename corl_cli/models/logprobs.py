"""Log-probs of completion tokens without ever holding all logits."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from corl_cli.models.base import Scored

CHUNK_LOGITS = 1 << 26  # logits held at once: 256 MiB in float32


def token_logps(
    head: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor, mask: Tensor, temperature: float, vocab_size: int
) -> Scored:
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
