"""What was drawn and answered by hand, as people and scripts see it: a page of drawings, tables, lines, JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from corl_cli.core.pictures import FONT, LINE, MARGIN, TILE, Tile
from corl_cli.pipelines.hands_on import NOUNS, Made, Trial
from corl_cli.scoring.answers import format_fault

COLUMNS = 8  # drawings beside each other in a block
LARGEST = 384  # pixels of a drawing's side, as Janus-Pro draws
AREA = 60_000_000  # pixels of all drawings; where they would be more, they are reduced to TILE
TALLEST = 24_000  # pixels of a column, about: viewers and browsers open no picture of more than 32,767
LETTER = 6.2  # pixels, about as wide as most letters are
LINES = 6  # of a text
VERDICTS = {True: "right", False: "wrong", None: ""}


def page(trial: Trial, made: Sequence[Made]) -> Image.Image:
    """All drawings: a row for each prompt, a block for each checkpoint, the same noise in the same place."""
    judged = any(one.right is not None for one in made)
    head = trial.settings + ("; right, wrong: the embedded world's exact checker" if judged else "")
    rows = [
        (text, [[Tile(one.drawing, VERDICTS[one.right]) for one in block] for block in blocks])
        for text, blocks in _by_text(trial, made)
    ]
    return lay_out(head, [one.name for one in trial.candidates], rows)


def verdicts(trial: Trial, made: Sequence[Made]) -> list[dict[str, Any]]:
    """How many drawings of each prompt the embedded world's checker calls right; empty where it can judge none."""
    rows = []
    for text, blocks in _by_text(trial, made):
        for block in blocks:
            judged = [one.right for one in block if one.right is not None]
            right = f"{sum(judged)} of {len(judged)}" if judged else None
            rows.append({"prompt": text, "checkpoint": block[0].checkpoint, "right (checker)": right})
    return rows if any(row["right (checker)"] for row in rows) else []


def answers(trial: Trial, made: Sequence[Made]) -> list[dict[str, Any]]:
    """A row for each answer, by question: what differs between rows, the answer alone, all that was written."""
    rows = []
    for text, blocks in _by_text(trial, made):
        for one in (one for block in blocks for one in block):
            told: dict[str, Any] = {"question": text} if len(trial.wish.texts) > 1 else {}
            told |= {"checkpoint": one.checkpoint} if len(blocks) > 1 else {}
            told |= {"sample": str(one.sample)} if trial.wish.n > 1 else {}
            rows.append(told | {"answer": one.answer, "written": one.output})
    return rows


def answer(made: Made) -> str:
    """A completion as it was written, and below what is taken as its answer, where that is not all of it."""
    text = str(made.output)
    if made.answer == text:
        return text
    taken = made.answer or f"none ({format_fault(text) or 'it has no final answer'})"
    return f"{text}\nanswer: {taken}"


def facts(made: Sequence[Made]) -> list[dict[str, Any]]:
    """Samples for JSON: what they are of, and the text with its answer or the verdict on the drawing."""
    return [
        {"checkpoint": one.checkpoint, NOUNS[one.task]: one.text, "asked": one.asked, "sample": one.sample}
        | (
            {"right": one.right}
            if one.task == "t2i"
            else {"written": one.output, "answer": one.answer, "truncated": one.truncated}
        )
        for one in made
    ]


def _by_text(trial: Trial, made: Sequence[Made]) -> Iterator[tuple[str, list[Sequence[Made]]]]:
    """Each text with the samples of each checkpoint, [K][n]."""
    texts, n = trial.wish.texts, trial.wish.n
    for number, text in enumerate(texts):
        starts = [(checkpoint * len(texts) + number) * n for checkpoint in range(len(trial.candidates))]
        yield text, [made[start : start + n] for start in starts]


def lay_out(head: str, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[Tile]]]]) -> Image.Image:
    """Under a head, for each prompt its words, then the tiles of each block [K][n] side by side under the titles [K].

    Blocks have the same places for the same numbers. A drawing keeps its size where that is between TILE and LARGEST;
    a tile's text is beneath it. Prompts that would make the page too tall stand in several columns.
    """
    tiles = [tile for _, blocks in rows for block in blocks for tile in block]
    side = min(LARGEST, max(TILE, *(max(tile.image.size) for tile in tiles)))
    side = side if len(tiles) * side**2 <= AREA else TILE
    columns = min(COLUMNS, max(len(block) for _, blocks in rows for block in blocks))
    width = columns * (side + MARGIN)  # of a block
    whole = len(titles) * width + (len(titles) - 1) * MARGIN
    top = _beside([_text(title, width) for title in titles])
    pieces = [
        _below([_text(words, whole), _beside([_block(block, columns, side) for block in blocks])])
        for words, blocks in rows
    ]
    body = _beside([_below([top, *column]) for column in _columns(pieces)])
    page = _below([_text(head, body.width), body])
    return ImageOps.expand(page, (MARGIN, MARGIN, 0, 0), "white")


def _columns(pieces: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """The pieces in their order, in columns of about the same height."""
    whole = sum(piece.height for piece in pieces)
    columns: list[list[Image.Image]] = [[] for _ in range(-(-whole // TALLEST))]
    top = 0
    for piece in pieces:
        columns[top * len(columns) // whole].append(piece)
        top += piece.height
    return columns


def _text(words: str, width: int) -> Image.Image:
    found = textwrap.wrap(" ".join(words.split()), int((width - MARGIN) / LETTER), max_lines=LINES, placeholder=" …")
    strip = Image.new("RGB", (width, LINE * len(found) + MARGIN // 2), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size=FONT)
    for number, line in enumerate(found):
        pen.text((0, LINE * number), line, fill="black", font=font)
    return strip


def _block(tiles: Sequence[Tile], columns: int, side: int) -> Image.Image:
    height = side + (LINE if any(tile.text for tile in tiles) else 0) + MARGIN
    block = Image.new("RGB", (columns * (side + MARGIN), -(-len(tiles) // columns) * height), "white")
    pen, font = ImageDraw.Draw(block), ImageFont.load_default(size=FONT)
    for number, tile in enumerate(tiles):
        left, top = number % columns * (side + MARGIN), number // columns * height
        kind = Image.Resampling.NEAREST if max(tile.image.size) < side else Image.Resampling.LANCZOS
        block.paste(tile.image.resize((side, side), kind), (left, top))
        pen.text((left, top + side), tile.text, fill="black", font=font)
    return block


def _beside(blocks: Sequence[Image.Image]) -> Image.Image:
    width = sum(block.width for block in blocks) + MARGIN * (len(blocks) - 1)
    strip = Image.new("RGB", (width, max(block.height for block in blocks)), "white")
    left = 0
    for block in blocks:
        strip.paste(block, (left, 0))
        left += block.width + MARGIN
    return strip


def _below(strips: Sequence[Image.Image]) -> Image.Image:
    width, height = max(strip.width for strip in strips), sum(strip.height for strip in strips)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole
