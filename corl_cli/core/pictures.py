"""Sheets of captioned pictures: what a run drew, what the world looks like."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

TILE, MARGIN, LINE, FONT = 160, 12, 16, 13  # pixels


@dataclass(frozen=True)
class Tile:
    """A picture and the text under it."""

    image: Image
    text: str


class Sheet(NamedTuple):
    """A picture of tiles, and where each one's own picture is in it: left, top, right, bottom."""

    image: Image
    boxes: list[tuple[int, int, int, int]]


def sheet(tiles: Sequence[Tile], columns: int) -> Sheet:
    """The tiles in rows of `columns`, each picture enlarged or reduced to the same size with its text beneath."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=FONT)
    texts = [[line for part in tile.text.split("\n") for line in textwrap.wrap(part, 26)] for tile in tiles]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [TILE + LINE * max(len(texts[index]) for index in row) + MARGIN for row in rows]
    page = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    pen = ImageDraw.Draw(page)
    boxes = []
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            left = MARGIN + column * (TILE + MARGIN)
            image = tiles[index].image
            small = max(image.size) < TILE
            page.paste(
                image.resize((TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS), (left, top)
            )
            boxes.append((left, top, left + TILE, top + TILE))
            for number, line in enumerate(texts[index]):
                pen.text((left, top + TILE + 2 + number * LINE), line, fill="black", font=font)
        top += height
    return Sheet(page, boxes)
