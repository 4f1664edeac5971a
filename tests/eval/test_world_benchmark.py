"""The embedded world's benchmark: what is asked, and right and wrong drawings and answers by hand."""

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corl_cli.core.evaluation import Drawing
from corl_cli.eval import bind
from corl_cli.eval.base import Item, Score, Setting, Work
from corl_cli.eval.world import attributes
from corl_cli.world.checker import check, see
from corl_cli.world.drawing import draw
from corl_cli.world.items import world_item
from corl_cli.world.language import caption
from corl_cli.world.scenes import CELLS, THINGS, Placed, Thing, split_of


def world(images=None, instructions=None, **options):
    said = {"instructions": instructions} if instructions else {}
    return bind("world", {"items": 24, **options}, Setting(drawing=Drawing(images=images), **said))


def scene(words):
    """A scene written as "red circle top-left, blue square bottom-right"."""
    parts = (part.split() for part in words.split(",") if part)
    return tuple(Placed(Thing(colour, shape), cell) for colour, shape, cell in parts)


def test_as_many_held_out_prompts_as_questions(tmp_path):
    items = world().items(tmp_path)
    world().prepare(items, tmp_path)
    drawings, answers = items[:24], items[24:]
    assert [item.id for item in drawings[:2]] == ["draw-0000", "draw-0001"]
    assert {item.task for item in drawings} == {"t2i"}
    assert {item.task for item in answers} == {"mm2t"}
    assert len({item.id for item in items}) == 48
    for index, (drawing, answer) in enumerate(zip(drawings, answers, strict=True)):
        held_out = world_item("test", 0, index)
        assert split_of(held_out.scene) == "test"
        assert drawing.prompt == caption(held_out.spec)
        assert answer.prompt == answer.data["question"] == held_out.question.text
        assert Image.open(tmp_path / answer.image).tobytes() == draw(held_out.scene).tobytes()
    assert {item.samples for item in items} == {1}
    assert json.loads(json.dumps([item.data for item in items])) == [item.data for item in items]


def test_only_the_images_of_chosen_questions_are_written(tmp_path):
    benchmark = world()
    benchmark.prepare([item for item in benchmark.items(tmp_path) if item.id[-1] == "7"], tmp_path)
    assert sorted(path.name for path in (tmp_path / "inputs").iterdir()) == ["answer-0007.png", "answer-0017.png"]


def test_groups_are_kinds_of_prompts_and_topics_of_questions(tmp_path):
    groups = Counter(item.group for item in world(items=120).items(tmp_path))
    assert {"draw: placed", "draw: pair", "draw: count", "draw: list"} == {g for g in groups if g.startswith("draw")}
    topics = {group for group in groups if group.startswith("answer")}
    assert topics == {f"answer: {t} ({k})" for t in ("count", "where", "colour", "shape") for k in ("mc", "oe")}


def test_the_seed_decides_what_is_asked(tmp_path):
    first, again, other = (world(seed=seed).items(tmp_path) for seed in (0, 0, 1))
    assert first == again
    assert [item.prompt for item in first] != [item.prompt for item in other]


def test_instructions_stand_after_the_question(tmp_path):
    instructions = {"mc": "Say a letter.", "oe": ""}
    items = world(instructions=instructions).items(tmp_path)[24:]
    for item in items:
        extra = "\nSay a letter." if item.data["answer_type"] == "mc" else ""
        assert item.prompt == item.data["question"] + extra


RIGHT = {"count": True, "colour": True, "shape": True}


