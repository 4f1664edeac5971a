"""R_Acc (paper): whether an answer is right, by one rule for multiple choice and one for open-ended questions."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Options, Reward, Scores
from corl_cli.scoring.answers import Judgement, judge


class AccuracyOptions(Options):
    """What an answer earns that is not right."""

    variant: Literal["binary", "soft"] = Field(
        "binary", description="what a wrong open-ended answer earns: nothing (paper), or its soft Jaccard (public code)"
    )


class Accuracy(Reward):
    """1 for a right answer, else 0 (binary), or, to open-ended questions, J(answer, gold) in [0, 1] (soft).

    The answer is what the one answer block says after the reasoning. Multiple choice is right when exactly one option
    is chosen, by letter, text or both, and it is the gold one; an open-ended answer when its words, its quantity or its
    expression are the gold ones.
    J = I / (|A| + |B| - I) of the sets of words A of the answer and B of the gold one: I counts 1 for a word of both
    and, for the others paired one to one, the most similar first, the similarity of the pair (difflib's 2 M / T) where
    it is 0.8 or more. Under soft a list or a hedge earns a part, which a policy may learn to exploit.
    An answer that is empty, too long or past the bounds of algebra earns 0; a triplet without a gold answer, or
    with one that is none of the options, has no score. The note says which rule decided, what the answer was compared
    with, and what was taken as the answer.
    Source: arXiv 2505.17534, accuracy reward; its public code for J.
    """

    task = "mm2t"
    columns = ("gold", "completion")
    optional = ("question", "answer_type")
    needs_policy = False
    Options = AccuracyOptions
    options: AccuracyOptions

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        judgements = [
            judge(triplet.question, triplet.answer, str(text), triplet.answer_type)
            for triplet, text in zip(samples.triplets, samples.outputs, strict=True)
        ]
        return Scores(
            values=torch.tensor([self._value(judgement) for judgement in judgements]),
            notes=[judgement.note for judgement in judgements],
        )

    def _value(self, judgement: Judgement) -> float:
        if judgement.correct is None:
            return torch.nan
        if judgement.correct or self.options.variant == "binary":
            return float(judgement.correct)
        return judgement.overlap
