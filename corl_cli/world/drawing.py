"""Draws a scene: 32 x 32 pixels, cells of 16, anti-aliased shapes of 12, no jitter."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from corl_cli.world.scenes import CELLS, SHAPES, Scene

IMAGE_SIZE = 32
CELL_SIZE = IMAGE_SIZE // 2
SHAPE_SIZE = 12
BACKGROUND = (245, 245, 245)
PALETTE = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 200, 20),
    "purple": (150, 40, 170),
    "black": (20, 20, 20),
}

_OVERSAMPLING = 8
_MARGIN = (CELL_SIZE - SHAPE_SIZE) // 2


@cache
def coverage(shape: str) -> NDArray[np.float32]:
    """How much of each pixel a shape covers: [12, 12] in 0..1."""
    size = SHAPE_SIZE * _OVERSAMPLING
    last, inset, third = size - 1, _OVERSAMPLING, size // 3
    image = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((0, 0, last, last), fill=255)
    elif shape == "square":
        draw.rectangle((inset, inset, last - inset, last - inset), fill=255)
    elif shape == "triangle":
        draw.polygon(((size // 2, 0), (last, last), (0, last)), fill=255)
    elif shape == "cross":
        draw.rectangle((third, 0, last - third, last), fill=255)
        draw.rectangle((0, third, last, last - third), fill=255)
    else:
        raise ValueError(f"{shape!r} is none of {SHAPES}")
    return np.asarray(image.resize((SHAPE_SIZE, SHAPE_SIZE), Image.Resampling.BOX), np.float32) / np.float32(255)


def corner(cell: str) -> tuple[int, int]:
    """Top and left pixel of a cell."""
    row, column = divmod(CELLS.index(cell), 2)
    return row * CELL_SIZE, column * CELL_SIZE


def draw(scene: Scene) -> Image.Image:
    """The RGB image of a scene."""
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), BACKGROUND, np.float32)
    for (colour, shape), cell in scene:
        top, left = (edge + _MARGIN for edge in corner(cell))
        patch = canvas[top : top + SHAPE_SIZE, left : left + SHAPE_SIZE]
        alpha = coverage(shape)[..., None]
        patch[:] = patch * (1 - alpha) + np.array(PALETTE[colour], np.float32) * alpha
    return Image.fromarray(canvas.round().astype(np.uint8))
