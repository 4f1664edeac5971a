"""The table and the plot of a study, made of its readings alone: results.json, table.md, figure.png."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corl_cli.core.errors import CorlError
from corl_cli.core.numbers import finite
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import write_atomic
from corl_cli.core.types import TASKS, Task
from corl_cli.pipelines.study_arms import START, Ability, Study
from corl_cli.scoring import bootstrap
from corl_cli.scoring.bootstrap import Interval

RESULTS, TABLE, FIGURE = "results.json", "table.md", "figure.png"
MEAN = "mean"
COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")  # of matplotlib; C7 is grey


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One ability of one row: its mean with the interval around it, and its change from the start with that one's."""

    score: Interval
    change: Interval


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row at one temperature, with the budget of its models for one seed."""

    title: str
    temperature: str
    steps: int
    samples: int
    cells: dict[str, Cell]


def reading_file(folder: Path, name: str) -> Path:
    """Where the scores of one arm and seed are kept, item by item."""
    return folder / "readings" / f"{name}.json"


def write(study: Study, recipe: Recipe, folder: Path, *, through: int) -> None:
    """Table and plot of the seeds up to `through`, whose readings are all there."""
    seeds = recipe.study.seeds[: recipe.study.seeds.index(through) + 1]
    lines = compare(study, recipe, folder, seeds)
    about = caption(study, recipe, folder, seeds)
    results = {
        "study": study.name,
        "seeds": seeds,
        "missing_seeds": recipe.study.seeds[len(seeds) :],
        "caption": about,
        "table": table(lines),
        "rows": [asdict(line) for line in lines],
    }
    write_atomic(folder / RESULTS, json.dumps(finite(results), indent=2, allow_nan=False) + "\n")
    write_atomic(folder / TABLE, _markdown(table(lines), about))
    _draw(study, lines, about, folder / FIGURE)


def compare(study: Study, recipe: Recipe, folder: Path, seeds: Sequence[int]) -> list[Line]:
    """Every row at the temperatures of training, then every row at the lower one."""
    readings = _Readings(study, recipe, folder, seeds)
    names = [ability.title for ability in study.abilities]
    columns = {name: [index] for index, name in enumerate(names)} | {MEAN: list(range(len(names)))}
    lines = []
    for place in (0, 1):
        starts = [readings.table(START, ability, place) for ability in study.abilities]
        for row in study.rows:
            tables = [readings.table(*pair, place) for pair in zip(row.arms, study.abilities, strict=True)]
            cells = {
                name: Cell(
                    score=bootstrap.interval([tables[index] for index in own]),
                    change=bootstrap.interval([tables[index] - starts[index] for index in own]),
                )
                for name, own in columns.items()
            }
            steps, samples = study.budget(row)
            temperature = readings.temperature(place)
            lines.append(Line(title=row.title, temperature=temperature, steps=steps, samples=samples, cells=cells))
    return lines


def table(lines: Sequence[Line]) -> list[dict[str, str]]:
    """The lines as cells of text: of each ability the score, and the change from the start with its interval."""
    return [
        {"model": line.title, "T": line.temperature, "steps": f"{line.steps:,}", "samples": f"{line.samples:,}"}
        | {name: _cell(cell, line.title) for name, cell in line.cells.items()}
        for line in lines
    ]


def caption(study: Study, recipe: Recipe, folder: Path, seeds: Sequence[int]) -> str:
    """What the numbers are and how sure they are."""
    probes = recipe.eval.probes
    assert probes is not None
    titles = {"t2i": "drawing", "mm2t": "answering"}
    means = ", ".join(f"{titles[task]} is {getattr(probes.rewards, task)[0].name}" for task in TASKS)
    items = len(_Readings(study, recipe, folder, seeds).items)
    over = "seeds and held-out items" if len(seeds) > 1 else "held-out items alone, for want of a second seed"
    return (
        f"Means over {_count(len(seeds), 'seed')} ({', '.join(map(str, seeds))}) and {items} held-out items: {means}. "
        f"In brackets, and as whiskers, the {bootstrap.LEVEL:.0%} interval of the change from the start: a bootstrap "
        f"over {over}, {bootstrap.RESAMPLES:,} resamples, every item compared with itself at the start under the same "
        "sampling noise; the dashed line is the start. Steps and samples are what all training behind a row took, for "
        "one seed; T is the sampling temperature."
    )


class _Readings:
    """The readings of some seeds, as tables [seeds, items]."""

    def __init__(self, study: Study, recipe: Recipe, folder: Path, seeds: Sequence[int]) -> None:
        assert recipe.eval.probes is not None
        self.score = {task: getattr(recipe.eval.probes.rewards, task)[0].name for task in TASKS}
        self.files = {name: [f"{name}-seed-{seed}" for seed in seeds] for name in study.arms if name != START}
        self.files[START] = [START] * len(seeds)
        self.read = {
            file: json.loads(reading_file(folder, file).read_text(encoding="utf-8"))["scores"]
            for file in dict.fromkeys(file for files in self.files.values() for file in files)
        }
        self.items: list[str] = self._scores(START, "t2i", 0)["items"]

    def table(self, arm: str, ability: Ability, place: int) -> NDArray[np.float64]:
        """An ability of an arm [seeds, items], NaN for items of another kind; the start is repeated for all seeds."""
        return np.stack([self._row(file, ability, place) for file in self.files[arm]])

    def temperature(self, place: int) -> str:
        """Of both tasks, where they share it."""
        found = [f"{self._scores(START, task, place)['temperature']:g}" for task in TASKS]
        return " / ".join(dict.fromkeys(found))

    def _row(self, file: str, ability: Ability, place: int) -> NDArray[np.float64]:
        scores = self._scores(file, ability.task, place)
        if scores["items"] != self.items:
            raise CorlError(
                f"The reading {file} is of other items than that of the start: the held-out data have changed.",
                "Do the study again with another --out.",
            )
        own = np.array([ability.answer_type in ("", kind) for kind in scores["answer_types"]])
        return np.where(own, np.array(scores["values"], dtype=float), np.nan)  # null is NaN

    def _scores(self, file: str, task: Task, place: int) -> dict[str, Any]:
        """The first reward of a task's probes, at the training temperature (0) or at the lower one (1)."""
        found: dict[str, Any] = [
            scores for scores in self.read[file] if scores["task"] == task and scores["score"] == self.score[task]
        ][place]
        return found


