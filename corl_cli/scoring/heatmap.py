"""Values of places in an image, laid over it as colours."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

SIZE = 160  # pixels of the picture's side
OPACITY = 0.6  # of the colours
GREY = (128, 128, 128)


def heatmap(image: Image.Image, values: Tensor, low: float, high: float) -> Image.Image:
    """A picture of the image's size: `values` [h, w] as colours from `low` (dark) to `high` (bright) over its greys."""
    from matplotlib import colormaps

    scaled = (values.float().cpu().numpy() - low) / max(high - low, 1e-6)
    colours = Image.fromarray((colormaps["viridis"](scaled)[:, :, :3] * 255).astype(np.uint8))
    return Image.blend(image.convert("L").convert("RGB"), colours.resize(image.size, Image.Resampling.NEAREST), OPACITY)


def token_map(image: Image.Image, values: Tensor, low: float, high: float) -> Image.Image:
    """A square picture: `values` [K] of a sqrt(K) x sqrt(K) grid as a heatmap over the image.

    Janus reads images padded to a square, so the grid covers the padded image; the padding is greyed. ValueError when
    K is not a square.
    """
    side = math.isqrt(len(values))
    if side**2 != len(values):
        raise ValueError(f"{len(values)} image tokens are no square grid")
    laid = heatmap(ImageOps.pad(image.convert("L"), (SIZE, SIZE)), values.view(side, side), low, high)
    inside = ImageOps.pad(Image.new("L", image.size, 255), (SIZE, SIZE), color=0)
    return Image.composite(laid, Image.new("RGB", (SIZE, SIZE), GREY), inside)
