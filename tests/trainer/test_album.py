"""The samples of a run come back as they were written."""

import json
from pathlib import Path

import pytest
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.trainer import album
from corl_cli.trainer.album import Entry, Look

PLAIN = [Image.new("RGB", (32, 32), shade) for shade in ("red", "lime", "blue")]


def colours(images: list[Image.Image]) -> list[object]:
    return [image.getpixel((80, 80)) for image in images]


def test_pictures_and_words_come_back(tmp_path: Path) -> None:
    long = Entry(real=PLAIN[0], prompt="a very long prompt " * 9, drawings=PLAIN[1:])
    whole = Entry(real=PLAIN[1], prompt="p", drawings=PLAIN[:2], question="q", answer="a", answers=["x\n", "y"])
    page = album.write(tmp_path, Look(step=50, entries=[long, whole]))
    album.write(tmp_path, Look(step=0, entries=[Entry(real=PLAIN[2], question="q", answer="a", answers=["z"])]))
    first, second = [album.read(tmp_path, step) for step in album.steps(tmp_path)]
    assert (first.step, second.step) == (0, 50)
    assert first.entries[0].answers == ["z"]
    assert first.entries[0].drawings == []
    assert [entry.prompt for entry in second.entries] == [long.prompt, "p"]
    assert second.entries[1].answers == ["x\n", "y"]
    assert colours([second.entries[0].real, *second.entries[0].drawings]) == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert colours([second.entries[1].real, *second.entries[1].drawings]) == [(0, 255, 0), (255, 0, 0), (0, 255, 0)]
    with Image.open(tmp_path / "step-000050.png") as saved:
        assert saved.size == page.size


@pytest.mark.parametrize("damage", ["{", json.dumps({"real": [0, 0, 1, 1]}), json.dumps({"unknown": 1})])
def test_a_damaged_look_is_named(tmp_path: Path, damage: str) -> None:
    album.write(tmp_path, Look(step=3, entries=[Entry(real=PLAIN[0], prompt="p", drawings=PLAIN)]))
    (tmp_path / "step-000003.jsonl").write_text(damage + "\n")
    with pytest.raises(CorlError, match=r"step-000003\.jsonl"):
        album.read(tmp_path, 3)