@pytest.mark.parametrize(
    ("prompt", "drawn", "wrong"),
    [
        ("a red circle at the top-left", "red circle top-left", {}),
        ("a red circle at the top-left", "blue circle top-left", {"colour"}),
        ("a red circle at the top-left", "red square top-left", {"shape"}),
        ("a red circle at the top-left", "red circle top-right", {"position"}),
        ("a red circle at the top-left", "red circle top-left, red circle top-right", {"count"}),
        ("a red circle at the top-left", "blue square top-left, red circle top-right", {"count", "position"}),
        ("a red circle at the top-left", "", {"count", "colour", "shape", "position"}),
        ("three green crosses", "green cross top-left, green cross top-right, green cross bottom-left", {}),
        ("three green crosses", "green cross top-left, green cross top-right", {"count"}),
        ("two green crosses", "green cross top-left, blue square top-right", {"colour", "shape"}),
        ("a red circle left of a blue square", "red circle top-left, blue square top-right", {}),
        ("a red circle left of a blue square", "blue square top-left, red circle top-right", {"relation"}),
        ("a red circle left of a blue square", "red circle top-left, blue square bottom-left", {"relation"}),
        ("a red circle left of a blue square", "red circle top-left", {"count", "relation"}),
        ("a red circle left of a blue square", "blue circle top-left, red square top-right", {"colour"}),
        ("a red circle left of a blue square", "red circle top-left, blue circle top-right", {"shape"}),
        ("a red circle, a blue square and a black cross", "red circle top-left, blue square top-right", {"count"}),
    ],
)
def test_attributes_by_hand(prompt, drawn, wrong):
    found = attributes(prompt, see(draw(scene(drawn))))
    named = {*RIGHT} | {"position" for _ in [0] if " at the " in prompt} | {"relation" for _ in [0] if " of " in prompt}
    assert found == {name: name not in wrong for name in named}


def test_a_thing_that_is_half_drawn_has_its_colour_but_no_shape():
    image = draw(scene("red square top-left"))
    image.paste((245, 245, 245), (0, 0, 16, 9))
    found = attributes("a red square at the top-left", see(image))
    assert found == {"count": True, "colour": True, "shape": False, "position": True}


def test_a_thing_in_two_colours_has_its_shape_but_no_colour():
    image = draw(scene("red square top-left"))
    image.paste((40, 70, 220), (3, 3, 13, 8))
    found = attributes("a red square at the top-left", see(image))
    assert found == {"count": True, "colour": False, "shape": True, "position": True}


scenes = st.dictionaries(st.sampled_from(CELLS), st.sampled_from(THINGS[:6]), max_size=4).map(
    lambda things: tuple(Placed(things[cell], cell) for cell in CELLS if cell in things)
)


@settings(max_examples=60)
@given(st.integers(0, 500), scenes, st.booleans())
def test_all_attributes_are_right_exactly_when_the_checker_says_so(index, shown, own):
    item = world_item("test", 0, index)
    verdict = check(prompt := caption(item.spec), draw(item.scene if own else shown))
    assert all(attributes(prompt, verdict.found).values()) == verdict.correct
    assert verdict.correct or not own


def score_of(item, output, folder):
    [score] = world().score([Work(item=item, sample=0, output=output)], folder)
    return score


def test_a_right_and_a_wrong_drawing(tmp_path):
    item = world().items(tmp_path)[0]
    path = tmp_path / "0000.png"
    draw(world_item("test", 0, 0).scene).save(path)
    right = score_of(item, path, tmp_path)
    assert right.value == 1.0
    assert all(right.details["attributes"].values())
    assert right.reason.startswith(f"wanted {item.prompt}")
    Image.new("RGB", (32, 32), "white").save(path)
    assert score_of(item, path, tmp_path).value == 0.0
    path.write_bytes(b"")
    damaged = score_of(item, path, tmp_path)
    assert (damaged.value, damaged.reason) == (None, "the drawing cannot be read")


@pytest.mark.parametrize(
    ("answer_type", "gold", "said", "value"),
    [
        ("mc", "B", "<think> red </think> <answer> B </answer>", 1.0),
        ("mc", "B", "<think> B </think> <answer> A </answer>", 0.0),
        ("mc", "B", "<answer> green B </answer>", 1.0),
        ("mc", "B", "B", 1.0),
        ("mc", "B", "<think> it is B", 0.0),
        ("mc", "B", "", 0.0),
        ("oe", "top-left", "<think> </think> <answer> top-left </answer>", 1.0),
        ("oe", "top-left", "<think> top-left </think> <answer> top-right </answer>", 0.0),
        ("oe", "two", "<answer> 2 </answer>", 1.0),
        ("oe", "two", "<answer> two </answer> <answer> three </answer>", 0.0),
    ],
)
def test_right_and_wrong_answers(answer_type, gold, said, value, tmp_path):
    question = "what colour is the circle? red A green B" if answer_type == "mc" else "where is the red circle?"
    data = {"question": question, "answer": gold, "answer_type": answer_type}
    item = Item(id="answer-0000", task="mm2t", prompt=question, group="answer: colour (mc)", data=data)
    score = score_of(item, said, tmp_path)
    assert score.value == value
    assert score.reason


