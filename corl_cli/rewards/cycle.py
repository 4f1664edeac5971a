"""R_cycle (paper): a drawing should look like the real image and, captioned again, say what the prompt said."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from PIL.Image import Image
from pydantic import Field

from corl_cli.core.pictures import Tile
from corl_cli.core.recipe import Float, Positive
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Explanation, Options, Reward, Scores
from corl_cli.scoring.measure import FAILED, Captioner, Consistency, Likeness, Measured, failed, note
from corl_cli.scoring.similarity import Pixel, Resize, fitted

POLICY = "policy"


class CycleOptions(Options):
    """Which measures, whose captions, and their weights."""

    perceptual: Literal["pixel", "lpips-vgg", "lpips-alex", "lpips-squeeze"] = Field(
        "pixel", description="likeness to the real image: 1 - LPIPS (paper), or 1 - mean squared error of pixels"
    )
    backbone: str | None = Field(
        None, description="torchvision checkpoint under LPIPS; null looks in the torch hub's cache"
    )
    resize: Resize | None = Field(
        None, description="how a real image of another size is fitted to the drawing; null refuses it"
    )
    size: Positive | None = Field(
        None, description="side in pixels at which the two are compared (LPIPS depends on it); null: the drawing's own"
    )
    text: Literal["scene_graph", "spice", "embedding"] = Field(
        "scene_graph", description="agreement of prompt and caption: SPICE (paper), rule-based scene graphs, embeddings"
    )
    text_encoder: str = Field("FacebookAI/roberta-large", description="a transformers text encoder, for embedding")
    synonyms: bool = Field(True, description="whether words of one meaning match, for scene_graph")
    captioner: str = Field(
        POLICY, min_length=1, description="policy (its frozen start), or a BLIP checkpoint: hub id or folder"
    )
    caption_prompt: str = Field("describe the image", min_length=1, description="what the policy is asked")
    max_new_tokens: Positive = Field(48, description="of a caption")
    perceptual_weight: Annotated[Float, Field(ge=0)] = 1.0
    text_weight: Annotated[Float, Field(ge=0)] = 1.0


class Cycle(Reward):
    """perceptual_weight * likeness(real, drawn) + text_weight * consistency(prompt, caption of the drawing).

    The paper's measures are 1 - LPIPS and SPICE with BLIP captions. The stand-ins go by their own names, which are
    those of the two parts in the metrics. A prompt that names nothing, and images whose sizes differ, have no score.
    Source: arXiv 2505.17534, bidirectional cycle consistency; LPIPS arXiv 1801.03924, SPICE arXiv 1607.08822.
    """

    task = "t2i"
    Options = CycleOptions
    options: CycleOptions
    columns = ("prompt", "image", "real")
    needs_policy = False

    @property
    def needs_reference(self) -> bool:
        """Whether captions come from the frozen start of the policy."""
        return self.options.captioner == POLICY

    def requirements(self) -> list[Requirement]:
        """See Reward.requirements."""
        parts = (self._likeness(), self._consistency(), None if self.needs_reference else self._blip())
        return [requirement for part in parts if part for requirement in part.requirements()]

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:
        """See Reward.load."""
        self.likeness, self.consistency = self._likeness(), self._consistency()
        self.captioner = self._frozen(reference) if self.needs_reference else self._blip()
        for part in (self.likeness, self.consistency, self.captioner):
            part.load(device)

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score; parts carry the names of the two measures."""
        looks, says, captions = self._measure(samples)
        return Scores(
            values=self.options.perceptual_weight * looks.values + self.options.text_weight * says.values,
            parts={self.options.perceptual: looks.values, self.options.text: says.values},
            notes=[
                _reasons(looks.details[row], says.details[row]) or f"'{caption}': {note(says.details[row])}"
                for row, caption in enumerate(captions)
            ],
            texts={"caption": captions},
        )

    def explain(self, samples: Samples, policy: UnifiedPolicy | None) -> list[Explanation]:
        """See Reward.explain: the caption, how prompt and caption agree, and where the images differ."""
        looks, says, captions = self._measure(samples)
        return [
            Explanation(
                facts={
                    self.options.perceptual: f"{float(looks.values[row]):.4f}",
                    self.options.text: f"{float(says.values[row]):.4f}",
                    f"caption by {self.options.captioner}": captions[row],
                    **looks.details[row],
                    **says.details[row],
                }
                | ({FAILED: why} if (why := _reasons(looks.details[row], says.details[row])) else {}),
                pictures=self._pictures(samples.select([row]), looks.details[row]),
            )
            for row in range(len(samples))
        ]

    def _measure(self, samples: Samples) -> tuple[Measured, Measured, list[str]]:
        drawings = [drawing for drawing in samples.outputs if isinstance(drawing, Image)]
        captions = self.captioner(drawings)
        prompts = [triplet.prompt for triplet in samples.triplets]
        return self._looks(samples), self.consistency(prompts, captions), captions

    def _looks(self, samples: Samples) -> Measured:
        """Likeness of the rows whose images can be compared; the others say why not."""
        pairs = self._pairs(samples)
        rows = [row for row, (real, _) in enumerate(pairs) if real is not None]
        values = torch.full((len(pairs),), torch.nan)
        details = [
            failed(
                f"the drawing is {drawn.width}x{drawn.height}, the real image {triplet.image.width}x"
                f"{triplet.image.height}; give images of one size, or set the reward's resize to stretch or crop"
            )
            for (_, drawn), triplet in zip(pairs, samples.triplets, strict=True)
        ]
        if rows:
            comparable = [(real, drawn) for real, drawn in pairs if real is not None]
            found = self.likeness(*zip(*comparable, strict=True))
            values[rows] = found.values.float().cpu()
            for row, lines in zip(rows, found.details, strict=True):
                details[row] = lines
        return Measured(values, details)

    def _pairs(self, samples: Samples) -> list[tuple[Image | None, Image]]:
        """Real image (one object per group; None where sizes differ and it may not be resized) and drawing."""
        fits: dict[tuple[int, tuple[int, int]], Image | None] = {}
        pairs = []
        for triplet, drawn in zip(samples.triplets, samples.outputs, strict=True):
            assert isinstance(drawn, Image)
            key = (id(triplet.image), drawn.size)
            if key not in fits:
                fits[key] = self._fitted(triplet.image, drawn)
            pairs.append((fits[key], fitted(drawn, self._size(drawn), "stretch")))
        return pairs

    def _fitted(self, real: Image, drawn: Image) -> Image | None:
        """The real image as it is compared with the drawing."""
        if real.size != drawn.size and self.options.resize is None:
            return None
        return fitted(real, self._size(drawn), self.options.resize or "stretch")

    def _size(self, drawn: Image) -> tuple[int, int]:
        return (self.options.size, self.options.size) if self.options.size else drawn.size

    def _pictures(self, sample: Samples, details: dict[str, str]) -> list[Tile]:
        ((real, drawn),) = self._pairs(sample)
        shown = [Tile(drawn, "drawing"), Tile(real or sample.triplets[0].image, "real image")]
        if real is not None and FAILED not in details:
            shown.append(Tile(self.likeness.differences(real, drawn), f"where {self.options.perceptual} differs"))
        return shown

    def _likeness(self) -> Likeness:
        if self.options.perceptual == "pixel":
            return Pixel()
        from corl_cli.scoring.lpips import Lpips

        return Lpips(self.options.perceptual.removeprefix("lpips-"), self.options.backbone)

    def _consistency(self) -> Consistency:
        if self.options.text == "scene_graph":
            from corl_cli.scoring.scene_graph import SceneGraphs

            return SceneGraphs(synonyms=self.options.synonyms)
        if self.options.text == "spice":
            from corl_cli.scoring.spice import Spice

            return Spice()
        from corl_cli.scoring.embedding import EmbeddingSimilarity

        return EmbeddingSimilarity(self.options.text_encoder)

    def _frozen(self, reference: UnifiedPolicy | None) -> Captioner:
        from corl_cli.scoring.captioner import PolicyCaptioner

        assert reference is not None, "cycle needs the frozen reference"
        return PolicyCaptioner(reference, self.options.caption_prompt, self.options.max_new_tokens)

    def _blip(self) -> Captioner:
        from corl_cli.scoring.captioner import Blip

        return Blip(self.options.captioner, self.options.max_new_tokens)


def _reasons(*halves: dict[str, str]) -> str:
    """Why the halves that failed did; nothing when none did."""
    return "; ".join(details[FAILED] for details in halves if FAILED in details)
