"""R_cycle (paper): a drawing should look like the real image and, captioned again, say what the prompt said.

R_cycle = similarity(real, drawn) + consistency(prompt, caption of the drawing). The paper measures them by 1 - LPIPS
and SPICE with BLIP captions; the measures named here are what they say and no stand-ins under those names.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from PIL.Image import Image
from pydantic import Field
from torch import Tensor

from corl_cli.core.recipe import Float, Positive
from corl_cli.core.types import Rollout, Sampling, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Options, Reward, Scores
from corl_cli.scoring import scene_graph, similarity


class CycleOptions(Options):
    """Which measures, whose captions, and their weights."""

    perceptual: Literal["pixel"] = Field("pixel", description="pixel: 1 - mean squared error")
    text: Literal["scene_graph"] = Field("scene_graph", description="scene_graph: F score of rule-based scene graphs")
    captioner: Literal["policy"] = Field("policy", description="policy: its frozen start, greedy")
    caption_prompt: str = Field("describe the image", min_length=1)
    max_new_tokens: Positive = Field(48, description="of a caption")
    synonyms: bool = Field(True, description="whether words of one meaning match in the scene graphs")
    perceptual_weight: Annotated[Float, Field(ge=0)] = 1.0
    text_weight: Annotated[Float, Field(ge=0)] = 1.0


class Cycle(Reward):
    """perceptual_weight * similarity + text_weight * consistency; NaN for a prompt that names nothing."""

    task = "t2i"
    Options = CycleOptions
    options: CycleOptions
    needs_reference = True

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:
        """Keep the frozen start as captioner: captions by the learning policy would invite collusion."""
        assert reference is not None, "cycle needs the frozen reference"
        self.reference = reference

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        """See Reward.score; parts carry the names of the two measures."""
        drawings = [drawing for drawing in rollout.outputs if isinstance(drawing, Image)]
        looks = similarity.pixel([triplet.image for triplet in rollout.triplets], drawings)
        says, notes = self._consistency(rollout.triplets, self._captions(rollout.triplets, drawings))
        return Scores(
            values=self.options.perceptual_weight * looks + self.options.text_weight * says,
            parts={self.options.perceptual: looks, self.options.text: says},
            notes=notes,
        )

    def _captions(self, triplets: list[Triplet], drawings: list[Image]) -> list[str]:
        questions = [
            Triplet(
                id=triplet.id,
                image=drawing,
                prompt=triplet.prompt,
                question=self.options.caption_prompt,
                answer=triplet.prompt,
                answer_type="oe",
                source=triplet.source,
            )
            for triplet, drawing in zip(triplets, drawings, strict=True)
        ]
        greedy = Sampling(group_size=1, temperature=0.0, max_new_tokens=self.options.max_new_tokens)
        return [str(text) for text in self.reference.sample("mm2t", questions, greedy, key="recaption").outputs]

    def _consistency(self, triplets: list[Triplet], captions: list[str]) -> tuple[Tensor, list[str]]:
        scores, notes = [], []
        for triplet, caption in zip(triplets, captions, strict=True):
            wanted, said = scene_graph.parse(triplet.prompt).tuples(), scene_graph.parse(caption).tuples()
            known = scene_graph.f_score(said, wanted, synonyms=self.options.synonyms) if wanted else torch.nan
            scores.append(known)
            notes.append(f"'{caption}': {scene_graph.explain(said, wanted, synonyms=self.options.synonyms)}")
        return torch.tensor(scores), notes
