"""What an image looks like regardless of what it shows: the numbers that a policy moves when it pleases a flaw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEVELS = 8  # of each colour channel; 512 colours, so that noise in the last bits is not taken for variety
SIDE = 128  # pixels; a larger image is reduced to this, so compare images of one size


def appearance(images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Each [N]: `brightness` (mean luminance) and `contrast` (its deviation), of 0..1; `entropy` of colours, bits."""
    rows = [_appearance(image) for image in images]
    names = ("brightness", "contrast", "entropy")
    return {name: torch.tensor([row[index] for row in rows]) for index, name in enumerate(names)}


def _appearance(image: Image.Image) -> tuple[float, float, float]:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    luminance = np.asarray(small.convert("L"), np.float64) / 255
    levels = np.asarray(small, np.int64).reshape(-1, 3) * LEVELS // 256
    _, counts = np.unique(levels @ [LEVELS**2, LEVELS, 1], return_counts=True)
    shares = counts / counts.sum()
    return float(luminance.mean()), float(luminance.std()), float(-(shares * np.log2(shares)).sum()) + 0.0
