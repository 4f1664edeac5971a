"""What all figures of a run share: colours, quiet axes, readings with their errors, smoothed metrics, keys.

Colours are told apart on white, in grey, and where a dark page turns them round (templates/base.html).
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from corl_cli.pipelines.summary import SMOOTHED, Story

COLOURS = ("#0072b2", "#d55e00", "#00916e", "#b0559a", "#8c7000", "#5b6abf", "#c03a3a", "#4d7f99")
STROKES = (("-", "o"), ((0, (3, 1.2)), "s"), ((0, (1, 1)), "^"), ((0, (4, 1, 1, 1)), "D"))  # of lines, and marks
INK, FAINT, RULE = "#1c1f24", "#5d6673", "#a9b1bb"
PLAIN: Any = {"text.parse_math": False}  # matplotlib's settings: a dollar in a name is a dollar
MANY = 300  # points of a line; of more it has as many, and faint points and areas go into a page as pixels
SMOOTHING = (
    f"Points are steps; a line is the mean of the last {SMOOTHED} steps that have the metric, and the band ± its "
    "standard error over them, as if they were independent."
)

# Inches. Words of 9 points are 11 pixels high where a phone shows a figure 320 pixels wide.
WIDTH, LEFT, RIGHT, LINE, FOOT = 3.6, 0.52, 0.08, 0.2, 0.46
LETTERS = 46  # of a title's line

Points = Sequence[tuple[int, float]]


class Trend(NamedTuple):
    """A running mean and its standard error, each as long as what was smoothed."""

    mean: NDArray[np.float64]
    stderr: NDArray[np.float64]


def smooth(values: Sequence[float], width: int = SMOOTHED) -> Trend:
    """Of the last `width` values, or as many as there are; the standard error of one value is NaN."""
    padded = np.concatenate([np.full(width - 1, np.nan), np.asarray(values, dtype=float)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    counts = np.minimum(np.arange(len(windows)) + 1, width)
    mean = np.nansum(windows, axis=1) / counts
    squares = np.nansum((windows - mean[:, None]) ** 2, axis=1)
    variance = np.divide(squares, counts - 1, out=np.full(len(counts), np.nan), where=counts > 1)
    return Trend(mean, np.sqrt(variance / counts))


class Ink(NamedTuple):
    """How one run is drawn; runs whose colour is the same differ in their `cycle`, and so in lines and marks."""

    colour: str
    cycle: int = 0

    @property
    def line(self) -> Any:
        """Its lines, as matplotlib has them."""
        return STROKES[self.cycle][0]

    @property
    def mark(self) -> str:
        """Its points, as matplotlib has them."""
        return STROKES[self.cycle][1]


def inked(stories: Sequence[Story]) -> list[tuple[Story, Ink]]:
    """Each run with its ink, the same in all figures; as many as there are colours times strokes differ."""
    inks = [Ink(colour, cycle) for cycle in range(len(STROKES)) for colour in COLOURS]
    return [(story, inks[place % len(inks)]) for place, story in enumerate(stories)]


def thin(values: Sequence[Any] | NDArray[np.float64]) -> NDArray[np.float64]:
    """At most MANY of them, evenly spaced; always the first and the last."""
    return np.asarray(values)[np.linspace(0, len(values) - 1, min(MANY, len(values))).round().astype(int)]


def panels(
    title: str, names: Sequence[str], stories: Sequence[Story], keys: Sequence[Line2D] = ()
) -> tuple[Figure, dict[str, Axes]]:
    """A titled figure with a panel for each name, one under the other, over the steps of all runs; keys at its foot.

    Plots stand at the same place in all figures. An only panel whose name is empty fills the figure.
    """
    head = textwrap.wrap(title, LETTERS)
    columns = max(1, min(len(keys), 50 // (max((len(str(key.get_label())) for key in keys), default=0) + 7)))
    above, each = LINE * any(names), 1.05 if any(names) else 1.5
    top = 0.1 + LINE * len(head)
    bottom = FOOT + LINE * -(-len(keys) // columns)
    height = top + (above + each) * len(names) + 0.1 * (len(names) - 1) + bottom
    figure = Figure(figsize=(WIDTH, height))
    figure.text(0.02, 1 - 0.06 / height, "\n".join(head), fontsize=10, color=INK, va="top")
    place = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH, "bottom": bottom / height}
    place |= {"top": 1 - (top + above) / height, "hspace": (above + 0.1) / each}
    axes = figure.subplots(len(names), sharex=True, squeeze=False, gridspec_kw=place)[:, 0]
    for axis, name in zip(axes, names, strict=True):
        dress(axis)
        axis.set_title(name, loc="left", fontsize=9, color=FAINT, pad=4)
    axes[-1].set_xlabel("step", fontsize=9, color=FAINT, labelpad=2)
    axes[-1].set_xlim(*span(stories))
    if keys:
        figure.legend(
            handles=keys, loc="lower left", ncols=columns, fontsize=9, labelcolor=FAINT, frameon=False, borderaxespad=0
        )
    return figure, dict(zip(names, axes, strict=True))


def span(stories: Sequence[Story]) -> tuple[float, float]:
    """The steps of all runs, with a little room."""
    last = max(1, *(story.last_step for story in stories))
    return -0.02 * last, 1.03 * last


def run_keys(stories: Sequence[Story], drawn: Sequence[Sized]) -> list[Line2D]:
    """The keys of those of several runs that have something drawn; one run needs none."""
    several = zip(inked(stories), drawn, strict=True) if len(stories) > 1 else []
    return [
        Line2D([], [], color=ink.colour, linestyle=ink.line, linewidth=3, label=story.label)
        for (story, ink), own in several
        if own
    ]


def dress(axis: Axes, points: float = 9) -> None:
    """Thin lines, and quiet words of this many points."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(RULE)
    axis.tick_params(labelsize=points, colors=RULE, labelcolor=FAINT, length=3)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.grid(axis="y", color=RULE, alpha=0.35, linewidth=0.8)
    axis.set_axisbelow(True)


