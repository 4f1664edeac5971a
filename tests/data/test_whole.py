"""The global pass: which rows stay, where they go, and that equal inputs are equal bytes."""

from __future__ import annotations

import math
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Data, Prepare
from corl_cli.data import parquet, triplets
from corl_cli.data.lookalikes import ALIKE, groups, lookalikes
from corl_cli.data.selection import REASONS, ROW, hold_out, remember, select
from corl_cli.data.whole import assemble


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A row of a part: its own image and question."""
    image = BytesIO()
    Image.new("RGB", (8, 6), (number % 256, 0, 0)).save(image, "PNG")
    return {
        "id": f"r-{number}",
        "source": "own",
        "image": image.getvalue(),
        "path": "",
        "prompt": f"scene {number}",
        "question": f"how many at {number}?",
        "answer": "two",
        "answer_type": "oe",
        "coverage": 0.5,
        "width": 8,
        "height": 6,
        "digest": f"{number:016x}",
        "phash": f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
        **changes,
    }


def mc(number: int, letter: str, options: int = 4, **changes: Any) -> dict[str, Any]:
    lines = "".join(f"\n{chr(65 + option)}. thing {option}" for option in range(options))
    return row(number, question=f"which at {number}?{lines}", answer=letter, answer_type="mc", **changes)


def judge(rows: list[dict[str, Any]], seed: int = 0, **prepare: Any) -> list[str]:
    index = np.array([remember(one, 0, seed) for one in rows], ROW)
    return [REASONS[reason] for reason in select(index, Prepare.model_validate(prepare))]


def test_the_first_of_equal_ids_stays():
    assert judge([row(1), row(2), row(3, id="r-1")]) == ["kept", "kept", "duplicate id"]


def test_several_questions_about_one_image_are_no_duplicates():
    same = {"digest": "a" * 16, "phash": "b" * 16}
    rows = [row(1, **same), row(2, **same), row(3, **same)]
    assert judge(rows, filters={"near_duplicates": 4}) == ["kept"] * 3


def test_a_question_asked_again_of_the_same_image_goes():
    again = row(2, digest=row(1)["digest"], question="How  many at 1?")
    assert judge([row(1), again, row(3, question="how many at 1?")]) == ["kept", "duplicate question", "kept"]
    assert judge([row(1), again], filters={"duplicates": False}) == ["kept", "kept"]


def test_contradicting_answers_all_go():
    one = {"digest": "c" * 16, "question": "how many?"}
    rows = [row(1, **one, answer="two"), row(2), row(3, **one, answer="three"), row(4, **one, answer="Two")]
    gone = "contradicting answers"
    assert judge(rows) == [gone, "kept", gone, gone]
    kept = judge(rows, filters={"contradictions": False})
    assert kept == ["kept", "kept", "duplicate question", "duplicate question"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Gray", "grey", True),
        ("a cat", "cat.", True),
        ("3", "three", True),
        ("cat", "dog", False),
        ("cat", "not a cat", False),
        ("3", "30", False),
        ("?", "-", False),
    ],
)
def test_equal_answers_do_not_contradict(one, other, same):
    asked = {"digest": "c" * 16, "question": "what?"}
    rows = [row(1, **asked, answer=one), row(2, **asked, answer=other)]
    assert judge(rows) == (["kept", "duplicate question"] if same else ["contradicting answers"] * 2)


def test_options_in_another_order_are_the_same_question():
    one = {"digest": "d" * 16, "answer_type": "mc"}
    first = row(1, **one, question="which?\nA. red\nB. blue", answer="A")
    same = row(2, **one, question="which?\nA. blue\nB. red", answer="B")
    other = row(3, **one, question="which?\nA. blue\nB. red", answer="A")
    assert judge([first, same]) == ["kept", "duplicate question"]
    assert judge([first, other]) == ["contradicting answers"] * 2
    wider = row(4, **one, question="which?\nA. red\nB. green", answer="A")
    assert judge([first, wider]) == ["kept", "kept"]


def test_captions_without_a_question_are_told_apart_by_their_words():
    one = {"digest": "e" * 16, "question": "", "answer": ""}
    rows = [row(1, **one, prompt="a dog"), row(2, **one, prompt="a cat"), row(3, **one, prompt="A  dog")]
    assert judge(rows) == ["kept", "kept", "duplicate question"]


def test_an_image_that_looks_like_an_earlier_one_goes_with_all_its_questions():
    rows = [row(1, phash="0" * 16), row(2, phash=f"{7:016x}"), row(3, digest=row(2)["digest"], phash=f"{7:016x}")]
    gone = "near-duplicate image"
    assert judge(rows, filters={"near_duplicates": 3}) == ["kept", gone, gone]
    assert judge(rows, filters={"near_duplicates": 2}) == ["kept"] * 3
    assert judge(rows) == ["kept"] * 3


def by_hand(hashes: list[int], distance: int) -> list[bool]:
    stay: list[int] = []
    gone = []
    for value in hashes:
        gone.append(any(bin(value ^ other).count("1") <= distance for other in stay))
        if not gone[-1]:
            stay.append(value)
    return gone


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 63), max_size=6))), st.integers(0, 16))
def test_lookalikes_are_those_that_a_slow_search_finds(seeds, distance):
    """Few centres with some bits turned: many hashes are near each other, in chains too."""
    hashes = []
    for centre, bits in seeds:
        value = centre * 0x9E3779B97F4A7C15 % 2**64
        for bit in bits:
            value ^= 1 << bit
        hashes.append(value)
    assert lookalikes(np.array(hashes, np.uint64), distance).tolist() == by_hand(hashes, distance)


def test_lookalikes_among_many():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 3000, np.uint64)
    turned = hashes[:500].copy()
    for _ in range(4):
        turned ^= np.uint64(1) << rng.integers(0, 64, 500, np.uint64)
    found = lookalikes(np.concatenate([hashes, turned]), 4)
    assert found.tolist() == [False] * 3000 + [True] * 500


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.sampled_from([0, 1, 3]), st.randoms())
def test_a_group_is_of_lookalikes_in_any_order(hashes, distance, random):
    found = groups(np.array(hashes, np.uint64), distance).tolist()
    assert all((one ^ lead).bit_count() <= distance for one, lead in zip(hashes, found, strict=True))
    assert {lead: lead for lead in found} == {
        one: lead for one, lead in zip(hashes, found, strict=True) if one in found
    }
    shuffled = random.sample(hashes, len(hashes))
    assert groups(np.array(shuffled, np.uint64), distance).tolist() == [
        dict(zip(hashes, found, strict=True))[one] for one in shuffled
    ]


def test_what_most_are_near_stands_for_them():
    middle, left, right, far = 0b111, 0b1, 0b11111, 0xFF << 40  # left and right are four bits apart
    assert groups(np.array([left, right, far, middle], np.uint64), 2).tolist() == [middle, middle, far, middle]


LOOKS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20)


@given(LOOKS, st.floats(0.001, 0.999))
def test_lookalikes_are_in_one_split_and_neither_is_empty(looks, test):
    held_out = hold_out(np.array(looks, np.uint64), test)
    together = groups(np.array(looks, np.uint64), ALIKE).tolist()
    assert len(set(zip(together, held_out.tolist(), strict=True))) == len(set(together))
    assert len(set(held_out.tolist())) == min(2, len(set(together)))
    drawn = [triplets.is_held_out(f"{lead:016x}", test) for lead in together]
    if any(drawn) and not all(drawn):
        assert held_out.tolist() == drawn


def test_a_share_of_nothing_holds_out_nothing():
    assert not hold_out(np.arange(9, dtype=np.uint64), 0).any()


def test_letters_are_evened_out_among_questions_of_as_many_options():
    letters = "A" * 5 + "B" * 3 + "C" * 2
    rows = [mc(number, letter) for number, letter in enumerate(letters)]
    rows += [mc(20, "A", 2), mc(21, "A", 2), mc(22, "B", 2), row(30)]
    reasons = judge(rows, balance={"letters": True})
    kept = Counter(
        (row["answer"], row["question"].count("\n")) for row, why in zip(rows, reasons, strict=True) if why == "kept"
    )
    assert kept == {("A", 4): 2, ("B", 4): 2, ("C", 4): 2, ("A", 2): 1, ("B", 2): 1, ("two", 0): 1}
    assert reasons.count("balance of letters") == 5


def test_what_goes_is_drawn_by_the_seed_and_not_by_arrival():
    rows = [mc(number, "A" if number % 4 else "B") for number in range(40)]

    def kept(rows: list[dict[str, Any]], seed: int) -> set[str]:
        reasons = judge(rows, seed, balance={"letters": True})
        return {one["id"] for one, why in zip(rows, reasons, strict=True) if why == "kept"}

    assert kept(rows, 0) == kept(rows[::-1], 0)
    assert kept(rows, 0) != kept(rows, 1)


@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.1, 0.25, 0.5, 0.8]))
def test_types_are_evened_out_to_the_share(many, few, share):
    drawing = row(99, question="", answer="")
    rows = [mc(number, "A") for number in range(many)] + [row(100 + number) for number in range(few)] + [drawing]
    reasons = judge(rows, balance={"mc_share": share})
    mcs = reasons[:many].count("kept")
    oes = reasons[many:-1].count("kept")
    assert mcs == many or oes == few, "no more go than must"
    assert abs(mcs - share * (mcs + oes)) <= 1
    assert reasons[-1] == "kept", "what has no question has no type"


@pytest.mark.parametrize(("few", "letters"), [(100, [25, 25, 25, 25]), (42, [10, 10, 11, 11])])
def test_types_are_evened_out_without_undoing_the_letters(few, letters):
    rows = [mc(number, "ABCD"[number % 4]) for number in range(300)] + [mc(300 + number, "A") for number in range(9)]
    rows += [row(400 + number) for number in range(few)]
    reasons = judge(rows, balance={"letters": True, "mc_share": 0.5})
    kept = Counter(one["answer"] for one, why in zip(rows, reasons, strict=True) if why == "kept")
    assert kept.pop("two") == few
    assert sorted(kept.values()) == letters


def test_a_share_of_one_type_only_is_refused():
    with pytest.raises(CorlError, match="0 multiple-choice and 2 open-ended"):
        judge([row(1), row(2)], balance={"mc_share": 0.5})


# --- writing


def write_parts(folder: Path, rows: list[dict[str, Any]], sizes: list[int]) -> tuple[list[Path], list[Any]]:
    paths, counts = [], []
    for number, size in enumerate(sizes):
        here, rows = rows[:size], rows[size:]
        paths.append(folder / f"part-{number:06d}.parquet")
        with parquet.Writer(paths[-1], parquet.PART) as file:
            file.add(pa.Table.from_pylist(here, schema=parquet.PART))
        names = {one["source"] for one in here} | {"own"}
        counts.append(
            {
                name: {"offered": sum(one["source"] == name for one in here) + 1, "dropped": {"no caption": 1}}
                for name in names
            }
        )
    assert not rows
    return paths, counts


def whole(tmp_path: Path, rows: list[dict[str, Any]], sizes: list[int], **prepare: Any):
    (tmp_path / "set").mkdir(parents=True)
    paths, counts = write_parts(tmp_path / "parts", rows, sizes)
    built = assemble(paths, counts, Prepare.model_validate(prepare), 0, tmp_path / "set", lambda *_: None)
    return built, tmp_path / "set"


def test_rows_that_stay_are_written_in_order_and_counted(tmp_path):
    rows = [row(1), row(2, source="other", coverage=math.nan), row(3, id="r-1"), row(4, coverage=1.0), row(5)]
    built, folder = whole(tmp_path, rows, [2, 0, 3], shard_size=2)
    assert built.sources == {
        "own": {
            "offered": 7,
            "kept": 3,
            "dropped": {"no caption": 3, "duplicate id": 1},
            "coverage": pytest.approx(2 / 3),
        },
        "other": {"offered": 2, "kept": 1, "dropped": {"no caption": 1}, "coverage": None},
    }
    assert built.total["kept"] == 4
    assert built.total["coverage"] == pytest.approx(2 / 3)
    assert [file["path"] for file in built.splits["train"]["files"]] == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    table = [pq.read_table(folder / file["path"]) for file in built.splits["train"]["files"]]
    assert [part["id"].to_pylist() for part in table] == [["r-1", "r-2"], ["r-4", "r-5"]]
    assert built.splits.keys() == {"train"}
    assert sorted(folder.iterdir()) == [folder / "data"]


def test_datasets_and_corl_read_what_is_written(tmp_path):
    _, folder = whole(tmp_path, [row(number) for number in range(40)], [40], test=0.3)
    read = datasets.load_dataset(str(folder))
    assert set(read) == {"train", "test"}
    assert read["train"].column_names == list(parquet.COLUMNS)
    assert read["train"].features == datasets.Features(
        {name: datasets.Value("string") for name in parquet.COLUMNS}
        | {"image": datasets.Image(), "coverage": datasets.Value("float32")}
    )
    assert len(read["train"]) + len(read["test"]) == 40
    for split in ("train", "test"):
        for one, raw in zip(triplets.load(Data(path=str(folder), split=split), 0), read[split], strict=True):
            number = int(one.id.removeprefix("r-"))
            assert (one.prompt, one.question, one.answer) == (f"scene {number}", f"how many at {number}?", "two")
            assert one.image.getpixel((0, 0)) == (number, 0, 0)
            assert triplets.is_held_out(row(number)["phash"], 0.3) == (split == "test")
            assert raw["coverage"] == 0.5


def test_paths_are_kept_where_images_stay_outside(tmp_path):
    image = tmp_path / "one.png"
    image.write_bytes(row(7)["image"])
    _, folder = whole(tmp_path, [row(7, image=b"", path=str(image))], [1])
    (stored,) = pq.read_table(next((folder / "data").iterdir()))["image"].to_pylist()
    assert stored == {"bytes": None, "path": str(image)}
    assert triplets.load(Data(path=str(folder)), 0)[0].image.size == (8, 6)


def test_an_image_is_in_one_split_with_all_its_questions(tmp_path):
    rows = [row(number, digest=f"{number % 10:016x}", phash=f"{number % 10:016x}") for number in range(50)]
    _, folder = whole(tmp_path, rows, [50], test=0.5)
    images = {
        split: {
            int(name.removeprefix("r-")) % 10
            for file in (folder / "data").glob(f"{split}-*")
            for name in pq.read_table(file)["id"].to_pylist()
        }
        for split in ("train", "test")
    }
    assert not images["train"] & images["test"]
    assert images["train"] | images["test"] == set(range(10))


def test_copies_of_a_photograph_are_of_one_split(tmp_path):
    """Original, half the size at JPEG quality 60, and four columns less, in another order for each picture."""
    rows = []
    for number in range(12):
        original = drawing(number)
        small = BytesIO()
        original.resize((240, 180)).save(small, "JPEG", quality=60)
        copies = [original, Image.open(small), original.crop((4, 0, 480, 360))]
        for place in range(3):
            copy = copies[(number + place) % 3]
            looks = str(imagehash.phash(copy))
            rows.append(row(3 * number + place, phash=looks, source=f"picture {number}"))
    assert len({one["phash"] for one in rows}) > 15, "the case tests nothing"
    built, folder = whole(tmp_path, rows, [36], test=0.3)
    shown = {
        split: {name for file in part["files"] for name in pq.read_table(folder / file["path"])["source"].to_pylist()}
        for split, part in built.splits.items()
    }
    assert shown.keys() == {"train", "test"}
    assert not shown["train"] & shown["test"]


def drawing(number: int) -> Image.Image:
    """Light at five scales, each half as strong as the coarser one: the spectrum of a photograph."""
    rng = np.random.default_rng(number)
    light = np.full((360, 480), 128, np.float32)
    for scale in (1, 2, 4, 8, 16):
        grid = Image.fromarray(rng.normal(0, 64 / scale, (3 * scale, 4 * scale)).astype(np.float32))
        light += np.asarray(grid.resize((480, 360), Image.Resampling.BICUBIC))
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


def test_a_small_set_has_both_splits(tmp_path):
    built, _ = whole(tmp_path, [row(number) for number in range(24)], [24], test=0.01)
    assert {split: part["rows"] for split, part in built.splits.items()} == {"train": 23, "test": 1}


def test_the_bytes_do_not_depend_on_how_the_rows_were_cut(tmp_path):
    rows = [row(number) for number in range(330)]
    digests = []
    for name, sizes in {"one": [330], "many": [1, 120, 99, 0, 110]}.items():
        built, _ = whole(tmp_path / name, rows, sizes, shard_size=150, test=0.2)
        digests.append([file["sha256"] for split in built.splits.values() for file in split["files"]])
    assert digests[0] == digests[1]
    assert len(digests[0]) == 3


def test_nothing_left_is_an_error_that_counts_why(tmp_path):
    rows = [row(1, digest="1" * 16, question="q", answer="a"), row(2, digest="1" * 16, question="q", answer="b")]
    with pytest.raises(CorlError, match="Nothing stays of 3 items: 2 contradicting answers, 1 no caption"):
        whole(tmp_path, rows, [2])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_file(tmp_path):
    writer = parquet.Writer(tmp_path / "x.parquet", parquet.PART)
    writer.partial.symlink_to("/dev/full")
    with pytest.raises(CorlError, match="No space left on the disk"), writer as file:
        file.add(pa.Table.from_pylist([row(1)] * 500, schema=parquet.PART))
    assert list(tmp_path.iterdir()) == []
