"""spice_tuples.json: tuple sets scored by SPICE's own classes (pycocoevalcap 1.2), with and without WordNet synsets."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.scene_graph import SceneGraphs, explain, f_score, parse
from corl_cli.world.items import world_item
from corl_cli.world.language import CONVERSE, Spec, caption
from corl_cli.world.scenes import THINGS

CASES = json.loads((Path(__file__).parent / "spice_tuples.json").read_text(encoding="utf-8"))
WORDS = st.sampled_from(["cat", "cats", "dog", "photo", "movie", "picture", "red", "two", "2"])
TUPLES = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(tuple), max_size=6)


def agreement(candidate: str, reference: str) -> float:
    return f_score(parse(candidate).tuples(), parse(reference).tuples())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_agrees_with_spice_on_tuples(case):
    candidate, reference = ([tuple(words) for words in case[side]] for side in ("candidate", "reference"))
    assert f_score(candidate, reference, synonyms=False) == pytest.approx(case["no_synsets"]["f"])
    official = case["spice"]
    if official["f"] <= 1:
        assert f_score(candidate, reference) == pytest.approx(official["f"])
    else:  # many candidates shared one reference there; here one of them does
        assert f_score(candidate, reference) == pytest.approx(2 / (len(candidate) + len(reference)))


@pytest.mark.parametrize(
    ("text", "objects", "attributes", "relations"),
    [
        ("a red circle at the top-left", ["circle"], [("circle", "red"), ("circle", "top-left")], []),
        ("three red crosses", ["cross"], [("cross", "three"), ("cross", "red")], []),
        (
            "a red circle, a blue square and a green cross",
            ["circle", "square", "cross"],
            [("circle", "red"), ("square", "blue"), ("cross", "green")],
            [],
        ),
        (
            "A blue square to the right of a red circle.",
            ["square", "circle"],
            [("square", "blue"), ("circle", "red")],
            [("circle", "square", "left of")],
        ),
        (
            "a red circle above a blue circle",
            ["circle", "circle"],
            [("circle", "red"), ("circle", "blue")],
            [("circle", "circle", "above", "red", "blue")],
        ),
        (
            "two dogs playing with a frisbee in the grass",
            ["dog", "frisbee", "grass"],
            [("dog", "two"), ("dog", "play")],
            [("dog", "frisbee", "with"), ("frisbee", "grass", "in")],
        ),
        (
            "a cat and a dog sitting on a wooden bench",
            ["cat", "dog", "bench"],
            [("dog", "sit"), ("bench", "wooden")],
            [("cat", "bench", "on"), ("dog", "bench", "on")],
        ),
        ("the cat is black and white", ["cat"], [("cat", "black"), ("cat", "white")], []),
        ("a photo of an orange under a table", ["orange", "table"], [], [("table", "orange", "above")]),
        ("a man riding a wave", ["man", "wave"], [], [("man", "wave", "ride")]),
        ("", [], [], []),
    ],
)
def test_parses(text, objects, attributes, relations):
    graph = parse(text)
    assert graph.objects == objects
    assert graph.attributes == attributes
    assert graph.relations == relations


@given(st.permutations(THINGS).map(lambda things: things[:2]), st.sampled_from(sorted(CONVERSE)))
def test_a_relation_told_from_either_side_is_one(things, relation):
    first, second = things
    here = caption(Spec((first, second), relation=relation))
    there = caption(Spec((second, first), relation=CONVERSE[relation]))
    assert agreement(here, there) == 1
    assert agreement(here, caption(Spec((second, first), relation=relation))) < 1
    assert agreement("a cat next to a dog", "a dog beside a cat") == 1


@pytest.mark.parametrize("index", range(40))
def test_captions_of_the_world_agree_with_themselves_in_any_order_only(index):
    spec = world_item("train", 0, index).spec
    assert agreement(caption(spec), caption(spec)) == 1
    if len(set(spec.things)) == 3:
        things = random.Random(index).sample(spec.things, 3)
        assert agreement(caption(spec), caption(Spec(tuple(things)))) == 1
    other = world_item("train", 0, index + 1).spec
    if caption(other) != caption(spec):
        assert agreement(caption(spec), caption(other)) < 1


def test_partial_agreement_by_hand():
    # circle, circle red | square, square red: nothing matches
    assert agreement("a red circle", "a red square") == 0
    # candidate (circle), (circle red); reference (circle), (circle blue): 1 of 2 and 1 of 2
    assert agreement("a red circle", "a blue circle") == pytest.approx(0.5)
    # candidate has 2 tuples, both in the reference's 3
    assert agreement("a red circle", "three red circles") == pytest.approx(2 * 2 / 5)


def test_equal_things_are_counted():
    assert agreement("a red cross and a red cross", "two red crosses") == 1
    assert agreement("a red cross, a green cross and a red cross", "a green cross and two red crosses") == 1
    # cross, two, red match; the relation is extra
    assert agreement("a red cross above a red cross", "two red crosses") == pytest.approx(2 * 3 / 7)
    assert agreement("a red cross", "two red crosses") < 1


@given(TUPLES, TUPLES, st.randoms(), st.booleans())
def test_f_score_is_bounded_symmetric_and_blind_to_order(candidate, reference, rng, synonyms):
    score = f_score(candidate, reference, synonyms=synonyms)
    assert 0 <= score <= 1
    assert f_score(reference, candidate, synonyms=synonyms) == pytest.approx(score)
    shuffled = rng.sample(candidate, len(candidate)), rng.sample(reference, len(reference))
    assert f_score(*shuffled, synonyms=synonyms) == pytest.approx(score)
    assert f_score(candidate, candidate, synonyms=synonyms) == (1 if candidate else 0)


def test_repeated_tuples_need_repeated_partners():
    # two cats against one: 1 of 2 and 1 of 1
    assert f_score([("cat",), ("cat",)], [("cat",)]) == pytest.approx(2 / 3)


@given(st.text(max_size=300))
def test_any_text_parses(text):
    tuples = parse(text).tuples()
    assert f_score(tuples, tuples) == (1 if tuples else 0)


def test_explains_what_matched():
    candidate, reference = parse("a red circle"), parse("a blue circle")
    assert explain(candidate, reference) == {"matched": "circle", "missing": "blue circle", "extra": "red circle"}
    assert explain(parse(""), parse("")) == {"matched": "nothing", "missing": "nothing", "extra": "nothing"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("two red squares", "square, two squares, red square"),
        ("one man and twelve buses", "man, bus, twelve buses"),
        ("a square right of a circle", "square, circle, square right of circle"),
        ("a circle left of a square", "circle, square, circle left of square"),
        ("a red cross below a blue cross", "cross, cross, red cross, blue cross, red cross below blue cross"),
        ("a dog next to a cat", "dog, cat, dog next to cat"),
    ],
)
def test_phrases_say_it_as_the_prompt_does(text, said):
    prompt = parse(text)
    assert explain(prompt, prompt)["matched"] == explain(parse(""), prompt)["missing"] == said
    assert len(prompt.phrases()) == len(prompt.tuples())


def test_a_relation_told_from_the_other_side_is_matched_in_the_prompts_words():
    lines = explain(parse("a circle left of a square"), parse("a square right of a circle"))
    assert lines == {"matched": "square, circle, square right of circle", "missing": "nothing", "extra": "nothing"}


def test_the_measure_scores_in_order_and_shows_its_tuples():
    measure = SceneGraphs(synonyms=False)
    prompts = ["a red circle", "a blue square", "the", ""]
    found = measure(prompts, ["a red circle", "a red square", "a red circle", "a red circle"])
    assert found.values[:2].tolist() == pytest.approx(
        [1, 0.5]
    )  # square of (square, blue square) and (square, red square)
    assert found.values[2:].isnan().all()
    assert found.details[0] == {"matched": "circle, red circle", "missing": "nothing", "extra": "nothing"}
    assert found.details[2:] == [{"failed": "the prompt names nothing"}, {"failed": "the prompt is empty"}]
