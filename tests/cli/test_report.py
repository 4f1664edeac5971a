"""`corl report` on a true run of the embedded world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import corl, overrides
from PIL import Image

SETTINGS = {
    "train.batch_size": 2,
    "train.max_steps": 2,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 20,
    "eval.probes.items": 2,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `one` of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    sets = overrides(SETTINGS)
    corl("train", "unified", "--out", "one", *sets, cwd=folder, code=0)
    return folder


def test_a_run_makes_its_page_by_itself(runs):
    page = (runs / "one" / "report.html").read_text()
    assert "2 of 2 steps" in page
    assert "finished" in page


def test_the_page_goes_into_the_run_and_the_picture_where_it_is_wanted(runs):
    (runs / "one" / "report.html").unlink()
    done = corl("report", "one", "--picture", "one.png", cwd=runs, code=0)
    assert done.stdout.startswith("one: 2 of 2 steps, finished; ")
    assert "Open: " in done.stderr
    assert (runs / "one" / "report.html").exists()
    assert Image.open(runs / "one.png").format == "PNG"


def test_the_page_of_several_runs_stands_above_them(runs):
    shutil.copytree(runs / "one", runs / "two")
    told = json.loads(corl("report", "one", "two", "--json", cwd=runs, code=0).stdout)
    assert Path(told["page"]) == runs / "report.html"
    assert (runs / "report.html").exists()
    assert [run["label"] for run in told["runs"]] == ["one", "two"]
    assert {(run["step"], run["steps"], run["state"]) for run in told["runs"]} == {(2, 2, "finished")}
    assert {change["task"] for change in told["runs"][0]["changes"]} == {"t2i", "mm2t"}
    assert isinstance(told["runs"][0]["alarms"], int)
    assert (told["picture"], told["missing"]) == (None, [])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 2, "nowhere is not a run"),
        (["one", "--out", "page.pdf"], 2, "the page is HTML"),
        (["one", "--picture", "one.jpg"], 2, "the picture is a PNG"),
        (["one", "one"], 2, "named twice"),
        (["one", "two", "--picture", "x.png"], 2, "A picture is of one run"),
    ],
)
def test_mistakes_are_one_line_and_what_to_do(runs, words, code, said):
    done = corl("report", *words, cwd=runs, code=code)
    error, hint = done.stderr.strip().splitlines()
    assert said in error
    assert hint.startswith("hint: ")
