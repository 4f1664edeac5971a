"""Scenes: coloured shapes in the cells of a 2 x 2 grid, and which scenes are held out.

A scene is held out by what it contains, not by how it is described: a lone object by object and cell, several
objects by their multiset without positions. So a held-out pair is new in every relation, and drawing it right
takes composition, not memory.
"""

from __future__ import annotations

import hashlib
import random
from typing import Literal, NamedTuple

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross")
CELLS = ("top-left", "top-right", "bottom-left", "bottom-right")  # in reading order

Split = Literal["train", "test"]
Kind = Literal["single", "placed", "pair", "count", "list"]
MIX: dict[Kind, int] = {"single": 1, "placed": 2, "pair": 5, "count": 2, "list": 2}

_HELD_OUT_PERCENT = 15
_SIDE_BY_SIDE = ((0, 1), (2, 3), (0, 2), (1, 3))  # cells of a pair: same row or same column, never diagonal


class Thing(NamedTuple):
    """A coloured shape."""

    colour: str
    shape: str


class Placed(NamedTuple):
    """A coloured shape in a cell."""

    thing: Thing
    cell: str


Scene = tuple[Placed, ...]  # in reading order of the cells

THINGS = tuple(Thing(colour, shape) for colour in COLOURS for shape in SHAPES)


def place(things: list[Thing], cells: list[int]) -> Scene:
    """The scene with one thing in each of the cells (indices into CELLS)."""
    return tuple(Placed(thing, CELLS[cell]) for cell, thing in sorted(zip(cells, things, strict=True)))


def sample_scene(rng: random.Random, kind: Kind) -> Scene:
    """A random scene that a prompt of this kind describes."""
    if kind in ("single", "placed"):
        return place([rng.choice(THINGS)], [rng.randrange(4)])
    if kind == "pair":
        return place(rng.sample(THINGS, 2), list(rng.choice(_SIDE_BY_SIDE)))
    if kind == "count":
        number = rng.choice((2, 3))
        return place([rng.choice(THINGS)] * number, rng.sample(range(4), number))
    return place(rng.sample(THINGS, 3), rng.sample(range(4), 3))


def split_of(scene: Scene) -> Split:
    """Which split a scene belongs to: 15 % of scenes are "test", by a hash of their content."""
    return "test" if percentile(scene) < _HELD_OUT_PERCENT else "train"


def percentile(scene: Scene) -> int:
    """A hash of what a scene contains, 0..99."""
    if len(scene) == 1:
        content = " ".join((*scene[0].thing, scene[0].cell))
    else:
        content = ", ".join(sorted(" ".join(placed.thing) for placed in scene))
    digest = hashlib.sha256(content.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100


def sample_from(rng: random.Random, split: Split) -> tuple[Kind, Scene]:
    """A random scene of the split, and the kind of prompt it is for.

    A prompt that names no cell tells nothing of where its object is, so it is always "train".
    """
    while True:
        kind = rng.choices(list(MIX), list(MIX.values()))[0]
        scene = sample_scene(rng, kind)
        if split_of(scene) == split and not (kind == "single" and split == "test"):
            return kind, scene
