"""Prompts in GenEval's schema, the embedded world under its rules, and what a result says of itself."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.evaluation import Drawing
from corl_cli.eval import bind
from corl_cli.eval.base import Setting, Work
from corl_cli.eval.geneval import prompts
from corl_cli.eval.geneval.world import NUMBERS, Checker
from corl_cli.world.drawing import BACKGROUND, draw
from corl_cli.world.language import CONVERSE, caption, holds, is_true, parse_prompt
from corl_cli.world.scenes import CELLS, COLOURS, SHAPES, Thing, place, split_of

WORLD = {"prompts": "world", "detector": "checker"}


@pytest.fixture(scope="module")
def world():
    made = bind("geneval", WORLD, Setting())
    made.load(torch.device("cpu"))
    return made


@pytest.fixture(scope="module")
def items(world, tmp_path_factory):
    return world.items(tmp_path_factory.mktemp("result"))


# ---- GenEval's own prompts --------------------------------------------------------------------------------------


def test_the_prompts_are_genevals(tmp_path):
    items = bind("geneval", {}, Setting()).items(tmp_path)
    assert len(items) == 553
    assert Counter(item.group for item in items) == NUMBERS
    assert [item.id for item in items[:2]] == ["00000", "00001"]
    assert {item.samples for item in items} == {4}
    assert items[0].data == {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a photo of a bench",
    }
    known = {
        16: "a skateboard",
        88: "a horse and a computer keyboard",
        344: "a red backpack",
        400: "a bird left of a couch",
    }
    known |= {368: "a baseball glove below an umbrella", 504: "a yellow pizza and a green oven"}
    known |= {552: "a blue pizza and a yellow baseball glove"}
    for index, words in known.items():  # as others number them
        assert items[index].prompt == f"a photo of {words}"
    assert (prompts.CLASSES[0], prompts.CLASSES[15], prompts.CLASSES[79]) == ("person", "cat", "toothbrush")
    assert len(set(prompts.CLASSES)) == 80


def test_the_recipe_says_how_many_drawings(tmp_path):
    items = bind("geneval", {}, Setting(drawing=Drawing(images=2))).items(tmp_path)
    assert {item.samples for item in items} == {2}


def write(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return {"prompts": str(path)}


TWO_DOGS = {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "two dogs"}


def test_prompts_of_ones_own(tmp_path):
    made = bind("geneval", write(tmp_path / "mine.jsonl", TWO_DOGS, "\n", TWO_DOGS), Setting())
    assert [item.data for item in made.items(tmp_path)] == [TWO_DOGS, TWO_DOGS]
    assert made.requirements() == []
    assert made.protocol()["source"].startswith("mine.jsonl, 2 prompts, sha256 ")
    assert (made.variant, made.comparable) == ("own prompts", False)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "this is not JSON"),
        ([], "this is not a JSON object"),
        (TWO_DOGS | {"tag": "colours"}, "tag: input should be 'single_object'"),
        (TWO_DOGS | {"include": []}, "include: list should have at least 1 item"),
        (TWO_DOGS | {"include": [{"class": "dog", "count": 0}]}, "include.0.count: input should be greater"),
        (TWO_DOGS | {"include": [{"class": "ufo", "count": 1}]}, "the detector does not know the class 'ufo'"),
        (TWO_DOGS | {"exclude": [{"class": "ufo", "count": 1}]}, "the detector does not know the class 'ufo'"),
        (TWO_DOGS | {"include": [{"class": "dog", "count": 1, "color": "grey"}]}, "'grey' is none of the colours"),
        (TWO_DOGS | {"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]}, "'near' is none of"),
        (
            TWO_DOGS | {"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]},
            "include.0.position names include 0, which",
        ),
        (TWO_DOGS | {"includes": []}, "includes: extra inputs are not permitted"),
    ],
)
def test_a_wrong_line_is_named(line, fault, tmp_path):
    made = bind("geneval", write(tmp_path / "mine.jsonl", TWO_DOGS, line), Setting())
    with pytest.raises(CorlError) as caught:
        made.items(tmp_path)
    assert f"mine.jsonl, line 2: {fault}" in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_a_file_that_is_not_there_or_empty(tmp_path):
    made = bind("geneval", {"prompts": str(tmp_path / "none.jsonl")}, Setting())
    assert [need.state for need in made.requirements()] == ["missing"]
    with pytest.raises(CorlError, match="cannot be read: No such file"):
        made.items(tmp_path)
    with pytest.raises(CorlError, match="holds no prompts"):
        bind("geneval", write(tmp_path / "empty.jsonl"), Setting()).items(tmp_path)


@pytest.mark.parametrize("options", [{"detector": "checker"}, {"prompts": "world"}])
def test_a_detector_that_cannot_know_the_prompts_is_refused(options):
    with pytest.raises(UsageError, match="know"):
        bind("geneval", options, Setting())


def test_a_result_says_whose_prompts_and_detector(world):
    real = bind("geneval", {}, Setting())
    assert real.protocol()["source"].startswith("GenEval, 553 prompts, sha256 ")
    assert (
        real.scorer()
        | {
            "detector": "facebook/mask2former-swin-small-coco-instance",
            "clip": "openai/clip-vit-large-patch14",
            "threshold": 0.3,
            "counting_threshold": 0.9,
            "max_objects": 16,
            "max_overlap": 1.0,
            "position_threshold": 0.1,
        }
        == real.scorer()
    )
    assert (real.variant, real.comparable) == ("", True)
    assert not bind("geneval", {"threshold": 0.5}, Setting()).comparable
    assert world.protocol()["source"].startswith("embedded world, held out, 396 prompts, sha256 ")
    assert world.scorer()["detector"] == world.scorer()["colours"] == "checker of the embedded world"
    assert (world.variant, world.comparable) == ("world", False)
    assert [need.name for need in real.scorers()] == ["object detector", "CLIP model"]
    assert world.scorers() == []


# ---- the embedded world -----------------------------------------------------------------------------------------


def scene_of(prompt):
    """A scene of which the prompt is true, and which it would be drawn for."""
    spec = parse_prompt(prompt)
    if spec.cell:
        return place(list(spec.things), [CELLS.index(spec.cell)])
    if spec.relation:
        first, second = next(p for p in ((0, 1), (1, 0), (0, 2), (2, 0)) if holds(spec.relation, *p))
        return place(list(spec.things), [first, second])
    return place(list(spec.things), list(range(len(spec.things))))


def test_the_worlds_prompts_are_held_out_and_in_its_language(items):
    assert len({item.prompt for item in items}) == len(items)
    numbers = Counter(item.group for item in items)
    assert set(numbers) == set(NUMBERS)
    assert all(numbers[tag] <= NUMBERS[tag] for tag in NUMBERS)
    for item in items:
        scene = scene_of(item.prompt)
        assert is_true(parse_prompt(item.prompt), scene)
        assert caption(parse_prompt(item.prompt)) == item.prompt
        assert split_of(scene) == "test"
        assert item.data["tag"] == item.group


def test_the_worlds_prompts_are_in_genevals_schema(items, tmp_path):
    path = tmp_path / "world.jsonl"
    write(path, *(item.data for item in items))
    assert prompts.read(path, SHAPES, COLOURS) == [item.data for item in items]


def scored(world, folder, drawings):
    """Scores of drawings {item: scene or image}."""
    work = []
    for item, drawing in drawings:
        path = folder / f"{item.id}.png"
        (drawing if isinstance(drawing, Image.Image) else draw(drawing)).save(path)
        work.append(Work(item=item, sample=0, output=path))
    return list(world.score(work, folder))


def test_every_prompt_is_true_of_its_own_drawing(world, items, tmp_path):
    scores = scored(world, tmp_path, [(item, scene_of(item.prompt)) for item in items])
    assert {score.value for score in scores} == {1.0}
    assert all(score.reason.startswith("found what is asked: ") for score in scores)
    assert (
        scores[0].reason == f"found what is asked: {items[0].data['include'][0]['class']} 1"
    )  # neither colour nor cell


def test_nothing_is_true_of_an_empty_drawing(world, items, tmp_path):
    blank = Image.new("RGB", (32, 32), BACKGROUND)
    assert {score.value for score in scored(world, tmp_path, [(item, blank) for item in items])} == {0.0}


def other(name, names):
    """The next of the names."""
    return names[(names.index(name) + 1) % len(names)]


def spoilt(item):
    """A drawing that fails the item's tag and nothing else, and what is then wrong with it."""
    things = [placed.thing for placed in scene_of(item.prompt)]
    cells = [CELLS.index(placed.cell) for placed in scene_of(item.prompt)]
    wanted = item.data["include"][0]
    name, number = wanted["class"], wanted["count"]
    if item.group == "single_object":
        things[0] = Thing(things[0].colour, other(things[0].shape, SHAPES))
        return place(things, cells), f"expected {name}>=1, found 0"
    if item.group == "two_object":
        things = [thing for thing in things if thing.shape != name]
        return place(things, cells[:1]), f"expected {name}>=1, found 0"
    if item.group == "counting":
        extra = next(thing for thing in things if thing.shape == name)
        return place([*things, extra], [*cells, 3]), f"expected {name}<{number + 1}, found {number + 1}"
    if item.group == "colors":
        colour = other(things[0].colour, COLOURS)
        return (
            place([Thing(colour, name)], cells),
            f"expected {wanted['color']} {name}>=1, found 0 {wanted['color']}; and 1 {colour}",
        )
    if item.group == "position":
        placed, relation = item.data["include"][1]["class"], item.data["include"][1]["position"][0]
        return place(things[::-1], cells), f"expected {placed} {relation} target, found {CONVERSE[relation]} target"
    first, second = things
    swapped = [Thing(second.colour, first.shape), Thing(first.colour, second.shape)]
    return place(swapped, cells), "\n".join(
        f"expected {one['color']} {one['class']}>=1, found 0 {one['color']}; and 1 {two['color']}"
        for one, two in (item.data["include"], item.data["include"][::-1])
    )


