"""R_cycle (paper): a drawing should look like the real image and, captioned again, say what the prompt said."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from PIL.Image import Image
from pydantic import Field, model_validator

from corl_cli.core.pictures import Tile
from corl_cli.core.requirements import Requirement
from corl_cli.core.section import Float, Positive
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
    perceptual_weight: Annotated[Float, Field(ge=0)] = Field(1.0, description="0 leaves this half out")
    text_weight: Annotated[Float, Field(ge=0)] = Field(1.0, description="0 leaves this half out, captions too")

    @model_validator(mode="after")
    def _effective(self) -> Self:
        """Every option that is given has an effect."""
        idle = {
            "backbone": None if self.perceptual.startswith("lpips") else f"perceptual: {self.perceptual}",
            "text_encoder": None if self.text == "embedding" else f"text: {self.text}",
            "synonyms": None if self.text == "scene_graph" else f"text: {self.text}",
            "caption_prompt": None if self.captioner == POLICY else f"captioner: {self.captioner}",
        }
        for name, choice in idle.items():
            if choice and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with {choice}; leave it out")
        if not self.perceptual_weight and not self.text_weight:
            raise ValueError("one of perceptual_weight and text_weight must be above 0")
        return self


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
        return self.options.text_weight > 0 and self.options.captioner == POLICY

    def requirements(self) -> list[Requirement]:
        """See Reward.requirements."""
        looks = [self._likeness()] if self.options.perceptual_weight else []
        says = [self._consistency()] if self.options.text_weight else []
        captions = [self._blip()] if self.options.text_weight and not self.needs_reference else []
        return [requirement for part in (*looks, *says, *captions) for requirement in part.requirements()]

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:
        """See Reward.load."""
        if self.options.perceptual_weight:
            self.likeness = self._likeness()
            self.likeness.load(device)
        if self.options.text_weight:
            self.consistency = self._consistency()
            self.captioner = self._frozen(reference) if self.needs_reference else self._blip()
            self.consistency.load(device)
            self.captioner.load(device)

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score; parts carry the names of the measures."""
        halves, captions = self._measure(samples)
        weights: dict[str, float] = {
            self.options.perceptual: self.options.perceptual_weight,
            self.options.text: self.options.text_weight,
        }
        return Scores(
            values=torch.stack([weights[name] * half.values for name, half in halves.items()]).sum(0),
            parts={name: half.values for name, half in halves.items()},
            notes=[_note(halves, captions, row) for row in range(len(samples))],
            texts={"caption": captions} if captions else {},
        )

    def explain(self, samples: Samples, policy: UnifiedPolicy | None) -> list[Explanation]:
        """See Reward.explain: the caption, how prompt and caption agree, and where the images differ."""
        halves, captions = self._measure(samples)
        found = []
        for row in range(len(samples)):
            facts = {name: f"{float(half.values[row]):.4f}" for name, half in halves.items()}
            if captions:
                facts[f"caption by {self.options.captioner}"] = captions[row]
            for half in halves.values():
                facts |= half.details[row]
            if why := _reasons(halves, row):
                facts[FAILED] = why
            found.append(Explanation(facts=facts, pictures=self._pictures(samples.select([row]), halves, row)))
        return found

    def _measure(self, samples: Samples) -> tuple[dict[str, Measured], list[str]]:
        """The halves that have a weight, by the names of their measures, and the captions."""
        halves: dict[str, Measured] = {}
        captions: list[str] = []
        if self.options.perceptual_weight:
            halves[self.options.perceptual] = self._looks(samples)
        if self.options.text_weight:
            captions = self.captioner([drawing for drawing in samples.outputs if isinstance(drawing, Image)])
            halves[self.options.text] = self.consistency([triplet.prompt for triplet in samples.triplets], captions)
        return halves, captions

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
        """The real image as it is compared with the drawing: made its shape first, then both go the same way."""
        if real.size != drawn.size and self.options.resize is None:
            return None
        return fitted(fitted(real, drawn.size, self.options.resize or "stretch"), self._size(drawn), "stretch")

    def _size(self, drawn: Image) -> tuple[int, int]:
        return (self.options.size, self.options.size) if self.options.size else drawn.size

    def _pictures(self, sample: Samples, halves: dict[str, Measured], row: int) -> list[Tile]:
        ((real, drawn),) = self._pairs(sample)
        shown = [Tile(drawn, "drawing"), Tile(real or sample.triplets[0].image, "real image")]
        looks = halves.get(self.options.perceptual)
        if looks and real and FAILED not in looks.details[row]:
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


def _note(halves: dict[str, Measured], captions: list[str], row: int) -> str:
    """Why there is no score; else the caption and what it was compared with."""
    if why := _reasons(halves, row):
        return why
    *_, last = halves.values()
    return f"'{captions[row]}': {note(last.details[row])}" if captions else note(last.details[row])


def _reasons(halves: dict[str, Measured], row: int) -> str:
    """Why the halves that failed did; nothing when none did."""
    return "; ".join(half.details[row][FAILED] for half in halves.values() if FAILED in half.details[row])
