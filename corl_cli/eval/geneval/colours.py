"""The colour of an object by CLIP, zero-shot, as GenEval asks it (arXiv 2310.11513)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from corl_cli.eval.geneval.rules import COLOURS, Detection
from corl_cli.scoring.clip import Clip

DEFAULT = "openai/clip-vit-large-patch14"
CANVAS = "#999"
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


class ClipColours:
    """Which of ten colours objects have: the nearest text to the object alone on a grey canvas, cut to its box."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._texts: dict[str, Tensor] = {}  # by class, [colours, D]

    def __call__(self, image: Image.Image, name: str, objects: Sequence[Detection]) -> list[str]:
        """The colour of each object of the class `name` in an RGB image."""
        if name not in self._texts:
            self._texts[name] = self._read(name)
        seen = torch.cat([self.clip.embed_images([cut(image, found)]) for found in objects])  # alone: see Mask2Former
        return [COLOURS[index] for index in (seen @ self._texts[name].T).argmax(1).tolist()]

    def _read(self, name: str) -> Tensor:
        """Each colour's direction: the mean over the templates of texts of length 1."""
        texts = [template.format(colour=colour, name=name) for colour in COLOURS for template in TEMPLATES]
        return F.normalize(self.clip.embed_texts(texts).unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(1), dim=-1)


def cut(image: Image.Image, found: Detection) -> Image.Image:
    """The object on the canvas, cut to its box (rounded); all that the box holds where the detection has no mask."""
    if found.mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, CANVAS), Image.fromarray(found.mask))
    left, top, right, bottom = map(round, found.box.tolist())
    return image.crop((left, top, right, bottom))
