"""GenEval's rules agree with the original scorer on every recorded case, and hold what they promise."""

import json
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.eval.base import Item, Score, Setting
from corl_cli.eval.geneval import GenEval, GenEvalOptions
from corl_cli.eval.geneval.colours import CANVAS, TEMPLATES, cut
from corl_cli.eval.geneval.prompts import TAGS
from corl_cli.eval.geneval.rules import COLOURS, Detection, Rules, asked, box_of, iou, judge, keep, relations
from corl_cli.eval.store import Store
from corl_cli.eval.summary import summarise

RECORDED = json.loads((Path(__file__).parent / "cases" / "geneval.json").read_text())
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def found_in(case):
    """The case's detections by class, masks as filled rectangles."""
    found = {}
    for thing in case["detections"]:
        mask = np.zeros(case["image_size"][::-1], bool)
        left, top, right, bottom = (int(edge) for edge in thing.get("mask", thing["box"]))
        mask[top:bottom, left:right] = True
        detection = Detection(np.array(thing["box"], np.float32), thing["score"], mask)
        found.setdefault(thing["class"], []).append(detection)
    return found


def lines(reason):
    """The lines of a reason; two relations that were found as a set, for the original leaves their order open."""
    return [
        (re.sub(r"found .* target", "", line), frozenset(re.findall("left of|right of|above|below", line)))
        for line in reason.split("\n")
    ]


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_recorded_images(case):
    asked, answers = [], iter(case["color_answers"])

    def paint(name, objects):
        asked.append((name, objects))
        return next(answers)

    verdict = judge(case["metadata"], found_in(case), paint, Rules(**case["options"]))
    assert verdict.correct == case["expected"]["correct"]
    assert lines(verdict.reason) == lines(case["expected"]["reason"])
    kept = {
        name: [[*thing.box.tolist(), float(np.float32(thing.score))] for thing in things]
        for name, things in verdict.kept.items()
    }
    assert kept == case["expected"]["kept"]
    assert list(answers) == []
    calls = case["color_calls"]
    assert len(asked) * 2 == len(calls)
    for (name, objects), texts, crops in zip(asked, calls[::2], calls[1::2], strict=True):
        assert [template.format(colour="{c}", name=name) for template in TEMPLATES] == texts["templates"]
        assert list(COLOURS) == texts["classes"]
        seen = [cut(picture(case["image_size"]), thing) for thing in objects]
        assert [
            {"size": list(crop.size), "mode": crop.mode, "sha256": sha256(crop.tobytes()).hexdigest()} for crop in seen
        ] == crops["crops"]


def picture(size):
    """The recorded image: r = 2x, g = 2y, b = x + y."""
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([2 * x, 2 * y, x + y], -1).astype(np.uint8))


def test_defaults_are_the_originals():
    defaults = RECORDED["defaults"]
    assert {name: defaults[name] for name in Rules.model_fields} == Rules().model_dump()
    assert (defaults["bgcolor"], defaults["crop"]) == (CANVAS, "1")
    assert list(COLOURS) == RECORDED["colors"]


@pytest.mark.parametrize("case", RECORDED["relative_position"])
def test_recorded_relations(case):
    boxes = (np.array(case[name], np.float32) for name in "ab")
    assert sorted(relations(*boxes)) == sorted(case["relations"])


@pytest.mark.parametrize("case", RECORDED["iou"])
def test_recorded_overlaps(case):
    assert iou(case["a"], case["b"]) == case["iou"]


def test_recorded_summary(tmp_path):
    """Every number that the original prints."""
    summary = RECORDED["summary"]
    own = {}
    for row in summary["rows"]:
        own.setdefault((row["prompt"], row["tag"]), []).append(float(row["correct"]))
    items = [Item(id=name, task="t2i", prompt=name, group=tag, samples=len(own[name, tag])) for name, tag in own]
    store = Store(tmp_path)
    keys = ("benchmark", "variant", "checkpoint", "sampling", "prompts", "limit", "items_of")
    store.create(dict.fromkeys(keys), items, "")
    with store.scoring(0) as append:
        for (name, _), values in own.items():
            for sample, value in enumerate(values):
                append(Score(item=name, sample=sample, value=value))
    benchmark = GenEval("geneval", GenEvalOptions(prompts="world", detector="checker"), Setting())
    result = summarise(benchmark, store, allow_partial=False)
    printed = dict(re.findall(r"(\w+) += ([\d.]+)%", summary["stdout"]))
    assert {group["name"]: f"{100 * group['mean']:.2f}" for group in result["groups"]} == printed
    assert set(printed) == set(TAGS)
    assert f"avg. over tasks): {result['overall']:.5f}" in summary["stdout"]
    assert f"% correct images: {100 * result['metrics']['correct images']:.2f}%" in summary["stdout"]
    assert f"% correct prompts: {100 * result['metrics']['correct prompts']:.2f}%" in summary["stdout"]


