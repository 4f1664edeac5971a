"""The embedded world's exact checker as a reward."""

from __future__ import annotations

from typing import Annotated

import torch
from PIL.Image import Image
from pydantic import Field

from corl_cli.core.errors import CorlError
from corl_cli.core.section import Float
from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Options, Reward, Scores
from corl_cli.world.checker import check


class CheckerOptions(Options):
    """How much a drawing earns that is only partly right."""

    partial_weight: Annotated[Float, Field(ge=0)] = Field(1.0, description="weight of the partial credit (0..1)")


class Checker(Reward):
    """correct + partial_weight * partial, by the exact checker of the embedded world.

    correct is 1 when the prompt is true of the drawing, else 0; partial, in 0..1, says how near it comes. A prompt that
    is not in the language of that world has no score. The note says what was wanted and what was found.
    Source: corl's embedded world, not the paper.
    """

    task = "t2i"
    columns = ("prompt", "image")
    needs_policy = False
    Options = CheckerOptions
    options: CheckerOptions

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score; parts are the verdict's `correct` and `partial`."""
        rows = [
            _verdict(triplet.prompt, drawing)
            for triplet, drawing in zip(samples.triplets, samples.outputs, strict=True)
            if isinstance(drawing, Image)
        ]
        correct, partial = (torch.tensor([row[column] for row in rows]) for column in (0, 1))
        return Scores(
            values=correct + self.options.partial_weight * partial,
            parts={"correct": correct, "partial": partial},
            notes=[row[2] for row in rows],
        )


def _verdict(prompt: str, drawing: Image) -> tuple[float, float, str]:
    try:
        verdict = check(prompt, drawing)
    except CorlError as error:
        return torch.nan, torch.nan, error.message
    return float(verdict.correct), verdict.partial, verdict.reason
