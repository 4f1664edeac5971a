"""What `corl train` shows in a terminal: its parts by value, and the whole under a pseudo-terminal."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import overrides, started
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from corl_cli.cli.common import console
from corl_cli.cli.dashboard import has_room
from corl_cli.cli.panel import BLOCKS, panel, sparkline
from corl_cli.cli.told import Told, begin
from corl_cli.core.loader import load

RUN: dict[str, Any] = {
    "name": "first",
    "page": Path("runs/first/report.html"),
    "num_steps": 10,
    "temperatures": {"t2i": 1.0, "mm2t": 0.7},
    "learns": {"t2i": "reward/t2i/", "mm2t": "reward/mm2t/"},
}
STEP = {
    "reward/t2i/cycle": 1.5,
    "reward/t2i/cycle.pixel": 0.9,
    "reward/t2i/total": 1.75,
    "reward/mm2t/accuracy": 0.25,
    "reward/mm2t/total": 0.25,
    "zero_variance/t2i": 0.0,
    "zero_variance/mm2t": 0.5,
    "nll/t2i": 0.7,
    "time/rollout": 3.0,
    "time/update": 1.0,
    "time/reward/t2i/cycle": 2.0,
    "tokens_per_second": 1234.4,
    "memory/peak_gib": 2.5,
}


def probe(mean: float, temperature: float = 1.0, answer_type: str = "") -> dict[str, Any]:
    read = {"task": "t2i", "score": "checker", "answer_type": answer_type, "temperature": temperature}
    return read | {"mean": mean, "stderr": 0.05, "items": 9, "failed": 0}


def told(steps: int, **changes: Any) -> Told:
    """A run whose steps take 5 seconds, and whose probes before the first took 20."""
    run = Told(**RUN | changes)
    for step in range(run.step + 1, run.step + steps + 1):
        seconds = 20.0 + 5 * step
        run = run.stepped(step, STEP | {"reward/t2i/total": 1.75 + step, "seconds": seconds}, at=100 + seconds)
    return run


def shown(run: Told, width: int, height: int, now: float = 150.0) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    screen.print(panel(run, width, height, now))
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        (range(8), 8, BLOCKS),
        ([0.2, 0.1], 4, "█▁  "),
        ([3.0, 3.0, 3.0], 5, "▄▄▄  "),
        (range(16), 4, "▁▃▆█"),
        ([5.0, 5.0, -1.0, -1.0, 5.0], 2, "█▁"),
        ([], 3, "   "),
        ([1.0, 2.0], 0, ""),
        (range(80_000), 8, BLOCKS),
    ],
)
def test_a_sparkline(values: Sequence[float], width: int, line: str) -> None:
    assert sparkline(values, width) == line


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 50))
def test_a_sparkline_has_its_width_and_keeps_the_order(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == width
    assert set(line.rstrip()) <= set(BLOCKS)
    if len(values) <= width:
        heights = [BLOCKS.index(block) for block in line.rstrip()]
        assert all(heights[a] <= heights[b] for a, x in enumerate(values) for b, y in enumerate(values) if x < y)


def test_the_time_left_is_that_of_this_process_steps() -> None:
    run = told(0)
    assert run.left(now=100) is None
    assert told(1).left(now=125) == pytest.approx(9 * 4), "probes before the first step are not its own"
    assert told(4).left(now=140) == pytest.approx(6 * 5)
    assert told(4).left(now=142) == pytest.approx(6 * 5 - 2)
    assert told(4).left(now=900) == pytest.approx(5 * 5), "a long step is not the end"
    assert told(10).left(now=900) == 0
    resumed = told(3, step=4, start=4, spent=1000.0, began=100.0, series={"seconds": (900.0, 1000.0)})
    assert resumed.left(now=155) == pytest.approx(3 * 5)
    assert resumed.elapsed(now=155) == 1055


def test_phases_are_those_that_do_not_overlap_and_what_is_left() -> None:
    assert told(3).phases() == pytest.approx({"rollout": 3.0, "update": 1.0, "other": 1.0})


def test_numbers_that_are_none_are_left_out() -> None:
    run = Told(**RUN).stepped(1, {"reward/t2i/total": float("nan"), "nll/t2i": None, "seconds": 1.0, "lr": 0.1}, at=0)
    assert run.series == {"seconds": (1.0,)}


def test_a_panel_says_what_there_is() -> None:
    from corl_cli.trainer.probes import Reading

    run = told(4).heard([Reading.of(line) for line in (probe(0.5), probe(0.1, 0.3), probe(0.2, answer_type="mc"))])
    run = run.heard([Reading.of(probe(0.75))]).said("preflight: all is well").said("warning: too easy")
    lines = shown(run, 100, 40)
    assert lines[0].startswith("╭─  first  ─")
    words = [line.strip("│ ") for line in lines]
    assert words[1].startswith("step 4/10  ━")
    assert words[1].endswith("╌  2:30 gone, 0:25 left")
    table = [re.split(r"  +", line) for line in words]
    assert ["drawing, T = 1", "first 2 → last 2 steps"] in table
    assert ["held out: checker", "▁█", "0.500 → 0.750 ± 0.050"] in table
    assert ["total", "▁▃▆█", "3.250 → 5.250"] in table
    assert ["cycle.pixel", "▄▄▄▄", "0.900 → 0.900"] in table
    assert ["answering, T = 0.7", "first 2 → last 2 steps"] in table
    assert ["█ rollout 3 s (60%)", "▓ update 1 s (20%)", "▒ other 1 s (20%)"] in table
    assert "1,234 tokens a second, 2.50 GiB at most; groups without variance: drawing 0%, answering 50%" in words
    assert "page   runs/first/report.html" in words
    assert "warning: too easy" in words
    assert not [line for line in words if "preflight" in line or "nll" in line]
    (bar,) = (line.partition(" s  ")[2] for line in words if line.startswith("a step of 5 s"))
    assert [bar.count(shade) / len(bar) for shade in "█▓▒"] == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


@pytest.mark.parametrize("width", [200, 100, 60, 30])
@pytest.mark.parametrize("height", [60, 24, 12, 6])
def test_a_panel_keeps_within_its_terminal(width: int, height: int) -> None:
    run = told(7, page=Path("a" * 300) / "report.html", name="n" * 300).said("warning: " + "w" * 300)
    lines = shown(run, width, height)
    assert len(lines) < height
    assert {len(line) for line in lines} == {min(width, 110)}
    assert any("step 7/10" in line for line in lines)
    assert any("total" in line for line in lines) == (height > 6)
    assert any("cycle.pixel" in line for line in lines) == (height >= 24 and width > 30)
    assert any("report.html │" in re.sub(" +", " ", line) for line in lines) == (height > 6)


def test_a_run_without_a_word_has_a_panel() -> None:
    assert [line.strip("│ ╌") for line in shown(Told(**RUN), 60, 24)[1:-1]] == [
        "step 0/10  ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌  2:30 gone",
        "page   runs/first/report.html",
    ]


def test_a_run_goes_on_with_the_curves_that_it_has() -> None:
    lines: list[Mapping[str, Any]] = [
        {"step": 0, "probe": probe(0.5)},
        *({"step": step, "reward/t2i/total": float(step), "seconds": 10.0 * step} for step in (1, 2)),
        {"step": 2, "probe": probe(0.6)},
        {"step": 3, "reward/t2i/total": 9.0, "seconds": 30.0},
    ]
    words: dict[str, Any] = {"history": lines, "hidden": frozenset(), "at": 7.0}
    run = begin(load("world/unified"), Path("report.html"), 10, done=2, **words)
    assert (run.step, run.start, run.elapsed(now=8.0), run.left(now=8.0)) == (2, 2, 21.0, None)
    assert run.rewards("t2i") == {"total": (1.0, 2.0)}
    assert run.read == {("t2i", "checker"): ((0.5, 0.05), (0.6, 0.05))}
    assert run == run.after([], at=7.0)
    one = Told(**RUN | {"temperatures": {"t2i": 1.0, "mm2t": 1.0}})
    steps = [line for line in lines if "seconds" in line]
    each = one
    for line in steps:
        each = each.stepped(line["step"], line, at=7.0)
    assert one.after(steps, at=7.0) == each
    fresh = begin(load("world/unified"), Path("report.html"), 10, done=0, **words)
    assert (fresh.series, fresh.read) == ({}, {})


def test_an_imitation_shows_its_loss_and_a_total_of_nothing_is_hidden() -> None:
    words: dict[str, Any] = {"done": 0, "history": [], "at": 0.0}
    run = begin(load("world/sft"), Path("report.html"), 10, hidden=frozenset(), **words)
    assert run.stepped(1, {"nll/t2i": 0.5, "seconds": 1.0}, at=1.0).rewards("t2i") == {"loss (nll)": (0.5,)}
    hidden = frozenset({"reward/t2i/total"})
    run = begin(load("world/unified"), Path("report.html"), 10, hidden=hidden, **words)
    assert run.stepped(1, STEP, at=1.0).rewards("t2i") == {"cycle": (1.5,), "cycle.pixel": (0.9,)}


SMALL = {
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 8,
    "eval.probes.items": 2,
    "tracking.samples_every": 100,
    "tracking.rollouts_every": 100,
}
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def begun(steps: int, cwd: Path, **more: str) -> tuple[int, subprocess.Popen[str]]:
    """A short run whose stderr is a terminal of 100 columns: the terminal's other end, and the process."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    terminal, inner = os.openpty()
    termios.tcsetwinsize(terminal, (40, 100))
    process = started(
        *("train", "unified", "--out", "run", *overrides(SMALL | {"train.max_steps": steps})),
        cwd=cwd,
        env=environment | {"TERM": "xterm-256color"} | more,
        stdout=subprocess.PIPE,
        stderr=inner,
    )
    os.close(inner)
    return terminal, process


