"""GRPO's advantages and losses, and today's variants of them, as pure tensor functions.

Shapes: N = B * G rows, group-major; L completion tokens. `rows` [N] says which rows count. A row that does not count,
whatever the reason, is in no sum and in no number that a sum is divided by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from corl_cli.scoring.groups import STD_EPS, standardise

Scale = Literal["group", "batch", "none"]
Ratio = Literal["token", "sequence"]
Estimator = Literal["k1", "k2", "k3"]
Reduction = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


def group_advantages(
    rewards: Tensor, rows: Tensor, group_size: int, scale: Scale = "group", deviation: float = torch.nan
) -> Tensor:
    """A_i = (r_i - mean of the group) / (std + 1e-4), [N] -> [N]; 0 for rows that do not count.

    std, with Bessel's correction, is that of the group (paper; DeepSeekMath, eq. 3), or `deviation`, that of all
    rewards of the step ("batch"); or nothing is divided ("none", Dr. GRPO).
    """
    advantages = standardise(rewards, rows, group_size, scale=scale == "group")
    return advantages / (deviation + STD_EPS) if scale == "batch" else advantages


def joint_rewards(t2i: Tensor, mm2t: Tensor, mm2t_weight: float) -> Tensor:
    """r_i = R_t2i + lambda R_mm2t of the pair (drawing_i, answer_i), paper's R_Uni; [N] each."""
    return t2i + mm2t_weight * mm2t


def kl_divergence(logps: Tensor, ref_logps: Tensor, estimator: Estimator = "k3") -> Tensor:
    """Per-token estimates of KL(pi || pi_ref) with d = ref - logp (Schulman 2020): k1 = -d, k2 = d^2 / 2, and
    k3 = exp(d) - d - 1 (the paper's code); [N, L].
    """
    difference = ref_logps - logps
    match estimator:
        case "k1":
            return -difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return difference.exp() - difference - 1


def ratios(logps: Tensor, old_logps: Tensor, mask: Tensor, level: Ratio = "token") -> Tensor:
    """rho = pi / pi_old of each token [N, L] (paper), or of each row [N, 1]: the geometric mean over its tokens (GSPO,
    arXiv 2507.18071, eq. 7).
    """
    difference = logps - old_logps
    if level == "sequence":
        difference = (difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return difference.exp()


def policy_loss(
    ratio: Tensor, advantages: Tensor, low: float | None = None, high: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each token, and which were clipped below and above, each shaped like `ratio`; advantages [N].

    -rho A (paper); with `low` PPO's -min(rho A, clip(rho, 1 - low, 1 + high) A), where `high` is `low` unless given
    (clip-higher: DAPO, arXiv 2503.14476).
    """
    advantages = advantages[:, None]
    if low is None:
        nothing = torch.zeros_like(ratio, dtype=torch.bool)
        return -ratio * advantages, nothing, nothing
    least, most = 1 - low, 1 + (low if high is None else high)
    loss = -torch.min(ratio * advantages, ratio.clamp(least, most) * advantages)
    return loss, (ratio < least) & (advantages < 0), (ratio > most) & (advantages > 0)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the loss of one task is divided by: rows and tokens that count, and backward passes, of all processes."""

    rows: float
    tokens: float
    passes: float


def token_weights(mask: Tensor, rows: Tensor, reduction: Reduction, counts: Counts, max_length: int) -> Tensor:
    """The weight [N, L] of each token of one backward pass, so that the loss of a step is the sum of weight x loss.

    grpo: mean over rows of the mean over a row's tokens (paper). bnpo: mean over the tokens of each pass, mean over
    passes. dr_grpo: sum over tokens by rows x `max_length`, the longest that a completion may be. dapo: mean over all
    tokens of the step.
    """
    counted = mask.float() * rows[:, None]
    match reduction:
        case "grpo":
            return counted / mask.sum(1, keepdim=True).clamp(min=1) / max(1.0, counts.rows)
        case "bnpo":
            return counted / counted.sum().clamp(min=1) / counts.passes
        case "dr_grpo":
            return counted / (max(1.0, counts.rows) * max_length)
        case "dapo":
            return counted / max(1.0, counts.tokens)


def contributions(
    terms: Mapping[str, Tensor],
    rows: Tensor,
    group_size: int,
    scale: Scale = "group",
    deviation: float = torch.nan,
) -> dict[str, Tensor]:
    """What each term [N] of a summed reward adds to the sum's advantages, in float64; they add up to these."""
    total = torch.stack([*terms.values()]).sum(0).double()
    advantages = group_advantages(total, rows, group_size, scale, deviation)
    scaling = advantages / standardise(total, rows, group_size, scale=False)  # one over the deviation
    scaling = scaling.nan_to_num(0.0, 0.0, 0.0)  # where nothing varies
    return {name: scaling * standardise(term.double(), rows, group_size, scale=False) for name, term in terms.items()}
