"""What a built set is made of: counts over all its rows, read without its images, and the plots of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("prompt", "question", "answer", "answer_type", "source", "coverage", "pass_rate")
ROWS = 1024  # read at once, without images
BINS = 20  # of a share from 0 to 1
WIDEST = 60  # words; longer texts are counted with these


@dataclass
class Distributions:
    """Counts over the rows of a set, in bounded memory whatever its size.

    `prompts`, `questions` count texts by their words (0: there is none), `coverage` and `pass_rate` shares by the
    number of their bin of BINS; what is NaN or missing is counted nowhere.
    """

    sources: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    prompts: Counter[int] = field(default_factory=Counter)
    questions: Counter[int] = field(default_factory=Counter)
    coverage: Counter[int] = field(default_factory=Counter)
    pass_rate: Counter[int] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.sources[row["source"]] += 1
        self.prompts[len(row["prompt"].split())] += 1
        self.questions[len(row["question"].split())] += 1
        if row["question"]:
            self.types[row["answer_type"]] += 1
            if row["answer_type"] == "mc":
                self.letters[row["answer"]] += 1
        for name in ("coverage", "pass_rate"):
            share = row.get(name)
            if share is not None and not math.isnan(share):
                getattr(self, name)[min(int(share * BINS), BINS - 1)] += 1


def count(files: Iterable[Path]) -> Distributions:
    """The distributions of parquet files of triplets."""
    found = Distributions()
    for row in rows(files, COLUMNS):
        found.add(row)
    return found


def rows(files: Iterable[Path], columns: Sequence[str], batch: int = ROWS) -> Iterator[dict[str, Any]]:
    """The rows of parquet files in order, of the columns that are there; `batch` of them are in memory at a time."""
    from pyarrow import parquet

    for file in files:
        with parquet.ParquetFile(file) as opened:
            present = [name for name in columns if name in opened.schema_arrow.names]
            for read in opened.iter_batches(batch, columns=present):
                yield from read.to_pylist()


def figures(found: Distributions, sizes: Counter[tuple[int, int]]) -> list[Figure]:
    """The distributions as small plots, `sizes` (width, height) beside them; what has no rows is left out."""
    shares = {"coverage of question and answer": found.coverage, "pass rate": found.pass_rate}
    lengths = {"words of a prompt": found.prompts, "words of a question": found.questions}
    names = {"right answers": found.letters, "answer types": found.types, "sources": found.sources}
    return [
        *(_share(title, counts) for title, counts in shares.items() if counts),
        *(_length(title, counts) for title, counts in lengths.items() if set(counts) - {0}),
        *(_named(title, counts) for title, counts in names.items() if counts),
        *([_sizes(sizes)] if sizes else []),
    ]


def _share(title: str, counts: Counter[int]) -> Figure:
    figure, axis = _empty(title)
    axis.bar([(each + 0.5) / BINS for each in range(BINS)], [counts[each] for each in range(BINS)], 0.9 / BINS)
    axis.set_xlim(0, 1)
    return figure


def _length(title: str, counts: Counter[int]) -> Figure:
    figure, axis = _empty(title)
    clipped: Counter[int] = Counter()
    for words, rows in counts.items():
        if words:
            clipped[min(words, WIDEST)] += rows
    axis.bar(list(clipped), list(clipped.values()), 0.9)
    if WIDEST in clipped:
        axis.set_xlabel(f"{WIDEST}: so many or more", fontsize=8)
    return figure


def _named(title: str, counts: Counter[str]) -> Figure:
    figure, axis = _empty(title)
    names = sorted(counts, reverse=True)
    axis.barh(names, [counts[name] for name in names])
    return figure


def _sizes(sizes: Counter[tuple[int, int]]) -> Figure:
    figure, axis = _empty(f"width and height of {sizes.total():,} images")
    widths, heights = zip(*sizes, strict=True)
    most = max(sizes.values())
    axis.scatter(widths, heights, [6 + 60 * number / most for number in sizes.values()], alpha=0.5, linewidths=0)
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("pixels", fontsize=8)
    return figure


def _empty(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=10)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    return figure, axis
