import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError
from corl_cli.world.items import world_item
from corl_cli.world.language import (
    CONVERSE,
    Spec,
    ask,
    canonical,
    caption,
    is_true,
    parse_prompt,
    solve,
    specify,
)
from corl_cli.world.scenes import CELLS, COLOURS, MIX, SHAPES, THINGS, Placed, Thing, sample_scene

RED_CIRCLE, BLUE_SQUARE, GREEN_CROSS = Thing("red", "circle"), Thing("blue", "square"), Thing("green", "cross")

things = st.sampled_from(THINGS)
specs = st.one_of(
    st.builds(lambda thing: Spec((thing,)), things),
    st.builds(lambda thing, cell: Spec((thing,), cell=cell), things, st.sampled_from(CELLS)),
    st.builds(
        lambda pair, relation: Spec(tuple(pair), relation=relation),
        st.lists(things, min_size=2, max_size=2, unique=True),
        st.sampled_from(sorted(CONVERSE)),
    ),
    st.builds(lambda thing, number: Spec((thing,) * number), things, st.sampled_from((2, 3))),
    st.builds(lambda several: Spec(tuple(several)), st.lists(things, min_size=3, max_size=3, unique=True)),
)


@given(specs)
def test_parse_prompt_inverts_caption(spec):
    assert parse_prompt(caption(spec)) == spec


@pytest.mark.parametrize(
    ("prompt", "spec"),
    [
        ("a red circle", Spec((RED_CIRCLE,))),
        ("a red circle at the top-left", Spec((RED_CIRCLE,), cell="top-left")),
        ("a red circle above a blue square", Spec((RED_CIRCLE, BLUE_SQUARE), relation="above")),
        ("three green crosses", Spec((GREEN_CROSS,) * 3)),
        ("a red circle, a blue square and a green cross", Spec((RED_CIRCLE, BLUE_SQUARE, GREEN_CROSS))),
        ("a red circle , a blue square, and  a green cross", Spec((RED_CIRCLE, BLUE_SQUARE, GREEN_CROSS))),
    ],
)
def test_prompts_mean_what_they_say(prompt, spec):
    assert parse_prompt(prompt) == spec


@pytest.mark.parametrize("prompt", ["", "a cat", "a red circle on a blue square", "five red circles", "red circle"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(CorlError):
        parse_prompt(prompt)


@given(st.integers(0, 2**32), st.sampled_from(sorted(MIX)))
def test_prompts_and_captions_are_true_of_their_scene(seed, kind):
    rng = random.Random(seed)
    scene = sample_scene(rng, kind)
    assert is_true(specify(kind, scene, rng), scene)
    assert is_true(canonical(scene), scene)


def test_canonical_captions_follow_reading_order():
    def said(*placed):
        return caption(canonical(tuple(Placed(thing, cell) for thing, cell in placed)))

    assert said((RED_CIRCLE, "top-right")) == "a red circle at the top-right"
    assert said((RED_CIRCLE, "top-left"), (BLUE_SQUARE, "top-right")) == "a red circle left of a blue square"
    assert said((BLUE_SQUARE, "top-right"), (RED_CIRCLE, "bottom-right")) == "a blue square above a red circle"
    assert said((RED_CIRCLE, "top-left"), (RED_CIRCLE, "bottom-right")) == "two red circles"


def test_a_relation_is_false_the_other_way_round():
    scene = (Placed(RED_CIRCLE, "top-left"), Placed(BLUE_SQUARE, "top-right"))
    true = {relation for relation in CONVERSE if is_true(Spec((RED_CIRCLE, BLUE_SQUARE), relation=relation), scene)}
    assert true == {"left of"}


def test_answers_agree_with_the_scene():
    for index in range(400):
        item = world_item("train", 9, index)
        question, scene = item.question, item.scene
        if question.topic == "count":
            assert question.answer == ("one", "two", "three")[len(scene) - 1]
        else:
            fitting = {
                {"where": placed.cell, "colour": placed.thing.colour, "shape": placed.thing.shape}[question.topic]
                for placed in scene
                if set(re.findall(r"\w+", question.words)) & {*COLOURS, *SHAPES} <= set(placed.thing)
            }
            assert fitting == {question.answer}


def test_options_hold_the_answer_once():
    for index in range(0, 200, 2):
        item = world_item("train", 2, index)
        pairs = {letter: word for word, letter in re.findall(r"([\w-]+) ([A-D])", item.question.text)}
        assert sorted(pairs) == ["A", "B", "C", "D"]
        assert len(set(pairs.values())) == 4
        assert pairs[item.triplet.answer] == item.question.answer


def test_a_solution_says_what_is_seen_then_concludes_then_answers():
    scene = (Placed(RED_CIRCLE, "top-left"), Placed(BLUE_SQUARE, "bottom-right"))
    rng = random.Random(0)
    question = next(q for q in iter(lambda: ask(scene, rng, multiple_choice=False), None) if q.key == "red circle")
    assert solve(scene, question) == (
        "<think> red circle top-left, blue square bottom-right is red circle top-left </think> "
        "<answer> top-left </answer>"
    )