def in_terminal(steps: int, cwd: Path, react: Callable[[str, int], None] = lambda *_: None, **more: str) -> Any:
    """A short run whose stderr is a terminal of 100 columns: exit code, stdout, and all that the terminal got.

    `react` is given that, and the process, whenever there is more of it.
    """
    terminal, process = begun(steps, cwd, **more)
    got = b""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        got += read
        react(got.decode(errors="replace"), process.pid)
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    return process.returncode, stdout, got.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_run_in_a_terminal(tmp_path: Path) -> None:
    code, stdout, got = in_terminal(2, tmp_path)
    assert code == 0, got
    assert "drawing: checker" in stdout
    assert "╭─" not in stdout
    said = plain(got)
    assert said.count("preflight: 2 steps of 2 triplets x 2 samples") == 1
    last = said[said.rindex("╭─") :]
    for words in (
        "step 2/2",
        "0:00 left",
        "drawing, T = 1",
        "held out: accuracy",
        "matching",
        "rollout",
        "GiB at most",
    ):
        assert words in last
    assert "page   run/report.html" in last
    assert "step 2, held out" not in said, "that is a line for logs"
    assert got.rindex(SHOW) > got.rindex(HIDE)
    end = got.rindex(SHOW)
    assert "2 steps in" in got[end:]
    assert "run/report.html" in got[end:]
    assert "\x1b[36m" in got


