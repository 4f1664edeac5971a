"""The on-policy identity, checked on the first batch: what the sampler recorded is what the trainer scores.

If the two differ, every ratio and every gradient is wrong while all curves still look plausible, so the run stops and
says what most likely differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Rollout

# Mean difference and its 99.9 % quantile per token, in nats, between a cached step-by-step pass and one batched pass.
# float32 agrees to 1e-5. In bfloat16 single tokens under CFG 5 were measured to differ by more than half a nat, so the
# largest of tens of thousands says little: it is reported, not bounded.
BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (0.05, 0.5)}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How far the scored log-probs of one rollout are from the recorded ones, per token in nats."""

    task: str
    mean: float
    quantile: float
    largest: float


def check_identity(
    score: Callable[[Rollout], Tensor],
    rollout: Rollout,
    dtype: str,
    alone: Callable[[Rollout], Tensor] | None = None,
) -> Identity:
    """Compare the log-probs [N, L] that `score` gives; CorlError naming the likely cause when they differ.

    The cause is looked for with `alone`, where `score` needs other processes, which may have found nothing.
    """
    assert rollout.logps is not None
    scored = score(rollout)
    mask = rollout.completion_mask.bool()
    difference = (scored - rollout.logps).abs()[mask]
    ordered = difference.sort().values
    found = Identity(
        task=rollout.task,
        mean=float(difference.mean()),
        quantile=float(ordered[int(0.999 * (len(ordered) - 1))]),
        largest=float(ordered[-1]),
    )
    mean, quantile = (bound * _spread(rollout) for bound in BOUNDS[dtype])
    if found.mean > mean or found.quantile > quantile:
        cold = (alone or score)(replace(rollout, sampling=replace(rollout.sampling, temperature=1.0)))
        raise CorlError(
            f"The {rollout.task} log-probs that the trainer scores are not those that the sampler recorded: "
            f"they differ by {found.mean:.2g} nats a token (at most {found.largest:.2g}).",
            f"Likely cause: {likely_cause(rollout, scored, cold, mean)}",
        )
    return found


def _spread(rollout: Rollout) -> float:
    """How many times larger differences are where guided logits are scored: u + w (c - u) multiplies them by w."""
    guided = rollout.task == "t2i" and rollout.sampling.scoring != "conditional"
    return rollout.sampling.cfg_weight if guided else 1.0


def likely_cause(rollout: Rollout, scored: Tensor, scored_at_one: Tensor, bound: float) -> str:
    """What makes recorded log-probs [N, L] differ from scored ones: padding, temperature, top-k, CFG or shift."""
    assert rollout.logps is not None
    recorded, mask = rollout.logps, rollout.completion_mask.bool()

    def gap(other: Tensor, rows: Tensor | slice = slice(None)) -> float:
        chosen = mask[rows]
        return float((other[rows] - recorded[rows]).abs()[chosen].mean()) if chosen.any() else 0.0

    padded = ~rollout.prompt_mask.bool().all(1)
    if padded.any() and (~padded).any() and gap(scored, ~padded) <= bound:
        return "padding: only rows with padded prompts differ; positions or the attention mask are wrong."
    if gap(scored_at_one) <= bound:
        return "temperature: the recorded log-probs are those of temperature 1."
    surplus = (recorded - scored)[mask]
    if bool((surplus > -bound).all()):
        return "top-k or top-p: every recorded log-prob is higher, as if the sampler renormalised over fewer tokens."
    if rollout.task == "t2i" and rollout.sampling.cfg_weight != 1:
        return (
            f"CFG: sampler and trainer do not score the same distribution, which sampling.t2i.scoring says is "
            f"{rollout.sampling.scoring}."
        )
    return "shift: the trainer's states do not predict the tokens they are paired with, or its weights are stale."
