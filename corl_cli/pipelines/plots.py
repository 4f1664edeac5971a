"""The figures of a run's page; several runs lie over each other, each in its own colour, the same in all figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from corl_cli.core.types import Task
from corl_cli.pipelines.summary import SMOOTHED, TITLES, Story

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#00916e",
    "#b0559a",
    "#8c7000",
    "#5b6abf",
    "#c03a3a",
    "#4d7f99",
)  # apart when inverted
INK, FAINT, RULE = "#1c1f24", "#5d6673", "#a9b1bb"
WIDTH = 3.6  # inches: words of 9 points are 11 pixels where a phone shows a figure 320 pixels wide
MANY = 300  # points of a line; more of them go into a page as pixels
SMOOTHING = (
    f"Points are steps; a line is the mean of a task's last {SMOOTHED} steps, and the band ± its standard error over "
    "them, as if they were independent."
)
PLAIN: Any = {"text.parse_math": False}  # a dollar in a name is a dollar

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
    spread = np.divide(squares, counts - 1, out=np.full(len(counts), np.nan), where=counts > 1)
    return Trend(mean, np.sqrt(spread / counts))


@rc_context(PLAIN)
def held_out(stories: Sequence[Story], task: Task) -> Figure | None:
    """A panel for each held-out score: its mean through time ± its standard error; None where nothing was read.

    Solid at the temperature of training, dashed at the other one.
    """
    read = [(story, colour, story.readings(task)) for story, colour in _coloured(stories)]
    labels = dict.fromkeys(label for *_, readings in read for label, _ in readings)
    if not labels:
        return None
    figure, axes = _panels(stories, list(labels))
    temperatures: dict[bool, set[float]] = {True: set(), False: set()}
    for story, colour, readings in read:
        for (label, temperature), points in readings.items():
            trained = temperature == story.recipe.sampling.of(task).temperature
            temperatures[trained].add(temperature)
            draw_readings(axes[label], points, colour, trained=trained)
    _title(figure, f"{TITLES[task]}, held out: mean ± standard error")
    styles = [
        Line2D([], [], color=FAINT, label=f"T = {_listed(found)}{' (training)' * trained}", **_style(trained=trained))
        for trained, found in temperatures.items()
        if found
    ]
    _legend(figure, [*_runs(stories), *styles])
    return figure


@rc_context(PLAIN)
def rewards(stories: Sequence[Story], task: Task) -> list[Figure]:
    """A figure for each reward of a task, its parts and the total, or for the loss where targets are imitated.

    A total that is 0 by construction is left out; SMOOTHING says what points, lines and bands are.
    """
    learnt = [story for story in stories if task in story.recipe.train.tasks]
    reinforced = [story.curves(task) if story.recipe.train.method == "rl" else {} for story in stories]
    names = sorted(dict.fromkeys(name for curves in reinforced for name in curves), key=lambda name: name != "total")
    figures = [
        _trends(stories, f"{TITLES[task]}: {name}", [curves.get(name, []) for curves in reinforced]) for name in names
    ]
    if any(story.recipe.train.method == "sft" for story in learnt):
        losses = [
            story.points(f"nll/{task}") if story in learnt and story.recipe.train.method == "sft" else []
            for story in stories
        ]
        if any(losses):
            figures.append(_trends(stories, f"{TITLES[task]}: loss of the targets, nats a token", losses))
    return figures


@rc_context(PLAIN)
def health(stories: Sequence[Story], task: Task) -> list[Figure]:
    """What tells whether a task's training is well, of what was measured: how open the policy is and how far from its
    start, groups that teach nothing, lengths, clipping, its own gradient, and which rewards the advantages follow.
    """
    kinds: list[tuple[str, str, Callable[[Story], bool]]] = [
        (f"entropy/{task}", "entropy, nats a token", _always),
        (f"kl/{task}", "KL to the start, nats a token", _always),
        (f"zero_variance/{task}", "share of groups with equal rewards", _always),
        (
            f"masked/{task}",
            "share of samples left out",
            lambda story: any(v for _, v in story.points(f"masked/{task}")),
        ),
        (f"length/{task}", "tokens of a completion", lambda _: task == "mm2t"),  # a drawing's are always as many
        (f"at_limit/{task}", "share of completions cut off", _always),
        (f"clipped_low/{task}", "share of tokens clipped below", lambda story: story.recipe.algo.clip_eps is not None),
        (f"clipped_high/{task}", "share of tokens clipped above", lambda story: story.recipe.algo.clip_eps is not None),
        (f"grad_norm/{task}", "norm of its own gradient", _always),
    ]
    figures = []
    for name, title, shown in kinds:
        drawn = [story.points(name) if shown(story) else [] for story in stories]
        if any(drawn):
            figures.append(_trends(stories, f"{TITLES[task]}: {title}", drawn))
    return figures + _shares(stories, task)


@rc_context(PLAIN)
def machine(stories: Sequence[Story]) -> list[Figure]:
    """What belongs to whole steps: the norm of their gradient, their seconds (of one run by phase), their memory."""
    figures = []
    for name, title in (("grad_norm", "gradient norm"), ("grad_cosine", "cosine between the tasks' gradients")):
        if any(drawn := [story.points(name) for story in stories]):
            figures.append(_trends(stories, title, drawn))
    if any(phases := [_phases(story) for story in stories]):
        if len(stories) == 1:
            figures.append(_stacked(stories[0], phases[0]))
        else:
            figures.append(_trends(stories, "seconds a step", [_summed(own) for own in phases]))
    for name, title in (
        ("tokens_per_second", "tokens sampled a second"),
        ("memory/peak_gib", "peak memory so far, GiB"),
    ):
        if any(drawn := [story.points(name) for story in stories]):
            figures.append(_trends(stories, title, drawn, smoothed=name != "memory/peak_gib"))
    return figures


def draw_readings(axis: Axes, points: Sequence[tuple[int, float, float]], colour: str, *, trained: bool) -> None:
    """Means with their standard errors by step, open and dashed where the temperature is not that of training."""
    steps, means, errors = zip(*points, strict=True)
    axis.errorbar(steps, means, errors, color=colour, elinewidth=1, capsize=2, **_style(trained=trained))


def dress(axis: Axes, *, size: float = 9) -> None:
    """Thin lines and quiet words of this many points."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(RULE)
    axis.tick_params(labelsize=size, colors=RULE, labelcolor=FAINT, length=3)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.grid(axis="y", color=RULE, alpha=0.35, linewidth=0.8)
    axis.set_axisbelow(True)


