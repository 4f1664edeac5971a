"""R_Format (paper): whether an answer keeps to <think>…</think><answer>…</answer>."""

from __future__ import annotations

import torch

from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Reward, Scores
from corl_cli.scoring.answers import format_fault


class Format(Reward):
    """1 for <think>…</think><answer>…</answer>, each tag once and in lower case, else 0.

    White space may stand around the blocks; what is inside them does not matter. The note says what is broken.
    Source: arXiv 2505.17534, format reward.
    """

    task = "mm2t"
    columns = ("completion",)
    needs_policy = False

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        faults = [format_fault(str(text)) for text in samples.outputs]
        return Scores(
            values=torch.tensor([float(fault is None) for fault in faults]),
            notes=[fault or "as asked" for fault in faults],
        )
