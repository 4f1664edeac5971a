"""The folder of a result survives kills, and is never two results at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.eval.base import Item, Score
from corl_cli.eval.store import Records, Store

ITEMS = [
    Item(id="b", task="t2i", prompt="a red circle", group="one", samples=2, data={"tag": "one"}),
    Item(id="a", task="mm2t", prompt="what colour?", group="two", image="inputs/a.png"),
]
FACTS = {"benchmark": "x", "checkpoint": {"name": "world", "weights": "1234"}, "limit": None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "result")
    store.create(FACTS, ITEMS, "name: x\n")
    return store


def test_items_come_back_in_their_order(store):
    assert store.items() == ITEMS
    assert store.keys() == [("b", 0), ("b", 1), ("a", 0)]


def test_a_line_torn_by_a_kill_is_no_line_and_is_cut_off_before_the_next(tmp_path):
    records = Records(tmp_path / "scores.jsonl")
    with records.writer(0) as append:
        append({"item": "a", "sample": 0, "value": 1.0})
    part = tmp_path / "scores.0.jsonl"
    part.write_bytes(part.read_bytes() + b'{"item": "a", "sam')
    assert list(records.read()) == [("a", 0)]
    with records.writer(0) as append:
        append({"item": "a", "sample": 1, "value": 0.0})
    assert list(records.read()) == [("a", 0), ("a", 1)]


def test_what_was_tried_again_takes_the_place_of_what_failed(store):
    with store.scoring(0) as append:
        append(Score(item="b", sample=0, value=None, reason="the judge was down"))
        append(Score(item="b", sample=1, value=0.5))
    store.settle()
    with store.scoring(1) as append:
        append(Score(item="b", sample=0, value=1.0))
    assert {key: score.value for key, score in store.scores().items()} == {("b", 0): 1.0, ("b", 1): 0.5}


@settings(max_examples=25, deadline=None)
@given(st.permutations([("b", 0), ("b", 1), ("a", 0)]), st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_the_settled_file_is_the_same_whoever_wrote_when(tmp_path_factory, order, processes):
    store = Store(tmp_path_factory.mktemp("result"))
    store.create(FACTS, ITEMS, "")
    for (item, sample), process in zip(order, processes, strict=True):
        with store.scoring(process) as append:
            append(Score(item=item, sample=sample, value=float(sample)))
    store.settle()
    lines = [json.loads(line) for line in (store.folder / "scores.jsonl").read_text().splitlines()]
    assert [(line["item"], line["sample"], line["value"]) for line in lines] == [("b", 0, 0), ("b", 1, 1), ("a", 0, 0)]
    assert not list(store.folder.glob("scores.*.jsonl"))


def test_drawings_have_genevals_layout(store):
    store.save_image(ITEMS[0], 1, Image.new("RGB", (4, 4), "red"))
    folder = store.folder / "images" / "b"
    assert [path.name for path in (folder / "samples").iterdir()] == ["0001.png"]
    assert json.loads((folder / "metadata.jsonl").read_text()) == {"prompt": "a red circle", "tag": "one"}
    assert store.drawn("b", 1)
    assert not store.drawn("b", 0)


def test_an_empty_file_is_no_drawing(store):
    store.save_image(ITEMS[0], 0, Image.new("RGB", (4, 4)))
    store.image("b", 0).write_bytes(b"")
    assert not store.drawn("b", 0)


def test_another_result_is_refused_by_the_key_that_differs(store):
    store.check(FACTS)
    store.check({"scorer": {"judge": "new"}})  # nothing was scored yet
    with pytest.raises(UsageError) as error:
        store.check(FACTS | {"checkpoint": {"name": "world", "weights": "9999"}})
    assert "checkpoint.weights: '1234' there, '9999' now" in error.value.message
    assert "checkpoint.name" not in error.value.message


def test_a_folder_without_a_result_says_so(tmp_path):
    with pytest.raises(UsageError, match="holds no result"):
        Store(tmp_path).manifest()


def test_a_result_without_a_summary_says_so(store):
    with pytest.raises(CorlError, match="no summary yet"):
        store.result()


def test_rates_add_up_over_processes_and_sessions(store):
    store.timed("generate", 0, 30, 10.0)
    store.timed("generate", 0, 10, 10.0)
    store.timed("generate", 1, 40, 10.0)
    store.timed("score", 0, 5, 1.0)
    assert store.rates() == {"generate": pytest.approx(6.0), "score": pytest.approx(5.0)}