def _always(_: Story) -> bool:
    return True


def _style(*, trained: bool) -> dict[str, Any]:
    if trained:
        return {"marker": "o", "markersize": 4, "linewidth": 1.6}
    return {
        "marker": "o",
        "markersize": 4,
        "linewidth": 1.2,
        "linestyle": (0, (4, 2)),
        "markerfacecolor": "white",
        "alpha": 0.65,
    }


def _coloured(stories: Sequence[Story]) -> list[tuple[Story, str]]:
    return [(story, COLOURS[place % len(COLOURS)]) for place, story in enumerate(stories)]


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


def _panels(stories: Sequence[Story], titles: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    """Panels of the same steps, one under the other."""
    figure = Figure(figsize=(WIDTH, 1.1 + 1.3 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), sharex=True, squeeze=False)[:, 0]
    for axis, title in zip(axes, titles, strict=True):
        dress(axis)
        axis.set_title(title, loc="left", fontsize=10, color=INK)
    axes[-1].set_xlabel("step", fontsize=9, color=FAINT)
    last = max(1, *(story.last_step for story in stories))
    axes[-1].set_xlim(-0.02 * last, 1.03 * last)
    return figure, dict(zip(titles, axes, strict=True))


def _runs(stories: Sequence[Story]) -> list[Line2D]:
    """The keys of several runs; one needs none."""
    coloured = _coloured(stories) if len(stories) > 1 else []
    return [Line2D([], [], color=colour, linewidth=3, label=story.label) for story, colour in coloured]


def _title(figure: Figure, title: str) -> None:
    """The title over several panels."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Under the panels, as many keys in a row as there is room for."""
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), 50 // (longest + 7)))
        figure.legend(
            handles=handles, loc="outside lower left", ncols=columns, fontsize=9, labelcolor=FAINT, frameon=False
        )


def _trends(stories: Sequence[Story], title: str, drawn: Sequence[Points], *, smoothed: bool = True) -> Figure:
    """One metric of every run that has it."""
    figure, axes = _panels(stories, [title])
    for (_, colour), points in zip(_coloured(stories), drawn, strict=True):
        if points:
            draw_trend(axes[title], points, colour, smoothed=smoothed)
    _legend(figure, _runs(stories))
    return figure


def draw_trend(axis: Axes, points: Points, colour: str, *, smoothed: bool = True) -> None:
    steps, values = zip(*points, strict=True)
    if not smoothed:
        axis.plot(steps, values, color=colour, linewidth=1.6)
        return
    mean, stderr = smooth(values)
    axis.plot(
        steps, values, ".", color=colour, markersize=4, markeredgewidth=0, alpha=0.4, rasterized=len(points) > MANY
    )
    axis.fill_between(steps, mean - stderr, mean + stderr, color=colour, alpha=0.2, linewidth=0)
    axis.plot(steps, mean, color=colour, linewidth=1.6)


def _shares(stories: Sequence[Story], task: Task) -> list[Figure]:
    """How much the advantages follow each reward, where there are several: a panel for each."""
    prefix = f"share/{task}/"
    names = dict.fromkeys(
        name for story in stories for line in story.metrics for name in line if name.startswith(prefix)
    )
    if len(names) < 2:
        return []
    figure, axes = _panels(stories, [name.removeprefix(prefix) for name in names])
    for name in names:
        for story, colour in _coloured(stories):
            if points := story.points(name):
                draw_trend(axes[name.removeprefix(prefix)], points, colour)
    _title(figure, f"{TITLES[task]}: share of the advantages' variance")
    _legend(figure, _runs(stories))
    return [figure]


def _phases(story: Story) -> dict[str, Points]:
    """Seconds of every step by phase."""
    lines = [line for line in story.metrics if "seconds" in line]
    names = dict.fromkeys(name for line in lines for name in line if name.startswith("time/") and name.count("/") == 1)
    return {name.removeprefix("time/"): [(line["step"], line.get(name) or 0.0) for line in lines] for name in names}


def _summed(phases: Mapping[str, Points]) -> Points:
    """Seconds of every step in all phases."""
    return [(own[0][0], sum(seconds for _, seconds in own)) for own in zip(*phases.values(), strict=True)]


def _stacked(story: Story, phases: Mapping[str, Points]) -> Figure:
    """One run's phases on top of each other."""
    figure, axes = _panels([story], [title := "seconds a step"])
    steps = [step for step, _ in next(iter(phases.values()))]
    values = [[seconds for _, seconds in points] for points in phases.values()]
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(values))]
    axes[title].stackplot(steps, values, colors=colours, alpha=0.75, linewidth=0)
    keys = zip(phases, colours, strict=True)
    _legend(figure, [Line2D([], [], color=colour, linewidth=5, alpha=0.75, label=name) for name, colour in keys])
    return figure
