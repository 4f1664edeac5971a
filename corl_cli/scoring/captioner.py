"""What a drawing shows, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Sampling, Triplet
from corl_cli.models.base import UnifiedPolicy


class PolicyCaptioner:
    """A frozen policy that is asked for a caption: the learning one would soon collude with itself."""

    def __init__(self, policy: UnifiedPolicy, prompt: str, max_new_tokens: int) -> None:
        self.policy = policy
        self.prompt = prompt
        self.sampling = Sampling(group_size=1, temperature=0.0, max_new_tokens=max_new_tokens)

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return []

    def load(self, device: torch.device) -> None:
        """The policy stands where it was put."""

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """See measure.Captioner."""
        questions = [
            Triplet(
                id=str(index),
                image=image,
                prompt="",
                question=self.prompt,
                answer="",
                answer_type="oe",
                source="recaption",
            )
            for index, image in enumerate(images)
        ]
        return [str(text) for text in self.policy.sample("mm2t", questions, self.sampling, key="recaption").outputs]
