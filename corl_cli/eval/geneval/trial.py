"""Self-tests of a detector and of colours: what they say of images in which the objects are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from corl_cli.eval.base import Check
from corl_cli.eval.geneval import colours as clip_colours
from corl_cli.eval.geneval import detector as mask2former
from corl_cli.eval.geneval.colours import ClipColours
from corl_cli.eval.geneval.detector import Mask2Former
from corl_cli.eval.geneval.rules import Detection, Rules, box_of, iou
from corl_cli.eval.geneval.world import Checker
from corl_cli.world.drawing import draw
from corl_cli.world.language import canonical, caption
from corl_cli.world.scenes import CELLS, Scene, Thing, place

PHOTOGRAPH = Path(__file__).with_name("cat.jpg")  # 451 x 300; see NOTICE
CAT = (0.0, 0.0, 400.0, 300.0)  # where it is, by eye
COVERED = 0.7  # IoU with that box
SURE = 0.9  # no other class may be found with a score above this
PATCHES = {"red": (225, 25, 25), "green": (25, 160, 45), "blue": (25, 45, 220), "yellow": (250, 220, 20)}


def try_detector(detector: Mask2Former, rules: Rules) -> list[Check]:
    """Whether the detector finds the cat of a photograph, where it is, and nothing else with certainty."""
    with Image.open(PHOTOGRAPH) as opened:
        found = detector(opened.convert("RGB"), 0.0)
    best = {name: max(objects, key=lambda thing: thing.score) for name, objects in found.items()}
    ranking = sorted(best, key=lambda name: -best[name].score)[:3]
    listing = ", ".join(f"{name} {best[name].score:.2f}" for name in ranking) or "nothing"
    cat = best.get("cat")
    cat = cat if cat is not None and cat.score > rules.threshold else None
    overlap = iou(cat.box, CAT) if cat else 0.0
    others = [name for name, thing in best.items() if name != "cat" and thing.score > SURE]
    instead = f"Set detector to {mask2former.DEFAULT}, or to another Mask2Former of COCO's instances"
    return [
        Check(
            name="the cat of a photograph is found",
            passed=cat is not None,
            found=listing,
            remedy=f"{instead}: this checkpoint is untrained, incomplete, or has its classes in another order.",
        ),
        Check(
            name="the cat is where it is",
            passed=overlap >= COVERED,
            found=f"box {[round(edge) for edge in cat.box.tolist()]}, IoU {overlap:.2f}" if cat else "no cat",
            remedy=f"{instead}: it was trained on images of another size, or its masks are no good.",
        ),
        Check(
            name="nothing else is found with certainty",
            passed=not others,
            found=", ".join(others) or "nothing else",
            remedy=f"{instead}: a detector that sees what is not there makes every prompt right.",
        ),
    ]


def try_colours(colours: ClipColours) -> list[Check]:
    """Whether CLIP names the colours of plain balls."""
    seen = {colour: colours(*_ball(rgb))[0] for colour, rgb in PATCHES.items()}
    return [
        Check(
            name="the colours of plain balls are named",
            passed=all(colour == answer for colour, answer in seen.items()),
            found=", ".join(f"{colour} ball: {answer}" for colour, answer in seen.items()),
            remedy=f"Set clip to {clip_colours.DEFAULT}, or to another CLIP with its own tokenizer and processor.",
        )
    ]


def try_checker(checker: Checker) -> list[Check]:
    """Whether the world's checker finds exactly the objects of drawings, in their colours and cells."""
    red, blue = Thing("red", "circle"), Thing("blue", "cross")
    scenes = (place([red, blue], [0, 1]), place([blue] * 3, [0, 1, 3]), place([red], [2]))
    return [_as_drawn(checker, scene) for scene in scenes]


def _as_drawn(checker: Checker, scene: Scene) -> Check:
    """Whether the objects found in a drawing of the scene are those of the scene."""
    image = draw(scene)
    found = checker(image, 0.0)
    listing = [(thing.colour, shape, _cell(thing, image)) for shape, objects in found.items() for thing in objects]
    return Check(
        name=f"a drawing of {caption(canonical(scene))}",
        passed=sorted(listing) == sorted((*placed.thing, placed.cell) for placed in scene),
        found=", ".join(" ".join(words) for words in listing) or "nothing",
        remedy="The checker or the drawing of the embedded world was changed: install corl anew.",
    )


def _cell(thing: Detection, image: Image.Image) -> str:
    """The cell that the middle of the object's box lies in."""
    left, top, right, bottom = thing.box.tolist()
    return CELLS[2 * (top + bottom > image.height) + (left + right > image.width)]


def _ball(rgb: tuple[int, int, int]) -> tuple[Image.Image, str, list[Detection]]:
    """A plain ball on white, and its detection, as ClipColours is asked."""
    shape = Image.new("1", (160, 160))
    ImageDraw.Draw(shape).ellipse((20, 20, 139, 139), fill=1)
    image = Image.new("RGB", shape.size, "white")
    image.paste(rgb, mask=shape)
    mask = np.asarray(shape)
    return image, "sports ball", [Detection(box_of(mask), 1.0, mask)]