# ---- beyond the recorded ----------------------------------------------------------------------------------------

edges = st.integers(0, 90)
sizes = st.integers(1, 60)
boxes = st.builds(lambda x, y, w, h: np.array([x, y, x + w, y + h], np.float32), edges, edges, sizes, sizes)
scores = st.integers(0, 100).map(lambda hundredths: hundredths / 100)
objects = st.lists(st.builds(Detection, boxes, scores), max_size=20)


def never(name, things):
    raise AssertionError("no colour was asked for")


@given(boxes, boxes, st.integers(-50, 50))
def test_a_relation_is_the_converse_of_its_converse(box, other, shift):
    there, back = relations(box, other), relations(other, box)
    assert sorted(CONVERSE[name] for name in there) == sorted(back)
    assert relations(box + shift, other + shift) == there
    assert not {"left of", "right of"} <= set(there)


@given(objects, scores, st.integers(1, 5))
def test_the_surest_above_the_threshold_are_kept(things, threshold, most):
    kept = [thing.score for thing in keep(things, threshold, Rules(max_objects=most))]
    above = sorted((thing.score for thing in things if thing.score > threshold), reverse=True)
    assert kept == above[:most]


@given(objects)
def test_none_of_two_that_are_kept_overlap_too_much(things):
    kept = keep(things, 0.3, Rules(max_overlap=0.5))
    pairs = [(one, other) for index, one in enumerate(kept) for other in kept[:index]]
    assert all(iou(one.box, other.box) < 0.5 for one, other in pairs)


@given(objects, objects, st.integers(1, 3))
def test_more_objects_only_harm_where_some_are_excluded(things, others, count):
    wanted = {"tag": "two_object", "include": [{"class": "dog", "count": count}]}
    alone = judge(wanted, {"dog": things}, never, Rules())
    both = judge(wanted, {"dog": things + others, "cat": others}, never, Rules())
    assert both.correct >= alone.correct
    strict = judge(wanted | {"exclude": [{"class": "dog", "count": count}]}, {"dog": things}, never, Rules())
    assert not strict.correct


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 8), st.integers(1, 8))
def test_a_box_surrounds_its_mask(left, top, width, height):
    mask = np.zeros((16, 16), bool)
    mask[top : top + height, left : left + width] = True
    assert box_of(mask).tolist() == [left, top, left + width, top + height]
    assert box_of(np.zeros((4, 4), bool)).tolist() == [0, 0, 0, 0]


def test_a_thing_cannot_stand_by_a_target_that_is_not_right():
    wanted = {
        "tag": "position",
        "include": [
            {"class": "cat", "count": 1},
            {"class": "dog", "count": 1, "position": ["left of", 0]},
        ],
    }
    dog = Detection(np.array([0, 0, 9, 9], np.float32), 0.9)
    verdict = judge(wanted, {"dog": [dog]}, never, Rules())
    assert verdict.reason.split("\n") == ["expected cat>=1, found 0", "no target for dog to be left of"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"include": [{"class": "cross", "count": 1}]}, "cross 1"),
        (
            {
                "include": [
                    {"class": "circle", "count": 1, "color": "red"},
                    {"class": "cup", "count": 2, "color": "blue"},
                ]
            },
            "red circle 1, blue cup 2",
        ),
        (
            {"include": [{"class": "square", "count": 1}, {"class": "cup", "count": 1, "position": ["left of", 0]}]},
            "square 1, cup 1 left of it",
        ),
        (
            {
                "include": [
                    *({"class": name, "count": 1} for name in "ab"),
                    {"class": "c", "count": 1, "position": ["above", 0]},
                ]
            },
            "a 1, b 1, c 1 above a",
        ),
        ({"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}, "dog 2, not dog 3"),
    ],
)
def test_what_is_asked_in_words(wanted, words):
    assert asked(wanted) == words