def test_a_wrong_drawing_is_wrong_for_the_right_reason(world, items, tmp_path):
    wrong = [(item, *spoilt(item)) for item in items]
    scores = scored(world, tmp_path, [(item, scene) for item, scene, _ in wrong])
    assert {score.value for score in scores} == {0.0}
    assert [score.reason for score in scores] == [reason for _, _, reason in wrong]


def test_boxes_are_in_the_drawings_own_pixels():
    drawing = draw(place([Thing("red", "square"), Thing("blue", "circle")], [0, 3]))
    small, large = (Checker()(image, 0.3) for image in (drawing, drawing.resize((320, 320), Image.Resampling.NEAREST)))
    for name in ("square", "circle"):
        (thing,), (big,) = small[name], large[name]
        assert big.box.tolist() == [10 * edge for edge in thing.box.tolist()]
        assert big.mask.shape == (320, 320)
        assert (thing.colour, thing.score) == ("red" if name == "square" else "blue", 1.0)
    assert small["square"][0].box.tolist() == [3, 3, 13, 13]  # the square fills 10 of the shape's 12 pixels


def test_what_is_not_clear_does_not_count():
    drawing = draw(place([Thing("red", "square")], [0]))
    drawing.paste((40, 70, 220), (3, 3, 13, 8))  # half of it blue
    assert Checker()(drawing, 0.3) == {}


def test_the_self_test_of_the_checker_passes(world):
    checks = world.self_test()
    assert [check.passed for check in checks] == [True] * 3
    assert checks[0].name == "a drawing of a red circle left of a blue cross"
    assert checks[0].found == "red circle top-left, blue cross top-right"
