import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from corl_cli.core.recipe import Prepare
from corl_cli.data import images
from corl_cli.data.items import Dropped, Kept, Raw
from corl_cli.data.making import REASONS, make


def encoded(size: tuple[int, int] = (40, 30), kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = BytesIO()
    Image.new(mode, size, "red").save(file, kind)
    return file.getvalue()


def item(**fields: Any) -> Raw:
    defaults: dict[str, Any] = {
        "image": encoded(),
        "captions": ("A cat.", "A dog chases a ball."),
        "question": "What is the dog chasing?",
        "options": ("a ball", "a cat"),
        "answer": "A",
    }
    return Raw(id="7", source="test", **(defaults | fields))


def kept(raw: Raw, **prepare: Any) -> Kept:
    made = make(raw, Prepare.model_validate(prepare))
    assert isinstance(made, Kept), made
    return made


def reason(raw: Raw, **prepare: Any) -> str:
    made = make(raw, Prepare.model_validate(prepare))
    assert isinstance(made, Dropped), made
    assert (made.id, made.source) == ("7", "test")
    assert made.reason in REASONS
    return made.reason


def test_an_item_becomes_a_triplet() -> None:
    made = kept(item())
    assert (made.id, made.source, made.path) == ("7", "test", "")
    assert made.prompt == "A dog chases a ball."
    assert (made.question, made.answer, made.answer_type) == (
        "What is the dog chasing?\nA. a ball\nB. a cat",
        "A",
        "mc",
    )
    assert made.coverage == 1  # dog, chase, ball
    assert (made.image, made.width, made.height) == (encoded(), 40, 30)


def test_paths_hold_no_bytes_unless_the_file_must_be_changed(tmp_path: Path) -> None:
    plain, cmyk = tmp_path / "plain.png", tmp_path / "cmyk.jpg"
    plain.write_bytes(encoded())
    cmyk.write_bytes(encoded(kind="JPEG", mode="CMYK"))
    assert kept(item(image=plain)).image == encoded()
    made = kept(item(image=plain), images="paths")
    assert (made.image, made.path) == (b"", str(plain))
    assert Image.open(BytesIO(kept(item(image=cmyk), images="paths").image)).mode == "RGB"
    assert kept(item(), images="paths").image == encoded()  # bytes have no path


def test_a_stored_path_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raw.png").write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    assert kept(item(image=Path("raw.png")), images="paths").path == str(tmp_path.resolve() / "raw.png")
    assert kept(item(image=Path("raw.png"))).path == "raw.png"  # where bytes are stored, no place of a machine is


def test_names_that_no_file_can_hold_are_mended(tmp_path: Path) -> None:
    path = Path(f"{tmp_path}/\udcff.png")
    path.write_bytes(encoded())
    made = kept(replace(item(image=path), id="7\ud800\x00"), images="paths")
    assert (made.id, made.path, made.image) == ("7", "", encoded())


def test_items_for_one_task_only() -> None:
    drawing = kept(item(question="", options=(), answer=""), filters={"min_coverage": 0.9})
    assert (drawing.prompt, drawing.question) == ("A dog chases a ball.", "")
    assert (drawing.answer, drawing.answer_type) == ("", "oe")
    assert math.isnan(drawing.coverage)
    answering = kept(item(captions=()), filters={"min_coverage": 0.9, "min_words": 3, "english": True})
    assert answering.prompt == ""
    assert math.isnan(answering.coverage)


def test_captions_are_cleaned_and_chosen_among_those_that_pass() -> None:
    captions = ("Ein Hund jagt einen Ball", "", " A\x07 dog\tin\n a park\u200b ", "A ball")
    assert kept(item(captions=captions), filters={"english": True}).prompt == "A dog in a park"
    assert kept(item(captions=captions), filters={"english": True, "max_words": 2}).prompt == "A ball"


@pytest.mark.parametrize(
    ("fields", "filters", "expected"),
    [
        ({"captions": ("", " \x00")}, {}, "no caption"),
        ({"captions": (), "question": "", "options": (), "answer": ""}, {}, "no caption"),
        ({"captions": ("Ein Hund jagt einen Ball",)}, {"english": True}, "prompt not English"),
        ({}, {"min_words": 6}, "prompt below min_words"),
        ({}, {"max_words": 1}, "prompt above max_words"),
        ({"captions": ("A cat.",)}, {"min_coverage": 0.1}, "coverage below min_coverage"),
        ({}, {"min_side": 31}, "image below min_side"),
        ({}, {"max_aspect": 1.2}, "image above max_aspect"),
        ({"image": b""}, {}, "image missing"),
        ({"image": Path("nowhere.png")}, {}, "image missing"),
        ({"image": encoded((1, 1))}, {}, "image too small"),
        ({"answer": "C"}, {}, "answer not among the options"),
        ({"answer": "C", "image": b"no image"}, {}, "answer not among the options"),  # text is judged first
    ],
)
def test_faults_are_told_by_reason(fields: dict[str, Any], filters: dict[str, Any], expected: str) -> None:
    assert reason(item(**fields), filters=filters) == expected


def test_reasons_are_distinct_short_phrases_in_lower_case() -> None:
    assert len(set(REASONS)) == len(REASONS)
    for phrase in REASONS:
        assert len(phrase) < 40
        assert phrase.replace("English", "english") == phrase.lower()
    assert set(images.REASONS) < set(REASONS)


def test_the_same_item_makes_the_same_triplet() -> None:
    raw = item(image=encoded(kind="BMP"))
    assert kept(raw) == kept(raw)
