"""Values per image token, laid over the image that was read."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

SIZE = 160  # pixels of the picture's side
GREY = (128, 128, 128)


def heatmap(image: Image.Image, values: Tensor, low: float, high: float) -> Image.Image:
    """A square picture: `values` [K] of a sqrt(K) x sqrt(K) grid as colours from `low` to `high` over the image.

    Janus reads images padded to a square, so the grid covers the padded image; the padding is greyed. ValueError when
    K is not a square.
    """
    from matplotlib import colormaps

    side = math.isqrt(len(values))
    if side**2 != len(values):
        raise ValueError(f"{len(values)} image tokens are no square grid")
    scaled = (values.float().numpy().reshape(side, side) - low) / max(high - low, 1e-6)
    colours = Image.fromarray((colormaps["viridis"](scaled)[:, :, :3] * 255).astype(np.uint8))
    below = ImageOps.pad(image.convert("L").convert("RGB"), (SIZE, SIZE), color=GREY)
    blended = Image.blend(below, colours.resize((SIZE, SIZE), Image.Resampling.NEAREST), 0.6)
    inside = ImageOps.pad(Image.new("L", image.size, 255), (SIZE, SIZE), color=0)
    return Image.composite(blended, Image.new("RGB", (SIZE, SIZE), GREY), inside)
