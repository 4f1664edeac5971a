"""The embedded world in GenEval's schema: its held-out prompts under the six tags, and its checker as detector."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import combinations, permutations, product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from corl_cli.core.requirements import Requirement
from corl_cli.eval.geneval.prompts import TAGS
from corl_cli.eval.geneval.rules import RELATIONS, Detection, Found, box_of
from corl_cli.world.checker import see
from corl_cli.world.drawing import BACKGROUND, CELL_SIZE, IMAGE_SIZE, PALETTE, corner
from corl_cli.world.language import Spec, caption
from corl_cli.world.scenes import CELLS, COLOURS, SHAPES, THINGS, Thing, place, split_of

NUMBERS = dict(zip(TAGS, (80, 99, 80, 94, 100, 100), strict=True))  # of GenEval's prompts: no tag has more here


def prompts() -> list[dict[str, Any]]:
    """The held-out prompts of the world, each once, in GenEval's order of tags; always the same.

    Lone objects serve `single_object` and `colors` by turns, since a prompt that is held out must name its cell. Pairs
    are asked in every relation and from either side, and dealt to `color_attr`, `position` and `two_object`, of which
    the last two ignore colours, as in GenEval. `counting` has several objects alike, and lists in which a shape recurs.
    """
    placed = product(THINGS, range(len(CELLS)))
    alone = _shuffled([Spec((thing,), cell=CELLS[cell]) for thing, cell in placed if _held_out([thing], cell)])
    pairs = [
        Spec(order, relation=relation)
        for pair in combinations(THINGS, 2)
        if _held_out(pair) and pair[0].shape != pair[1].shape
        for order in permutations(pair)
        for relation in RELATIONS
    ]
    deal: dict[str, list[Spec]] = {"single_object": alone[::2], "colors": alone[1::2], "counting": _counts()}
    for tag in ("color_attr", "position", "two_object"):
        fit = [spec for spec in pairs if tag != "color_attr" or spec.things[0].colour != spec.things[1].colour]
        deal[tag] = _shuffled(fit)[: NUMBERS[tag]]
        pairs = [spec for spec in pairs if spec not in deal[tag]]
    return [_metadata(tag, spec) for tag in TAGS for spec in deal[tag][: NUMBERS[tag]]]


class Checker:
    """The objects of a drawing by the world's exact checker: clear ones only, each with score 1 and its colour."""

    classes = SHAPES
    colours = COLOURS

    def requirements(self) -> list[Requirement]:
        """Nothing: the checker is arithmetic."""
        return []

    def load(self, device: torch.device) -> None:
        """Nothing to bring."""

    def __call__(self, image: Image.Image, threshold: float) -> Found:
        """The objects of an RGB image by shape, in reading order; boxes and masks in the image's own pixels."""
        found: dict[str, list[Detection]] = {}
        drawn = _drawn(image)
        for seen in see(image):
            if seen.clear:
                top, left = corner(seen.cell)
                own = np.zeros_like(drawn)
                window = np.s_[top : top + CELL_SIZE, left : left + CELL_SIZE]
                own[window] = drawn[window]
                mask = np.asarray(Image.fromarray(own).resize(image.size, Image.Resampling.NEAREST))
                found.setdefault(seen.thing.shape, []).append(Detection(box_of(mask), 1.0, mask, seen.thing.colour))
        return found


def _held_out(things: Sequence[Thing], cell: int = 0) -> bool:
    """Whether a scene of these things is held out; the cells matter to a lone one only."""
    return split_of(place(list(things), list(range(cell, cell + len(things))))) == "test"


def _counts() -> list[Spec]:
    """Two or three objects alike, then lists of three with a shape that recurs, which are many more."""
    alike = [(thing,) * number for thing in THINGS for number in (2, 3)]
    lists = [things for things in combinations(THINGS, 3) if len({thing.shape for thing in things}) < 3]
    held_out = [[Spec(things) for things in kind if _held_out(things)] for kind in (alike, lists)]
    return [spec for kind in held_out for spec in _shuffled(kind)]


def _shuffled(specs: list[Spec]) -> list[Spec]:
    return sorted(specs, key=lambda spec: sha256(caption(spec).encode()).digest())


def _metadata(tag: str, spec: Spec) -> dict[str, Any]:
    """A prompt with what GenEval's rules check under this tag; of a pair the second thing is the target."""
    things = spec.things[::-1] if tag == "position" else spec.things
    shapes = [thing.shape for thing in things]
    include: list[dict[str, Any]] = [{"class": shape, "count": shapes.count(shape)} for shape in dict.fromkeys(shapes)]
    if tag in ("colors", "color_attr"):
        for wanted, thing in zip(include, things, strict=True):
            wanted["color"] = thing.colour
    if tag == "position":
        include[1]["position"] = [spec.relation, 0]
    metadata = {"tag": tag, "include": include, "prompt": caption(spec)}
    if tag == "counting":
        metadata["exclude"] = [{"class": wanted["class"], "count": wanted["count"] + 1} for wanted in include]
    return metadata


def _drawn(image: Image.Image) -> NDArray[np.bool_]:
    """Which pixels of a drawing, in the world's own size, are nearer to a colour than to the background."""
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)  # as the checker does
    palette = np.array([BACKGROUND, *PALETTE.values()], np.float32)
    distances = ((np.asarray(image.convert("RGB"), np.float32)[:, :, None] - palette) ** 2).sum(-1)
    drawn: NDArray[np.bool_] = distances.argmin(-1) > 0
    return drawn
