"""R_Format (paper): whether an answer keeps to <think>…</think><answer>…</answer>."""

from __future__ import annotations

import torch

from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Reward, Scores
from corl_cli.scoring.answers import follows_format


class Format(Reward):
    """1 for strict compliance, else 0."""

    task = "mm2t"
    columns = ("completion",)
    needs_policy = False

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        return Scores(values=torch.tensor([float(follows_format(str(text))) for text in samples.outputs]))
