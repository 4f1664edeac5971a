import json

import pytest

from corl_cli.cli.common import clock, complete_recipe, progress, remedies, table
from corl_cli.core.requirements import Requirement


def test_a_table_prints_every_cell(capsys):
    table([{"name": "a" * 90, "score": 0.123456, "n": None}, {"name": "b", "score": 1.0, "n": 3}])
    header, _, first, second = capsys.readouterr().out.rstrip().splitlines()
    assert header.split() == ["name", "score", "n"]
    assert first.split() == ["a" * 90, "0.1235", "-"]
    assert second.split() == ["b", "1", "3"]


def test_numbers_stand_to_the_right_also_where_some_are_missing(capsys):
    table([{"score": 1.0, "share": "3.5%", "word": "a"}, {"score": None, "share": "-", "word": None}])
    head, _, _, missing = capsys.readouterr().out.rstrip("\n").splitlines()
    places = [place for place, letter in enumerate(missing) if letter == "-"]
    ends = [head.index(name) + len(name) - 1 for name in ("score", "share")]
    assert places == [*ends, head.index("word")]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_heading_is_not_broken_within_a_word(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    table([{"rank correlation": 0.5, "found": "word " * 50}])
    assert "correlation" in capsys.readouterr().out


def test_remedies_are_whole_and_given_once(capsys):
    long = "curl -L https://example.org/" + "a" * 300
    there = Requirement(name="b", state="ok", detail="here")
    remedies([Requirement(name="a", state="missing", detail="", remedy=long)] * 2 + [there])
    assert capsys.readouterr().out == f"\nWhat to do, where you need it:\n  a: {long}\n"
    remedies([there])
    assert capsys.readouterr().out == ""


def test_a_table_does_not_read_markup(capsys):
    table([{"key": "[bold]x[/bold]"}])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_a_table_as_json_keeps_the_values(capsys):
    rows = [{"a": 0.123456, "b": None}]
    table(rows, as_json=True)
    assert json.loads(capsys.readouterr().out) == rows
    table([], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_progress_without_a_terminal_is_lines_on_stderr(capsys):
    with progress("drawing", 5, done=2, every=0.0) as bar:
        bar.advance()  # it also loaded, and tells nothing of the others
        bar.advance()
        bar.advance(note="reward 0.5")
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert first == "drawing 3/5"
    assert second.startswith("drawing 4/5, 0:0")
    assert third == "drawing 5/5, 0:00 left, reward 0.5"


def test_progress_keeps_quiet_between_lines_but_prints_the_end(capsys):
    with progress("drawing", 50, every=3600.0) as bar:
        for _ in range(50):
            bar.advance()
    assert capsys.readouterr().err == "drawing 50/50, 0:00 left\n"


def test_clock():
    assert [clock(seconds) for seconds in (0, 61.4, 3723)] == ["0:00", "1:01", "1:02:03"]


def test_completion_offers_shipped_recipes():
    assert complete_recipe("world/u") == ["world/unified"]
