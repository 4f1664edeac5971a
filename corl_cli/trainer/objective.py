"""GRPO's advantages and losses as pure tensor functions.

Shapes: N = B * G rows, group-major; L completion tokens. `rows` [N] says which rows count: a row whose reward is
missing is left out of its group's statistics and has advantage 0.
"""

import torch
from torch import Tensor

from corl_cli.scoring.groups import standardise


def group_advantages(rewards: Tensor, rows: Tensor, group_size: int, *, scale: bool = True) -> Tensor:
    """A_i = (r_i - mean) / (std + 1e-4) within each group (paper; DeepSeekMath, eq. 3), [N] -> [N].

    std carries Bessel's correction. Without `scale` only the mean is taken off (Dr. GRPO).
    """
    return standardise(rewards, rows, group_size, scale=scale)


def joint_rewards(t2i: Tensor, mm2t: Tensor, mm2t_weight: float) -> Tensor:
    """r_i = R_t2i + lambda R_mm2t of the pair (drawing_i, answer_i), paper's R_Uni; [N] each."""
    return t2i + mm2t_weight * mm2t


def kl_divergence(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Per-token estimate k3 of KL(pi || pi_ref) = exp(d) - d - 1, d = ref - logp (Schulman 2020; the paper's code)."""
    difference = ref_logps - logps
    return difference.exp() - difference - 1


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_eps: float | None = None
) -> tuple[Tensor, Tensor]:
    """Per-token loss [N, L] and which tokens were clipped [N, L].

    -rho A with rho = exp(logp - old_logp) (paper); with clip_eps PPO's -min(rho A, clip(rho, 1 - eps, 1 + eps) A).
    """
    ratio = (logps - old_logps).exp()
    advantages = advantages[:, None]
    if clip_eps is None:
        return -ratio * advantages, torch.zeros_like(ratio, dtype=torch.bool)
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    return -torch.min(ratio * advantages, clipped * advantages), clipped * advantages < ratio * advantages


def sequence_mean(values: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Sum over counted rows of each row's mean over its own tokens (grpo reduction before dividing by the rows).

    The caller divides by the number of counted rows of the whole batch, so that micro-batches and processes add up to
    the mean over all of them.
    """
    lengths = mask.sum(1).clamp(min=1)
    means = (values * mask).sum(1) / lengths
    return (means * rows).sum()


def covariances(
    terms: dict[str, Tensor], rows: Tensor, group_size: int, *, scale: bool = True
) -> tuple[dict[str, float], float]:
    """Of each term [N] of a summed reward, its covariance with the sum's advantages; and the variance of these.

    Both are sums over rows, so that they add up over processes, and the covariances add up to the variance. With
    `scale` each group is divided by the deviation of its sum, as its advantages are.
    """
    total = torch.stack([*terms.values()]).sum(0)
    advantages = standardise(total, rows, group_size, scale=scale).double()
    centred = standardise(total, rows, group_size, scale=False).double()
    scaling = (advantages / centred).nan_to_num(0.0, 0.0, 0.0)  # one over the group's deviation; 0 where nothing varies
    found = {
        name: float((standardise(term, rows, group_size, scale=False) * scaling * advantages).sum())
        for name, term in terms.items()
    }
    return found, float(advantages.square().sum())
