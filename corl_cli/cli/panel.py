"""The dashboard of a run as text: a function of what the run has told and of the room there is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from corl_cli.cli.common import clock
from corl_cli.cli.told import WINDOW, Told
from corl_cli.core.types import TASKS, TITLES, Task

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
SHADES = "█▓▒░▚▪"  # parts of a bar, told apart without colours too
COLOURS = ("cyan", "magenta", "yellow", "blue", "green", "white")
WIDEST, LONGEST = 110, 40  # columns of the panel, and of a sparkline
LOOKED_AT = 400  # values of a series, about


class Line(NamedTuple):
    """One line of the panel; where there is no room, those with the greatest `rank` go first."""

    text: Text
    rank: int


class Row(NamedTuple):
    """One line of the table of an ability, before its columns have their widths."""

    name: str
    values: Sequence[float]
    words: str
    rank: int


def panel(told: Told, width: int, height: int, now: float) -> Panel:
    """The dashboard at the clock's `now`, within so many columns and lines of a terminal."""
    from rich.box import ROUNDED
    from rich.panel import Panel
    from rich.text import Text

    width = min(width, WIDEST)
    lines = fit(layout(told, width - 4, now), height - 3)  # a frame, and the line of the cursor
    title = Text(f" {told.name} ", style="bold")
    title.truncate(width - 6, overflow="ellipsis")  # a longer one would widen the frame
    return Panel(
        Text("\n", no_wrap=True).join(line.text for line in lines),
        title=title,
        title_align="left",
        box=ROUNDED,
        border_style="bright_black",
        width=width,
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as blocks from their lowest to their highest, `width` of them at most, each the mean of as many values.

    Shorter series are padded with spaces; one that never changes stands in the middle. Of a long one every k-th value
    is looked at, so that a long run is drawn as fast as a short one.
    """
    values = values[:: max(1, len(values) // LOOKED_AT)]
    count = min(width, len(values))
    cuts = [place * len(values) // count for place in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return (BLOCKS[3] * count).ljust(width)
    places = [min(7, int((mean - low) / (high - low) * 8)) for mean in means]
    return "".join(BLOCKS[place] for place in places).ljust(width)


def fit(lines: Sequence[Line], height: int) -> list[Line]:
    """The lines that have room in `height`, in their order."""
    kept = sorted(range(len(lines)), key=lambda place: (lines[place].rank, place))[: max(1, height)]
    return [lines[place] for place in sorted(kept)]


def layout(told: Told, width: int, now: float) -> list[Line]:
    """All lines of the dashboard, none wider than `width`."""
    from rich.text import Text

    sections = [rows for task in TASKS if (rows := _rows(told, task))]
    lines = [Line(_steps(told, width, now), 0)]
    for section in _table(sections, width):
        lines += [Line(Text(""), 8), *section]
    if told.series:
        lines += [Line(Text(""), 8), *_machine(told, width)]
    path = str(told.page)
    keep = width - len("page   ")
    lines.append(Line(Text(f"page   {path if len(path) <= keep else '…' + path[1 - keep :]}"), 4))
    lines += [Line(Text(note, style="yellow"), 3) for note in told.notes]
    for line in lines:
        line.text.truncate(width, overflow="ellipsis")
    return lines


def _steps(told: Told, width: int, now: float) -> Text:
    from rich.text import Text

    left = told.left(now)
    before = f"step {told.step:,}/{told.num_steps:,}  "
    after = f"  {clock(told.elapsed(now))} gone" + ("" if left is None else f", {clock(left)} left")
    room = max(0, width - len(before) - len(after))
    done = round(room * told.step / max(1, told.num_steps))
    return Text.assemble((before, "bold"), ("━" * done, "green"), ("╌" * (room - done), "bright_black"), after)


def _rows(told: Told, task: Task) -> list[Row]:
    """The table of an ability: a head, its held-out readings, and what it is trained on; empty where nothing is told.

    Rewards of single steps are noisy: the first and the last of them are means of up to WINDOW steps.
    """
    read = {score: values for (of, score), values in told.read.items() if of == task}
    rewards = told.rewards(task)
    if not read and not rewards:
        return []
    steps = max(map(len, rewards.values()), default=0)
    size = _size(steps)
    head = ("start → last ± standard error", "first → last step", f"first {size} → last {size} steps")
    rows = [Row(f"{TITLES[task]}, T = {told.temperatures[task]:g}", (), head[min(size, 2) if steps else 0], 1)]
    for score, readings in read.items():
        means = [mean for mean, _ in readings if math.isfinite(mean)]
        words = f"{_number(readings[0][0])} → {_number(readings[-1][0])} ± {_number(readings[-1][1])}"
        rows.append(Row(f"  held out: {score}", means, words, 1))
    for name, values in rewards.items():
        size = _size(len(values))
        first, last = sum(values[:size]) / size, sum(values[-size:]) / size
        rank = 2 if name == "total" else 7 if "." in name else 5
        rows.append(Row(f"  {name}", values, f"{_number(first)} → {_number(last)}", rank))
    return rows


def _size(steps: int) -> int:
    """Of how many steps the first and the last value are the mean."""
    return max(1, min(WINDOW, steps // 2))


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def _table(sections: Sequence[Sequence[Row]], width: int) -> list[list[Line]]:
    """The rows of all abilities in the same three columns: name, sparkline, words."""
    from rich.text import Text

    rows = [row for section in sections for row in section]
    words = max((len(row.words) for row in rows), default=0)
    names = min(max((len(row.name) for row in rows), default=0), max(12, (width - words) * 2 // 3))
    curve = max(0, min(LONGEST, width - names - words - 4))

    def line(row: Row) -> Line:
        name = Text(row.name, style="" if row.values else "bold")
        name.truncate(names, overflow="ellipsis", pad=True)
        style = "" if row.values else "bright_black"
        return Line(
            Text.assemble(name, "  ", (sparkline(row.values, curve), "cyan"), "  ", (row.words, style)), row.rank
        )

    return [[line(row) for row in section] for section in sections]


def _machine(told: Told, width: int) -> list[Line]:
    """Where the time of a step goes, speed and memory, and how many groups teach nothing."""
    from rich.text import Text

    phases = {name: seconds for name, seconds in told.phases().items() if seconds > 0}
    total = sum(phases.values())
    lines = []
    if total > 0:
        phases = {name: seconds for name, seconds in phases.items() if seconds >= 0.005 * total}
        head = f"a step of {total:.3g} s  "
        lines.append(Line(Text.assemble(head, *_bar(phases, min(width, 80) - len(head))), 6))
        lines.append(Line(_legend(phases, width), 6))
    speed, memory = told.recent("tokens_per_second"), told.greatest("memory/peak_gib")
    words = [f"{speed:,.0f} tokens a second"] if speed is not None else []
    words += [f"{memory:.2f} GiB at most"] if memory is not None else []
    equal = {title: told.recent(f"zero_variance/{task}") for task, title in TITLES.items()}
    shares = [f"{title} {share:.0%}" for title, share in equal.items() if share is not None]
    groups = [f"groups without variance: {', '.join(shares)}"] if shares else []
    return lines + [Line(Text(text), 6) for text in _joined([", ".join(words), *groups], width) if text]


def _bar(parts: Mapping[str, float], width: int) -> Iterable[tuple[str, str]]:
    """Shares as one bar, each part in a shade and a colour of its own."""
    total, gone, end = sum(parts.values()), 0.0, 0
    for place, seconds in enumerate(parts.values()):
        gone += seconds
        start, end = end, round(max(0, width) * gone / total)
        yield SHADES[place % len(SHADES)] * (end - start), COLOURS[place % len(COLOURS)]


def _legend(parts: Mapping[str, float], width: int) -> Text:
    """The parts of the bar by name: with their seconds, or where that is too wide, with their shares alone."""
    from rich.text import Text

    total = sum(parts.values())
    shares = [f" {name} {seconds / total:.0%}" for name, seconds in parts.items()]
    whole = [f" {name} {seconds:.3g} s ({seconds / total:.0%})" for name, seconds in parts.items()]
    words = whole if sum(map(len, whole)) + 3 * len(whole) <= width else shares
    shades = [(SHADES[place % len(SHADES)], COLOURS[place % len(COLOURS)]) for place in range(len(words))]
    return Text("  ").join(Text.assemble(shade, word) for shade, word in zip(shades, words, strict=True))


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """In one line where they have room."""
    line = "; ".join(part for part in parts if part)
    return [line] if len(line) <= width else list(parts)
