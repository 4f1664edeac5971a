"""GenEval's rules: whether the objects found in one image are those that its prompt asks for (arXiv 2310.11513)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from corl_cli.core.section import Float, Positive, Section

RELATIONS = ("left of", "right of", "above", "below")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

_Unit = Annotated[Float, Field(ge=0, le=1)]


class Rules(Section):
    """The thresholds of the rules; the defaults are the original's."""

    threshold: _Unit = Field(0.3, description="an object counts when its score is above this")
    counting_threshold: _Unit = Field(0.9, description="the same for the prompts that ask for a number")
    max_objects: Positive = Field(16, description="objects of each class that count, the surest ones")
    max_overlap: _Unit = Field(
        1.0, description="IoU from which the less sure of two of a class is dropped; 1 keeps all"
    )
    position_threshold: Annotated[Float, Field(ge=0)] = Field(
        0.1, description="share of two objects' sizes by which their centres must differ to stand in a relation"
    )

    def of(self, tag: str) -> float:
        """The score that an object of a prompt with this tag must exceed."""
        return self.counting_threshold if tag == "counting" else self.threshold


@dataclass(frozen=True, eq=False)
class Detection:
    """An object found: `box` [4] is left, top, right, bottom in pixels, float32, ends excluded; `score` in 0..1.

    `mask` [height, width] says which pixels of the image are its own, None for all of the box. `colour` is what the
    detector itself knows of it, or empty.
    """

    box: NDArray[np.float32]
    score: float
    mask: NDArray[np.bool_] | None = None
    colour: str = ""


Found = Mapping[str, Sequence[Detection]]  # by class
Painter = Callable[[str, Sequence[Detection]], Sequence[str]]  # the colours of objects of a class


@dataclass(frozen=True)
class Verdict:
    """Whether an image is right, what is wrong line by line, the objects that counted, and the colours asked for."""

    correct: bool
    reason: str
    kept: Found
    colours: Mapping[str, Sequence[str]]


def judge(metadata: Mapping[str, Any], found: Found, paint: Painter, rules: Rules) -> Verdict:
    """Whether the objects found are those of a prompt's metadata: every `include` holds and no `exclude`.

    Of each class asked for the surest `count` objects are looked at; `paint` is asked their colours, once an `include`
    with a colour. A position is told from the objects of the `include` that it names, if these were right themselves.
    """
    kept = {name: keep(objects, rules.of(metadata["tag"]), rules) for name, objects in found.items()}
    kept = {name: objects for name, objects in kept.items() if objects}
    faults: list[str] = []
    colours: dict[str, Sequence[str]] = {}
    targets: list[Sequence[Detection]] = []  # of each include, empty where it was not right
    for wanted in metadata.get("include", []):
        name, objects = wanted["class"], kept.get(wanted["class"], [])[: wanted["count"]]
        fault = _too_few(wanted, objects)
        if not fault and "color" in wanted:
            colours[name] = paint(name, objects)
            fault = _wrong_colour(wanted, colours[name])
        if not fault and "position" in wanted:
            fault = _wrong_place(wanted, objects, targets, rules.position_threshold)
        targets.append([] if fault else objects)
        faults += [fault] if fault else []
    for unwanted in metadata.get("exclude", []):
        number = len(kept.get(unwanted["class"], []))
        if number >= unwanted["count"]:
            faults.append(f"expected {unwanted['class']}<{unwanted['count']}, found {number}")
    return Verdict(not faults, "\n".join(faults), kept, colours)


def asked(metadata: Mapping[str, Any]) -> str:
    """What a prompt's metadata asks for in words: "red circle 1, blue square 1", "square 1, circle 1 left of it"."""
    wanted = metadata.get("include", [])
    parts = [_named(one, place, wanted) for place, one in enumerate(wanted)]
    parts += [f"not {unwanted['class']} {unwanted['count']}" for unwanted in metadata.get("exclude", [])]
    return ", ".join(parts)


def keep(objects: Sequence[Detection], threshold: float, rules: Rules) -> list[Detection]:
    """The objects of one class that count, surest first; scores are compared in float32, as the original does."""
    scores = np.array([found.score for found in objects], np.float32)
    order = np.argsort(scores)[::-1]
    left = [objects[index] for index in order[scores[order] > np.float32(threshold)]][: rules.max_objects]
    kept: list[Detection] = []
    while left:
        surest = left.pop(0)
        kept.append(surest)
        if rules.max_overlap < 1:
            left = [other for other in left if iou(surest.box, other.box) < rules.max_overlap]
    return kept


def iou(box: Sequence[float] | NDArray[np.float32], other: Sequence[float] | NDArray[np.float32]) -> float:
    """The overlap of two boxes, of which both ends are counted in here, as the original does."""
    shared = _area(*np.maximum(box[:2], other[:2]), *np.minimum(box[2:], other[2:]))
    total = _area(*box) + _area(*other) - shared
    return float(shared / total) if total else 0.0


def relations(box: NDArray[np.float32], other: NDArray[np.float32], threshold: float = 0.1) -> tuple[str, ...]:
    """How the first box stands to the second; none where their centres are too near, two where it stands askew.

    The centres' offset, less `threshold` times the sum of both sizes, must be more than half of their distance.
    """
    (start, end), (other_start, other_end) = box.reshape(2, 2), other.reshape(2, 2)
    offset = (start + end) / 2 - (other_start + other_end) / 2
    margin = threshold * (abs(end - start) + abs(other_end - other_start))
    beyond = np.maximum(abs(offset) - margin, 0) * np.sign(offset)
    if (abs(beyond) < 1e-3).all():
        return ()
    x, y = beyond / np.linalg.norm(offset)
    return tuple(name for name, holds in zip(RELATIONS, (x < -0.5, x > 0.5, y < -0.5, y > 0.5), strict=True) if holds)


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The box around a mask [height, width]; zeros around an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _area(left: float, top: float, right: float, bottom: float) -> float:
    return max(right - left + 1, 0) * max(bottom - top + 1, 0)


def _named(wanted: Mapping[str, Any], place: int, every: Sequence[Mapping[str, Any]]) -> str:
    """An object that is asked for; one that it stands by is "it" where it was named just before."""
    words = [wanted["color"]] if "color" in wanted else []
    words += [wanted["class"], str(wanted["count"])]
    if "position" in wanted:
        relation, target = wanted["position"]
        words += [relation, "it" if target == place - 1 else every[target]["class"]]
    return " ".join(words)


def _too_few(wanted: Mapping[str, Any], objects: Sequence[Detection]) -> str:
    if len(objects) >= wanted["count"]:
        return ""
    return f"expected {wanted['class']}>={wanted['count']}, found {len(objects)}"


def _wrong_colour(wanted: Mapping[str, Any], seen: Sequence[str]) -> str:
    colour, number = wanted["color"], list(seen).count(wanted["color"])
    if number >= wanted["count"]:
        return ""
    listing = ", ".join(f"{list(seen).count(other)} {other}" for other in COLOURS if other in seen)
    return f"expected {colour} {wanted['class']}>={wanted['count']}, found {number} {colour}; and {listing}"


def _wrong_place(
    wanted: Mapping[str, Any], objects: Sequence[Detection], targets: Sequence[Sequence[Detection]], threshold: float
) -> str:
    relation, place = wanted["position"]
    if not targets[place]:
        return f"no target for {wanted['class']} to be {relation}"
    for found in objects:
        for target in targets[place]:
            seen = relations(found.box, target.box, threshold)
            if relation not in seen:
                return f"expected {wanted['class']} {relation} target, found {' and '.join(seen)} target"
    return ""
