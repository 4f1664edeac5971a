"""Reads the pixels of a drawing and says which objects are where, and whether a prompt is true of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corl_cli.world.drawing import BACKGROUND, CELL_SIZE, IMAGE_SIZE, PALETTE, SHAPE_SIZE, coverage
from corl_cli.world.language import Spec, caption, holds, is_true, parse_prompt
from corl_cli.world.scenes import CELLS, COLOURS, SHAPES, Placed, Thing

_MIN_PIXELS = 20  # fewer are specks; the smallest shape has about 80
_MIN_FIT = 0.7
_MIN_PURITY = 0.7


@dataclass(frozen=True)
class Seen:
    """An object found in a cell: `fit` is its overlap (IoU) with the shape, `purity` the share of its main colour."""

    thing: Thing
    cell: str
    fit: float
    purity: float

    @property
    def clear(self) -> bool:
        """Whether it is drawn well enough to count as that thing."""
        return self.fit >= _MIN_FIT and self.purity >= _MIN_PURITY

    def __str__(self) -> str:
        return f"{'' if self.clear else 'unclear '}{self.thing.colour} {self.thing.shape} {self.cell}"


@dataclass(frozen=True)
class Verdict:
    """`correct` when the prompt is true of the drawing; `partial` in 0..1 is 1 only then."""

    correct: bool
    partial: float
    found: tuple[Seen, ...]
    reason: str


def check(prompt: str, image: Image.Image) -> Verdict:
    """Whether a drawing shows exactly what the prompt says; CorlError when it is not in the world's language."""
    spec, found = parse_prompt(prompt), see(image)
    correct = all(seen.clear for seen in found) and is_true(spec, [Placed(seen.thing, seen.cell) for seen in found])
    partial = 1.0 if correct else _partial(spec, found)
    return Verdict(correct, partial, found, f"wanted {caption(spec)}; found {', '.join(map(str, found)) or 'nothing'}")


def see(image: Image.Image) -> tuple[Seen, ...]:
    """The objects of a drawing in reading order, clear ones and unclear ones; images of another size are resized."""
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), np.float32)
    distances = ((pixels[:, :, None, :] - _palette()) ** 2).sum(-1)
    labels = distances.argmin(-1)  # 0 is background, then COLOURS
    cells = labels.reshape(2, CELL_SIZE, 2, CELL_SIZE).swapaxes(1, 2).reshape(len(CELLS), CELL_SIZE**2)
    seen = (_look(cell, pixels) for cell, pixels in zip(CELLS, cells, strict=True))
    return tuple(found for found in seen if found)


def _look(cell: str, labels: NDArray[np.intp]) -> Seen | None:
    filled = labels > 0
    size = int(filled.sum())
    if size < _MIN_PIXELS:
        return None
    counts = np.bincount(labels[filled], minlength=len(COLOURS) + 1)
    colour = int(counts.argmax())
    templates = _templates()
    shared = templates @ filled.astype(np.float32)
    overlap = (shared / (templates.sum(-1) + size - shared)).max(-1)  # over the offsets
    shape = int(overlap.argmax())
    return Seen(Thing(COLOURS[colour - 1], SHAPES[shape]), cell, float(overlap[shape]), float(counts[colour] / size))


@cache
def _palette() -> NDArray[np.float32]:
    return np.array([BACKGROUND, *(PALETTE[colour] for colour in COLOURS)], np.float32)


@cache
def _templates() -> NDArray[np.float32]:
    """Every shape at every offset inside a cell: [shapes, offsets, pixels of a cell]."""
    offsets = range(CELL_SIZE - SHAPE_SIZE + 1)
    templates = np.zeros((len(SHAPES), len(offsets), len(offsets), CELL_SIZE, CELL_SIZE), np.float32)
    for index, shape in enumerate(SHAPES):
        for top in offsets:
            for left in offsets:
                window = templates[index, top, left, top : top + SHAPE_SIZE, left : left + SHAPE_SIZE]
                window[:] = coverage(shape) > 0.5
    return templates.reshape(len(SHAPES), len(offsets) ** 2, CELL_SIZE**2)


def _partial(spec: Spec, found: tuple[Seen, ...]) -> float:
    """At most 0.9: the best pairing of wanted with found things, less for missing, extra and misplaced ones."""
    wanted = max(len(spec.things), len(found))
    slots: list[Seen | None] = [*found, *[None] * (len(spec.things) - len(found))]
    return 0.9 * max(_pairing(spec, order) for order in permutations(slots, len(spec.things))) / wanted


def _pairing(spec: Spec, order: tuple[Seen | None, ...]) -> float:
    alike = sum(_likeness(thing, seen) for thing, seen in zip(spec.things, order, strict=True))
    return alike * (1.0 if _in_place(spec, order) else 0.6)


def _likeness(thing: Thing, seen: Seen | None) -> float:
    if seen is None:
        return 0.0
    colour = seen.purity if seen.thing.colour == thing.colour else 0.0
    shape = seen.fit if seen.thing.shape == thing.shape else 0.0
    return (colour + shape) / 2


def _in_place(spec: Spec, order: tuple[Seen | None, ...]) -> bool:
    cells = [CELLS.index(seen.cell) if seen else None for seen in order]
    if spec.cell:
        return cells[0] == CELLS.index(spec.cell)
    if spec.relation:
        first, second = cells
        return first is not None and second is not None and holds(spec.relation, first, second)
    return True
