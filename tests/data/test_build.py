"""Chunks become parts: counted, whole or not at all, never made twice."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Prepare
from corl_cli.data import build
from corl_cli.data.build import Order, Parts, SourceFile, chunks, make_parts, read_shard, refuse_unfinished
from corl_cli.data.items import Dropped, Kept, Raw
from corl_cli.data.making import make


def raw(number: int, image: bytes = b"") -> Raw:
    return Raw(id=f"r-{number}", source="own", image=image, captions=(f"caption {number}",))


def plain(item: Raw, prepare: Prepare) -> Kept | Dropped:
    """Every third item is left out, the others stay as they are."""
    number = int(item.id.removeprefix("r-"))
    if number % 3 == 2:
        return Dropped(id=item.id, source=item.source, reason="a third")
    return Kept(
        id=item.id,
        source=item.source,
        image=b"image",
        path="",
        prompt=item.captions[0],
        question="",
        answer="",
        answer_type="oe",
        coverage=float("nan"),
        width=1,
        height=1,
        digest=f"{number:016x}",
        phash=f"{number:016x}",
    )


@cache
def order(size: int = 4, shard: tuple[int, int] = (1, 1), *overrides: str) -> Order:
    return Order(corl="1", recipe=load("prepare/world", [f"prepare.shard_size={size}", *overrides]), shard=shard)


def silent(phase: str, done: int, total: int | None) -> None: ...


def ids(parts: Parts) -> list[str]:
    return [name for number in parts.finished() for name in pq.read_table(parts.rows(number))["id"].to_pylist()]


@given(st.integers(0, 40), st.integers(1, 7))
def test_chunks_are_consecutive_and_lose_nothing(items, size):
    cut = list(chunks(map(raw, range(items)), size))
    assert [item.id for chunk in cut for item in chunk] == [f"r-{number}" for number in range(items)]
    assert [len(chunk) for chunk in cut] == [size] * (items // size) + [items % size] * (items % size > 0)


def test_a_chunk_of_large_images_ends_sooner(monkeypatch):
    monkeypatch.setattr(build, "CHUNK_BYTES", 10)
    assert [len(chunk) for chunk in chunks([raw(n, b"12345") for n in range(5)], 100)] == [2, 2, 1]


def test_parts_hold_what_stays_and_count_what_goes(tmp_path):
    parts = Parts(tmp_path)
    missing = Dropped(id="x", source="other", reason="image missing")
    assert make_parts(parts, [*map(raw, range(6)), missing], order(), plain, 1, silent).chunks == 2
    assert ids(parts) == ["r-0", "r-1", "r-3", "r-4"]
    assert parts.counts(0) == {"own": {"offered": 4, "dropped": {"a third": 1}}}
    assert parts.counts(1) == {
        "own": {"offered": 2, "dropped": {"a third": 1}},
        "other": {"offered": 1, "dropped": {"image missing": 1}},
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "part-000000.json",
        "part-000000.parquet",
        "part-000001.json",
        "part-000001.parquet",
    ]


def test_a_finished_part_is_never_made_again(tmp_path):
    parts, made = Parts(tmp_path), []

    def noting(item: Raw, prepare: Prepare) -> Kept | Dropped:
        made.append(item.id)
        return plain(item, prepare)

    make_parts(parts, map(raw, range(12)), order(), noting, 1, silent)
    whole, times = ids(parts), parts.rows(0).stat().st_mtime_ns
    parts.rows(1).with_suffix(".json").unlink()  # as a kill between the two files leaves it
    made.clear()
    make_parts(parts, map(raw, range(12)), order(), noting, 1, silent)
    assert made == [f"r-{number}" for number in range(4, 8)]
    assert (ids(parts), parts.rows(0).stat().st_mtime_ns) == (whole, times)


@given(st.integers(1, 5), st.integers(0, 30))
def test_shards_share_the_chunks_among_them(tmp_path_factory, shards, items):
    made, known = [], set()
    for shard in range(1, shards + 1):
        parts = Parts(tmp_path_factory.mktemp("shard"))
        here = order(3, (shard, shards))
        done = make_parts(parts, map(raw, range(items)), here, plain, 1, silent)
        assert parts.are_made(done)
        made += parts.finished()
        known.add((done.chunks, done.items))
    assert sorted(made) == list(range(-(-items // 3)))
    assert len(known) == 1


def test_a_shard_knows_which_items_the_others_were_offered(tmp_path):
    def items(names, size=4):
        return make_parts(Parts(tmp_path), map(raw, names), order(size, (2, 2)), plain, 1, silent).items

    assert items(range(8)) == items(range(8))
    assert len({items(names) for names in (range(8), range(1, 9), range(9), [1, 0, *range(2, 8)])}) == 4
    assert items(range(8)) != items(range(8), size=3)


def test_an_unfinished_build_says_how_it_goes_on(tmp_path):
    refuse_unfinished(tmp_path)
    parts = Parts(tmp_path / "parts")
    parts.write_order(order())
    with pytest.raises(CorlError, match="is an unfinished build"):
        refuse_unfinished(tmp_path)
    parts.write_order(order(4, (1, 2)).model_copy(update={"chunks": 0}))
    with pytest.raises(CorlError, match="it holds shard 1 of 2"):
        refuse_unfinished(tmp_path)


def test_a_fault_of_the_maker_says_at_which_item_and_leaves_no_part(tmp_path):
    def broken(item: Raw, prepare: Prepare) -> Kept | Dropped:
        raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError) as caught:
        make_parts(Parts(tmp_path), [raw(0)], order(), broken, 1, silent)
    assert caught.value.__notes__ == ["while making r-0 of own"]
    assert list(tmp_path.iterdir()) == []


def test_workers_make_the_same_parts(tmp_path):
    items = [Raw(id=f"r-{n}", source="own", image=Path("nowhere.png"), captions=("a",)) for n in range(6)]
    for number, workers in enumerate((1, 2)):
        make_parts(Parts(tmp_path / str(number)), items, order(2), make, workers, silent)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / str(number)).iterdir()} for number in (0, 1))
    assert one == two
    assert len(one) == 6


def test_differences_between_orders_are_named():
    file = SourceFile(path="a/x.json", bytes=1, sha256="0" * 64)
    ours = order().model_copy(update={"files": [file]})
    assert ours.differences(ours) == []
    changed = Order.model_validate(ours.model_dump() | {"limit": 5, "files": []})
    assert ours.differences(changed) == [
        "limit: None there, 5 now",
        "file 1 x.json: '000000000000' there, None now",
    ]
    reseeded = ours.model_copy(update={"recipe": order(9, (1, 1), "seed=3", "prepare.sources.world.size=7").recipe})
    assert {line.split(":")[0] for line in ours.differences(reseeded)} == {
        "seed",
        "prepare.shard_size",
        "prepare.sources.0.size",
    }


def test_a_damaged_order_is_one_line(tmp_path):
    (tmp_path / "order.json").write_text("{")
    with pytest.raises(CorlError, match="damaged"):
        Parts(tmp_path).order()


def test_an_order_is_read_back_equal(tmp_path):
    Parts(tmp_path).write_order(order(3, (2, 4)))
    assert Parts(tmp_path).order() == order(3, (2, 4))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "", "-1/2"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(UsageError, match="i/n"):
        read_shard(text)
    assert read_shard("2/4") == (2, 4)
