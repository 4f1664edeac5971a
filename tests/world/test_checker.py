from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.world.checker import check, see
from corl_cli.world.drawing import BACKGROUND, draw
from corl_cli.world.items import world_item
from corl_cli.world.language import caption
from corl_cli.world.scenes import Placed, Thing

ITEMS = [world_item(split, 11, index) for split in ("train", "test") for index in range(500)]


def test_it_agrees_with_the_truth_on_1000_scenes():
    for item in ITEMS:
        verdict = check(item.triplet.prompt, item.triplet.image)
        assert verdict.correct, verdict.reason
        assert verdict.partial == 1
        assert tuple(Placed(seen.thing, seen.cell) for seen in verdict.found) == item.scene


def also_true(spec, scene):
    """Whether a prompt made for another scene is true of this one too, told from coordinates.

    Exactly then: the things are the same with their numbers; a named cell is the cell; and the first of a pair lies
    on the named side of the second.
    """
    if Counter(spec.things) != Counter(placed.thing for placed in scene):
        return False
    where = {placed.thing: ("right" in placed.cell, "bottom" in placed.cell) for placed in scene}
    if spec.cell:
        return scene[0].cell == spec.cell
    if spec.relation:
        (x, y), (other_x, other_y) = (where[thing] for thing in spec.things)
        sides = {"left of": x < other_x, "right of": x > other_x, "above": y < other_y, "below": y > other_y}
        return sides[spec.relation]
    return True


def test_it_rejects_the_prompts_of_other_scenes():
    """Each prompt is held against all of the 1000 scenes with its own things, which are easiest to mistake, and ten
    others.
    """
    alike = defaultdict(list)
    for item in ITEMS:
        alike[things(item.scene)].append(item)
    verdicts = Counter()
    for place, described in enumerate(ITEMS):
        same = alike[tuple(sorted(described.spec.things))]
        for shown in [*same, *ITEMS[place % 100 :: 100]]:
            verdict = check(caption(described.spec), shown.triplet.image)
            expected = also_true(described.spec, shown.scene)
            assert verdict.correct == expected, verdict.reason
            assert (verdict.partial == 1) == expected
            verdicts[expected, shown in same] += 1
    assert verdicts[False, False] > 8_000
    assert verdicts[False, True] > 2_000, "the same things in other places"
    assert verdicts[True, True] > 4_000


def things(scene):
    return tuple(sorted(placed.thing for placed in scene))


RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle"), Thing("blue", "square")
PAIR = (Placed(RED_CIRCLE, "top-left"), Placed(BLUE_SQUARE, "top-right"))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("a red circle left of a blue square", "a red circle right of a blue square"),  # place
        ("a red circle right of a blue square", "a red cross right of a blue square"),  # shape
        ("a red cross left of a blue square", "a green cross left of a blue square"),  # colour
        ("a red circle, a blue square and a green cross", "a red circle"),  # number
        ("a red circle", "two black triangles"),
    ],
)
def test_partial_credit_grows_with_what_is_right(better, worse):
    image = draw(PAIR)
    assert check(better, image).partial > check(worse, image).partial


def test_nothing_drawn_is_worth_nothing():
    blank = Image.new("RGB", (32, 32), BACKGROUND)
    assert see(blank) == ()
    assert check("a red circle", blank).partial == 0


@given(st.integers(0, 2**32), st.integers(0, 999))
def test_noise_and_garbage_are_judged_without_error(seed, index):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    verdict = check(ITEMS[index].triplet.prompt, Image.fromarray(pixels))
    assert not verdict.correct
    assert 0 <= verdict.partial < 1


@given(st.integers(0, 2**32), st.integers(0, 999))
def test_slight_noise_changes_no_verdict(seed, index):
    item = ITEMS[index]
    noise = np.random.default_rng(seed).normal(0, 4, (32, 32, 3))
    pixels = (np.asarray(item.triplet.image) + noise).clip(0, 255).astype(np.uint8)
    assert check(item.triplet.prompt, Image.fromarray(pixels)).correct


def test_a_half_drawn_object_is_unclear():
    pixels = np.array(draw((Placed(RED_CIRCLE, "top-left"),)))
    pixels[:8] = BACKGROUND
    verdict = check("a red circle", Image.fromarray(pixels))
    assert not verdict.correct
    assert 0 < verdict.partial < 1
    assert "unclear" in verdict.reason


def test_larger_images_are_read_too():
    large = draw(PAIR).resize((384, 384), Image.Resampling.NEAREST)
    assert check("a red circle left of a blue square", large).correct