def style(ink: Ink, *, trained: bool) -> dict[str, Any]:
    """Of a reading's line: solid (as its ink is) at the temperature of training, dashed and open at another."""
    own = {"color": ink.colour, "marker": ink.mark, "markersize": 4}
    if trained:
        return own | {"linewidth": 1.6, "linestyle": ink.line}
    return own | {
        "markerfacecolor": "white",
        "linewidth": 1.2,
        "linestyle": (0, (4, 2)),
        "alpha": 0.65,
    }


def draw_readings(axis: Axes, points: Sequence[tuple[int, float, float]], ink: Ink, *, trained: bool) -> None:
    """Means with their standard errors by step."""
    steps, means, errors = zip(*points, strict=True)
    axis.errorbar(steps, means, errors, elinewidth=1, capsize=2, **style(ink, trained=trained))


def draw_trend(axis: Axes, points: Points, ink: Ink) -> None:
    """Every value as a faint point, their running mean, and a band of ± its standard error."""
    steps, values = zip(*points, strict=True)
    mean, stderr = smooth(values)
    pixels = len(points) > MANY
    axis.plot(steps, values, ".", color=ink.colour, markersize=5, markeredgewidth=0, alpha=0.35, rasterized=pixels)
    at, mean, stderr = thin(steps), thin(mean), thin(stderr)
    axis.fill_between(at, mean - stderr, mean + stderr, color=ink.colour, alpha=0.2, linewidth=0)
    draw_line(axis, at, mean, ink)


def draw_line(
    axis: Axes, steps: Sequence[int] | NDArray[np.float64], values: Sequence[float] | NDArray[np.float64], ink: Ink
) -> None:
    """A run's line."""
    axis.plot(steps, values, color=ink.colour, linestyle=ink.line, linewidth=1.6)