def test_ctrl_c_at_any_moment_gives_the_cursor_back(tmp_path: Path) -> None:
    sent = []

    def interrupt(got: str, process: int) -> None:
        if HIDE in got and not sent:  # the model is not there yet
            sent.append(process)
            os.kill(process, signal.SIGINT)

    code, _, got = in_terminal(500, tmp_path, interrupt, NO_COLOR="1")
    assert code == 130, got
    assert got.rindex(SHOW) > got.rindex(HIDE)
    assert "error: interrupted" in got[got.rindex(SHOW) :]
    assert not re.search(r"\x1b\[[0-9;]*\b3[0-7]\b[0-9;]*m", got)


def test_a_run_outlives_its_terminal(tmp_path: Path) -> None:
    terminal, process = begun(2, tmp_path)
    got = b""
    while HIDE.encode() not in got:  # it draws, and has not begun
        got += os.read(terminal, 65536)
    os.close(terminal)
    stdout, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "drawing: checker" in stdout
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.parametrize(
    ("terminal", "term", "encoding", "room"),
    [
        (True, "xterm-256color", "utf-8", True),
        (True, "dumb", "utf-8", False),
        (True, "xterm", "latin-1", False),
        (False, "xterm", "utf-8", False),
    ],
)
def test_where_there_is_no_room_there_are_lines(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, encoding: str, room: bool
) -> None:
    outer, inner = os.openpty() if terminal else os.pipe()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours in a log make no terminal of it
    with open(inner, "w", encoding=encoding) as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", file)
        console.cache_clear()  # a process looks at its terminal once
        assert has_room() == room
    console.cache_clear()
    os.close(outer)