def _cell(cell: Cell, title: str) -> str:
    change = cell.change
    if title == START:
        return f"{cell.score.mean:.3f}"
    return f"{cell.score.mean:.3f}  {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _markdown(rows: Sequence[dict[str, str]], about: str) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{about}\n"


def _draw(study: Study, lines: Sequence[Line], about: str, path: Path) -> None:
    """A panel for each ability and for their mean, a row of them for each temperature; the start is a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names, count = [*(ability.title for ability in study.abilities), MEAN], len(study.rows)
    parts = [lines[:count], lines[count:]]
    figure, axes = pyplot.subplots(
        len(parts), len(names), figsize=(3.2 + 2.6 * len(names), 1.8 + 0.56 * count), sharey=True, layout="constrained"
    )
    for part, row in zip(parts, axes, strict=True):
        for name, axis in zip(names, row, strict=True):
            _draw_panel(axis, part, name)
            axis.set_title(f"{name}, T = {part[0].temperature}", fontsize="medium")
    figure.supxlabel(textwrap.fill(about, 40 * len(names)), fontsize="x-small", color="0.35")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    pyplot.close(figure)
    write_atomic(path, buffer.getvalue())


def _draw_panel(axis: Any, lines: Sequence[Line], name: str) -> None:
    start, *others = lines
    level = start.cells[name].score.mean
    axis.axvline(level, color="0.5", linestyle="--", linewidth=1)
    colours = cycle(COLOURS)
    for place, line in enumerate(others):
        cell = line.cells[name]
        low, high = (level + end for end in (cell.change.low, cell.change.high))
        colour = "0.6" if ":" in line.title else next(colours)  # parts of a row above are pale
        axis.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.7, solid_capstyle="butt")
        axis.plot([cell.score.mean], [place], "o", color=colour, markersize=6)
    axis.set_yticks(range(len(others)), [line.title for line in others])
    axis.set_ylim(len(others) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