def test_every_item_solved_is_all_right(tmp_path):
    benchmark = world()
    items = benchmark.items(tmp_path)
    work = []
    for index, item in enumerate(items):
        known = world_item("test", 0, index % 24)
        path = tmp_path / f"{item.id}.png"
        draw(known.scene).save(path)
        work.append(Work(item=item, sample=0, output=path if item.task == "t2i" else known.solution))
    benchmark.load(torch.device("cpu"))
    scores = list(benchmark.score(work, tmp_path))
    assert {score.value for score in scores} == {1.0}
    numbers = benchmark.headline(items, scores, tmp_path)
    assert numbers.pop("stderr") == 0
    assert list(numbers.values()) == pytest.approx([1.0] * len(numbers))
    assert list(numbers)[:6] == [
        *("overall", "drawing", "answering", "answered multiple choice", "answered open-ended", "drawn colour")
    ]
    assert list(numbers)[6:] == ["drawn shape", "drawn count", "drawn position", "drawn relation"]


def scored(item, *values, **attributes):
    details = {"attributes": attributes} if attributes else {}
    return [Score(item=item.id, sample=n, value=value, details=details) for n, value in enumerate(values)]


def test_both_abilities_count_alike_and_every_item_within_them(tmp_path):
    benchmark = world(images=3)
    items = benchmark.items(tmp_path)
    assert {item.samples for item in items[:24]} == {3}
    assert benchmark.weights([item.group for item in items]) is None
    first, second, third = items[:3]
    mc, oe = (next(item for item in items if item.data.get("answer_type") == kind) for kind in ("mc", "oe"))
    other = next(item for item in items if item.data.get("answer_type") == "oe" and item != oe)
    scores = [*scored(first, 1, 0, 0), *scored(second, 1), *scored(third, 0, 0), *scored(mc, 1), *scored(oe, 0)]
    numbers = benchmark.headline(items, [*scores, *scored(other, 0)], tmp_path)
    assert numbers["drawing"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert numbers["answering"] == pytest.approx(1 / 3)
    assert (numbers["answered multiple choice"], numbers["answered open-ended"]) == (1, 0)
    assert numbers["overall"] == pytest.approx((4 / 9 + 1 / 3) / 2)


@pytest.mark.parametrize(("task", "there"), [("t2i", "drawing"), ("mm2t", "answering")])
def test_one_ability_alone_is_no_overall_number(task, there, tmp_path):
    benchmark = world()
    items = benchmark.items(tmp_path)
    scores = [score for item in items for score in scored(item, 1.0 if item.task == task else None)]
    numbers = benchmark.headline(items, scores, tmp_path)
    assert math.isnan(numbers["overall"])
    assert numbers[there] == 1
    assert not {"drawing", "answering", "drawn colour"} & (numbers.keys() - {there})


def test_shares_of_attributes_are_over_the_prompts_that_name_them(tmp_path):
    benchmark = world()
    items = benchmark.items(tmp_path)
    first, second, third = items[:3]
    scores = [
        *scored(first, 0.0, count=True, position=False),
        *scored(second, 0.0, 0.0, count=False, position=True),
        *scored(third, 0.0, count=True),
    ]
    numbers = benchmark.headline(items, scores, tmp_path)
    assert numbers.keys() == {"overall", "stderr", "drawing", "drawn count", "drawn position"}
    assert (numbers["drawn count"], numbers["drawn position"]) == (pytest.approx(2 / 3), 0.5)


def test_the_self_test_passes_and_a_result_names_the_world():
    benchmark = world()
    assert [check.passed for check in benchmark.self_test()] == [True, True]
    assert "embedded world" in json.dumps(benchmark.protocol())
    assert "embedded world" in benchmark.scorer()["drawings"]
    assert benchmark.requirements() == benchmark.scorers() == []
    assert not benchmark.comparable
