"""R_Acc (paper): whether an answer is right, by one rule for multiple choice and one for open-ended questions."""

from __future__ import annotations

import torch

from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Reward, Scores
from corl_cli.scoring.answers import judge


class Accuracy(Reward):
    """1 or 0; NaN where the triplet has no answer to compare with.

    The note says what was taken as the answer and by which rule it was judged.
    """

    task = "mm2t"
    columns = ("gold", "completion")
    needs_policy = False

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        judgements = [
            judge(triplet.question, triplet.answer, str(text), triplet.answer_type)
            for triplet, text in zip(samples.triplets, samples.outputs, strict=True)
        ]
        notes = [f"{judgement.rule}: {judgement.extracted!r}" for judgement in judgements]
        values = [
            float(judgement.correct) if triplet.answer.strip() else torch.nan
            for triplet, judgement in zip(samples.triplets, judgements, strict=True)
        ]
        return Scores(values=torch.tensor(values), notes=notes)
