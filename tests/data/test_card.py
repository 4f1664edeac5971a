"""The card and the preview of a small set written by hand in the builder's format."""

import math

import pytest
from datasets import load_dataset
from ruamel.yaml import YAML

from corl_cli.data import card, manifest
from corl_cli.data.card import _size_category
from corl_cli.data.distributions import BINS, count


def written(folder):
    card.write(folder, manifest.read(folder))
    return folder


def test_the_front_matter_is_what_datasets_reads(built_set):
    folder = written(built_set())
    front = YAML(typ="safe").load((folder / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "unknown"
    assert front["size_categories"] == ["n<1K"]
    assert front["task_categories"] == ["text-to-image", "visual-question-answering"]
    splits = load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 12, "test": 4}


def test_the_card_counts_what_was_kept_and_left_out(built_set):
    text = (written(built_set()) / "README.md").read_text()
    assert "| world | 19 | 16 | 3 | 50.0% |" in text
    assert "| train | 12 | 3 |" in text
    assert "| mc | 8 |" in text
    assert text.index("| world | no caption | 2 |") < text.index("| world | image missing | 1 |")
    assert "corl train unified --set data.path=DIR" in text
    assert "&#" not in text


def test_the_preview_shows_the_triplets_and_escapes_them(built_set):
    def change(split, number, row):
        row["prompt"] = f"<b>{split} & {number}</b>"

    text = (written(built_set(change)) / "preview.html").read_text()
    assert text.count('<img src="data:image/png') == 16
    assert "&lt;b&gt;test &amp; 3&lt;/b&gt;" in text
    assert text.count("<svg") >= 6
    assert "http-equiv" not in text
    assert 'src="http' not in text


def test_a_picture_that_cannot_be_read_is_said_to_be_so(built_set):
    def change(split, number, row):
        if number == 0:
            row["image"] = {"bytes": b"no picture", "path": None}

    text = (written(built_set(change)) / "preview.html").read_text()
    assert text.count("The picture cannot be read.") == 2
    assert text.count('<img src="data:image/png') == 14


def test_the_same_set_gives_the_same_bytes(built_set):
    folder = written(built_set())
    first = [(folder / name).read_bytes() for name in ("README.md", "preview.html")]
    written(folder)
    assert first == [(folder / name).read_bytes() for name in ("README.md", "preview.html")]


def test_a_set_for_drawing_only_has_no_questions(built_set):
    def change(split, number, row):
        row |= {"question": "", "answer": "", "answer_type": "oe", "coverage": math.nan}

    folder = written(built_set(change))
    text = (folder / "README.md").read_text()
    assert "visual-question-answering" not in text
    assert "### Questions" not in text
    found = count(sorted((folder / "data").glob("*.parquet")))
    assert found.questions == {0: 16}
    assert not found.coverage
    assert not found.types


def test_coverage_is_counted_in_bins(built_set):
    folder = built_set(train=5)
    assert count((folder / "data").glob("*.parquet")).coverage == {each * BINS // 5: 1 for each in range(5)}


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (22_000, "10K<n<100K"),
        (999_999, "100K<n<1M"),
        (10**6, "1M<n<10M"),
    ],
)
def test_size_categories(rows, category):
    assert _size_category(rows) == category
