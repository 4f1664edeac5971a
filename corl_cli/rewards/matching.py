"""R_TIM (paper): how well a drawing and its prompt match, token by token, in the policy's own hidden states."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from PIL.Image import Image
from pydantic import Field
from torch import Tensor

from corl_cli.core.pictures import Tile
from corl_cli.core.types import Samples
from corl_cli.models.base import Embedded, UnifiedPolicy
from corl_cli.rewards.base import Explanation, Options, Reward, Scores
from corl_cli.scoring.heatmap import token_map

ROWS = 32  # embedded at once; bounds memory, not the scores


class MatchingOptions(Options):
    """Whose hidden states are compared."""

    hidden: Literal["policy", "reference"] = Field(
        "policy", description="the learning policy's (paper), or those of its frozen start, which cannot drift"
    )


class Matching(Reward):
    """1/2 (mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)) of image tokens i and text tokens t, in [-1, 1].

    i and t are last hidden states: the drawing is read as an understanding input in front of its prompt, spans are
    found by token masks, similarities are computed in float32. A prompt without text tokens has no score.
    Source: arXiv 2505.17534, text-image matching reward (R_TIM).
    """

    task = "t2i"
    Options = MatchingOptions
    options: MatchingOptions
    columns = ("prompt", "image")

    def __init__(self, options: MatchingOptions) -> None:
        super().__init__(options)
        self.needs_policy = options.hidden == "policy"

    @property
    def needs_reference(self) -> bool:
        """Whether the hidden states are those of the frozen start."""
        return self.options.hidden == "reference"

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:
        """See Reward.load."""
        self.reference = reference

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        images = [image for image in samples.outputs if isinstance(image, Image)]
        prompts = [triplet.prompt for triplet in samples.triplets]
        pieces = [
            matching_score(*self._embed(images[start : start + ROWS], prompts[start : start + ROWS], policy)[:3])
            for start in range(0, len(images), ROWS)
        ]
        values = torch.cat(pieces).cpu()
        notes = ["the prompt has no text tokens" if bool(value.isnan()) else "" for value in values]
        return Scores(values=values, notes=notes)

    def explain(self, samples: Samples, policy: UnifiedPolicy | None) -> list[Explanation]:
        """See Reward.explain: for each word of the prompt, where in the drawing it is found."""
        model = self._model(policy)
        found = []
        for triplet, drawing in zip(samples.triplets, samples.outputs, strict=True):
            assert isinstance(drawing, Image)
            embedded = model.embed([drawing], [triplet.prompt])
            words = model.words(embedded.ids[0][embedded.mask[0].bool()])
            cosines = _cosines(embedded.images, embedded.texts)[0][:, embedded.mask[0].bool()].cpu()  # [K, T]
            found.append(_explanation(drawing, words, cosines))
        return found

    def _model(self, policy: UnifiedPolicy | None) -> UnifiedPolicy:
        model = self.reference if self.needs_reference else policy
        assert model is not None, f"matching needs the {self.options.hidden}"
        return model

    def _embed(self, images: list[Image], prompts: list[str], policy: UnifiedPolicy | None) -> Embedded:
        return self._model(policy).embed(images, prompts)


def matching_score(image_hidden: Tensor, text_hidden: Tensor, text_mask: Tensor) -> Tensor:
    """R_TIM = 1/2 (mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)), in float32.

    `image_hidden` [N, K, D], `text_hidden` [N, T, D], `text_mask` [N, T] -> [N]; NaN for a row without text tokens.
    Source: arXiv 2505.17534, text-image matching reward.
    """
    mask = text_mask.bool()
    cosines = _cosines(image_hidden, text_hidden)
    of_images = cosines.masked_fill(~mask[:, None], -torch.inf).amax(2).mean(1)
    of_texts = cosines.amax(1).masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
    return ((of_images + of_texts) / 2).masked_fill(~mask.any(1), torch.nan)


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """[N, K, D], [N, T, D] -> [N, K, T] in float32."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).transpose(1, 2)


def _explanation(drawing: Image, words: list[str], cosines: Tensor) -> Explanation:
    if not words:
        return Explanation(facts={"failed": "the prompt has no text tokens"}, pictures=[Tile(drawing, "drawing")])
    low, high = float(cosines.min()), float(cosines.max())
    border = "" if drawing.width == drawing.height else "; grey is the border that squares the image"
    facts = {
        "image tokens, mean of the best word's cosine": f"{float(cosines.amax(1).mean()):.4f}",
        "words, mean of the best image token's cosine": f"{float(cosines.amax(0).mean()):.4f}",
        "colours": f"cosines from {low:.2f} (dark) to {high:.2f} (bright){border}",
        "number after a word": "its cosine with the image token that fits it best",
    }
    tiles = [
        Tile(token_map(drawing, column, low, high), f"'{word.strip()}' {float(column.max()):.2f}")
        for word, column in zip(words, cosines.T, strict=True)
    ]
    return Explanation(facts=facts, pictures=[Tile(drawing, "drawing"), *tiles])
