"""Objects in images by Mask2Former (arXiv 2112.01527): the architecture of GenEval's detector, from transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from corl_cli.core.requirements import Requirement
from corl_cli.eval.geneval.prompts import CLASSES
from corl_cli.eval.geneval.rules import COLOURS, Detection, Found, box_of
from corl_cli.scoring import checkpoints

DEFAULT = "facebook/mask2former-swin-small-coco-instance"
ARCHITECTURE = "Mask2FormerForUniversalSegmentation"
SIZE = {"shortest_edge": 800, "longest_edge": 1333}  # of the detector's test set-up; the hub's processor says 384
CANDIDATES = 100  # pairs of a query and a class that can become objects


class Mask2Former:
    """The objects of GenEval's 80 classes in an image, by any Mask2Former of COCO's instances.

    Images are looked at one by one, so that no score depends on what is scored beside it.
    """

    classes = CLASSES
    colours = COLOURS  # that CLIP is to tell apart

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def requirements(self) -> list[Requirement]:
        """The checkpoint; see checkpoints.requirement."""
        return [checkpoints.requirement("object detector", self.checkpoint, ARCHITECTURE, words=False)]

    def load(self, device: torch.device) -> None:
        """Bring the detector to `device`; CorlError when it cannot be read, or has other than 80 classes."""
        with checkpoints.reading("object detector", self.checkpoint, ARCHITECTURE, words=False) as folder:
            from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil

            model = checkpoints.weights(Mask2FormerForUniversalSegmentation.from_pretrained, folder, spare="criterion.")
            self.pixels = Mask2FormerImageProcessorPil.from_pretrained(folder)
            if model.config.num_labels != len(CLASSES):
                raise ValueError(
                    f"it knows {model.config.num_labels} classes, not the {len(CLASSES)} of COCO's objects"
                )
        self.model = model.to(device)

    @torch.no_grad()
    def __call__(self, image: Image.Image, threshold: float) -> Found:
        """The objects of an RGB image whose score may exceed the threshold, by class, unordered."""
        inputs = self.pixels(image, size=SIZE, do_resize=True, return_tensors="pt").to(self.model.device)
        out = self.model(pixel_values=inputs.pixel_values, pixel_mask=inputs.pixel_mask)
        height, width = inputs.pixel_values.shape[-2:]
        return objects(
            out.class_queries_logits[0], out.masks_queries_logits[0], (height, width), image.size[::-1], threshold
        )


def objects(
    classes: Tensor, masks: Tensor, seen: tuple[int, int], size: tuple[int, int], threshold: float
) -> dict[str, list[Detection]]:
    """Objects from logits, as Mask2Former's authors make them: the 100 likeliest pairs of a query and a class.

    The score of a pair is the class's probability times the mean probability of the mask's pixels inside the mask.
    `classes` [queries, 81], the last is "none"; `masks` [queries, h, w]. Masks are resized to the size that the network
    saw, then to the image's own (height, width). Pairs that cannot exceed the threshold are left out early.
    """
    scores = classes.softmax(-1)[:, :-1].flatten()
    scores, pairs = scores.topk(min(CANDIDATES, len(scores)))
    pairs, scores = pairs[scores > threshold], scores[scores > threshold]
    found: dict[str, list[Detection]] = {}
    num_classes = classes.shape[-1] - 1
    for pair, score in zip(pairs.tolist(), scores, strict=True):
        query, index = divmod(pair, num_classes)
        logits = _resized(_resized(masks[query], seen), size)
        inside = logits > 0
        sure = (logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        mask = inside.cpu().numpy()
        found.setdefault(CLASSES[index], []).append(Detection(box_of(mask), float(score * sure), mask))
    return found


def _resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
