import random
from itertools import permutations

import pytest

from corl_cli.world.items import WorldTriplets, world_item, world_triplet
from corl_cli.world.language import parse_prompt
from corl_cli.world.scenes import CELLS, THINGS, Placed, Thing, sample_scene, split_of


def content(scene):
    """What the split may depend on, written independently of the package."""
    things = sorted(placed.thing for placed in scene)
    return (*things, scene[0].cell) if len(scene) == 1 else tuple(things)


def test_no_test_scene_or_prompt_is_in_train():
    train = [world_item("train", 0, index) for index in range(3000)]
    test = [world_item("test", 0, index) for index in range(1000)]
    assert not {content(item.scene) for item in train} & {content(item.scene) for item in test}
    assert not {tuple(sorted(item.spec.things)) for item in train if len(item.scene) > 1} & {
        tuple(sorted(item.spec.things)) for item in test
    }
    assert not {item.triplet.prompt for item in train} & {item.triplet.prompt for item in test}


def test_a_test_prompt_names_a_cell_or_several_objects():
    specs = [world_item("test", 3, index).spec for index in range(500)]
    assert all(spec.cell or len(spec.things) > 1 for spec in specs)


def test_the_split_of_several_objects_ignores_where_they_are():
    rng = random.Random(0)
    for _ in range(100):
        scene = sample_scene(rng, "list")
        things = [placed.thing for placed in scene]
        moved = [
            tuple(Placed(thing, cell) for thing, cell in zip(order, CELLS, strict=False))
            for order in permutations(things)
        ]
        assert {split_of(other) for other in moved} == {split_of(scene)}


def test_about_15_percent_of_scenes_are_held_out():
    pairs = [(a, b) for a in THINGS for b in THINGS if a < b]
    held_out = sum(split_of((Placed(a, "top-left"), Placed(b, "top-right"))) == "test" for a, b in pairs)
    assert 0.08 < held_out / len(pairs) < 0.22


def test_items_come_from_split_seed_and_index_alone():
    triplets = WorldTriplets("test", 20, seed=5)
    again = world_triplet("test", 5, 7)
    assert triplets[7].id == again.id == "world-test-5-7"
    assert (triplets[7].prompt, triplets[7].question, triplets[7].answer) == (
        again.prompt,
        again.question,
        again.answer,
    )
    assert triplets[7].image.tobytes() == again.image.tobytes()
    assert world_triplet("test", 6, 7).image.tobytes() != again.image.tobytes()


def test_the_hash_and_the_generator_are_the_same_on_every_machine():
    item = world_item("train", 0, 0)
    assert item.triplet.prompt == "a yellow square, a red square and a yellow triangle"
    assert item.question.text == "what colour is the triangle? purple A black B red C yellow D"
    assert split_of((Placed(Thing("red", "circle"), "top-left"),)) == "train"


def test_triplets_are_a_sequence():
    triplets = WorldTriplets("train", 6, seed=1)
    assert len(triplets) == 6
    assert triplets[-1].id == "world-train-1-5"
    assert [t.id for t in triplets[4:]] == ["world-train-1-4", "world-train-1-5"]
    assert [t.answer_type for t in triplets] == ["mc", "oe"] * 3
    with pytest.raises(IndexError):
        triplets[6]


def test_every_prompt_of_the_world_is_drawn_in_its_own_words():
    for triplet in WorldTriplets("test", 50):
        parse_prompt(triplet.prompt)
