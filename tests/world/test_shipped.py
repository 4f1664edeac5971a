"""The shipped tiny Janus draws and sees, and is imperfect enough to learn."""

import json

import pytest

from corl_cli.core.types import Sampling
from corl_cli.models.janus import JanusPolicy
from corl_cli.world import checkpoint
from corl_cli.world.checker import check
from corl_cli.world.items import WorldTriplets, world_item
from corl_cli.world.warmup import measure


@pytest.fixture(scope="module")
def shipped():
    return JanusPolicy.load(checkpoint())


def test_it_draws_answers_and_captions_held_out_items(shipped):
    ability = measure(shipped, [world_item("test", 17, index) for index in range(96)])
    assert 0.3 < ability.draw < 0.75
    assert 0.4 < ability.oe < 0.95
    assert 0.35 < ability.mc < 0.8
    assert ability.caption > 0.65


def test_its_drawings_differ_within_a_group(shipped):
    triplets = WorldTriplets("test", 12, seed=17)[:]
    rollout = shipped.sample("t2i", triplets, Sampling(group_size=4), key="group")
    right = [check(t.prompt, image).correct for t, image in zip(rollout.triplets, rollout.outputs, strict=True)]
    groups = [sum(right[start : start + 4]) for start in range(0, len(right), 4)]
    assert any(0 < group < 4 for group in groups)


def test_its_tokenizer_keeps_what_a_drawing_shows(shipped):
    triplets = WorldTriplets("test", 48, seed=18)[:]
    decoded = shipped.decode_images(shipped.encode_images([t.image for t in triplets]))
    assert sum(check(t.prompt, image).correct for t, image in zip(triplets, decoded, strict=True)) >= 45


def test_it_was_built_by_corl_world_build():
    record = json.loads((checkpoint() / "build.json").read_text())
    assert set(record["phases"]) == {"tokenizer", "copying", "warm-up"}
    assert 0.4 <= record["test"]["temperature 1"]["draw"] <= 0.6
