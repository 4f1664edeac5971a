"""The figures of a run's page; several runs lie over each other, each in its own colour, the same in all figures."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Task
from corl_cli.pipelines.panels import (
    COLOURS,
    FAINT,
    INK,
    MANY,
    PLAIN,
    RULE,
    Ink,
    Points,
    draw_line,
    draw_readings,
    draw_trend,
    dress,
    inked,
    panels,
    run_keys,
    span,
    style,
    thin,
)
from corl_cli.pipelines.summary import TITLES, Story
from corl_cli.scoring.answers import extract
from corl_cli.trainer.album import Entry, Look

ITEMS = 4  # rows of the picture
PAGE, MARGIN, HEAD, WORDS, CELL, GAP = (
    960,
    24,
    92,
    128,
    80,
    4,
)  # of the picture, in pixels of a page; it has twice as many


@rc_context(PLAIN)
def held_out(stories: Sequence[Story], task: Task) -> Figure | None:
    """A panel for each held-out score: its mean through time ± its standard error; None where nothing was read.

    Solid at the temperature of training, dashed at another.
    """
    read = [(story, ink, story.readings(task)) for story, ink in inked(stories)]
    labels = list(dict.fromkeys(label for *_, readings in read for label, _ in readings))
    if not labels:
        return None
    temperatures = {
        trained: sorted({t for story, _, readings in read for _, t in readings if _trained(story, task, t) == trained})
        for trained in (True, False)
    }
    keys = [
        Line2D(
            [],
            [],
            label=f"T = {', '.join(f'{value:g}' for value in found)}{' (training)' * trained}",
            **style(Ink(FAINT), trained=trained),
        )
        for trained, found in temperatures.items()
        if found
    ]
    title = f"{TITLES[task]}, held out: mean ± standard error"
    figure, axes = panels(title, labels, stories, [*run_keys(stories, [readings for *_, readings in read]), *keys])
    for story, ink, readings in read:
        for (label, temperature), points in readings.items():
            draw_readings(axes[label], points, ink, trained=_trained(story, task, temperature))
    return figure


@rc_context(PLAIN)
def rewards(stories: Sequence[Story], task: Task) -> list[Figure]:
    """A figure for each reward of a task, its parts and the total, or for the loss where targets are imitated.

    A total that is 0 by construction is left out; panels.SMOOTHING says what points, lines and bands are.
    """
    curves = [story.curves(task) if story.recipe.train.method == "rl" else {} for story in stories]
    names = sorted(dict.fromkeys(name for own in curves for name in own), key=lambda name: name != "total")
    figures = [_trends(stories, f"{TITLES[task]}: {name}", [own.get(name, []) for own in curves]) for name in names]
    losses = [story.points(f"nll/{task}") if story.recipe.train.method == "sft" else [] for story in stories]
    if any(losses):
        figures.append(_trends(stories, f"{TITLES[task]}: loss of the targets, nats a token", losses))
    return figures


@rc_context(PLAIN)
def health(stories: Sequence[Story], task: Task) -> list[Figure]:
    """What tells whether a task's training is well, of what was measured: how open the policy is and how far from its
    start, groups that teach nothing, lengths, clipping, its own gradient, and which rewards the advantages follow.
    """
    kinds: list[tuple[str, str, Callable[[Story], bool]]] = [
        ("entropy", "entropy, nats a token", lambda _: True),
        ("kl", "KL to the start, nats a token", lambda _: True),
        ("zero_variance", "groups with equal rewards", lambda _: True),
        ("masked", "samples without an advantage", lambda story: _ever(story, f"masked/{task}")),
        ("length", "tokens of a completion", lambda _: task == "mm2t"),  # a drawing always has as many
        ("at_limit", "completions cut off", lambda _: True),
        ("clipped_low", "tokens clipped below", lambda story: story.recipe.algo.clip_eps is not None),
        ("clipped_high", "tokens clipped above", lambda story: story.recipe.algo.clip_eps is not None),
        ("grad_norm", "norm of its own gradient", lambda _: True),
    ]
    figures = []
    for name, title, told in kinds:
        drawn = [story.points(f"{name}/{task}") if told(story) else [] for story in stories]
        if any(drawn):
            shares = name in ("zero_variance", "masked", "at_limit", "clipped_low", "clipped_high")
            figures.append(_trends(stories, f"{TITLES[task]}: {title}", drawn, shares=shares))
    return figures + _followed(stories, task)


@rc_context(PLAIN)
def machine(stories: Sequence[Story]) -> list[Figure]:
    """What belongs to whole steps: the norm of their gradient, their seconds (of one run by phase), their memory."""
    figures = []
    for name, title in (
        ("grad_norm", "gradient norm"),
        ("grad_cosine", "cosine between the two tasks' gradients"),
        ("tokens_per_second", "tokens sampled a second"),
        ("memory/peak_gib", "peak memory so far, GiB"),
    ):
        drawn = [story.points(name) for story in stories]
        if any(drawn):
            figures.append(_trends(stories, title, drawn, smoothed=not name.startswith("memory/")))
    phases = [_phases(story) for story in stories]
    if any(phases):
        summed = [
            [(own[0][0], sum(taken for _, taken in own)) for own in zip(*p.values(), strict=True)] for p in phases
        ]
        by_phase = len(stories) == 1
        figures.append(_stacked(stories[0], phases[0]) if by_phase else _trends(stories, "seconds a step", summed))
    return figures


def picture(story: Story, looks: Sequence[Look]) -> bytes:
    """`poster` as a PNG, 1920 pixels wide."""
    file = BytesIO()
    poster(story, looks).savefig(file, format="png", dpi=200)
    return file.getvalue()


@rc_context(PLAIN)
def poster(story: Story, looks: Sequence[Look]) -> Figure:
    """One figure of a run that stands alone: the same prompts drawn before and after, and the held-out curves.

    It shows all samples of the first items at the first and the last look, none chosen; of a run that only answers, its
    answers. Of each ability it shows the first held-out score. CorlError when there is no look.
    """
    if not looks:
        raise CorlError(
            f"The run {story.run.path} has no samples to show.",
            "A run draws them at its start and every tracking.samples_every steps.",
        )
    read = [task for task in story.tasks if story.readings(task)]
    first, last = looks[0], looks[-1] if len(looks) > 1 else None
    rows = min(ITEMS, len(first.entries))
    curves = HEAD + 44 + (CELL + 2 * GAP) * rows
    canvas = _Canvas(curves + (240 if read else 0))
    canvas.write(MARGIN, 16, story.label, size=18, bold=True)
    told = f"{_told(story)}\nEach row holds all samples of one item, from the same noise before and after."
    canvas.write(MARGIN, 44, told, color=FAINT)
    _draw_looks(canvas, story, first, last, rows)
    width = (PAGE - 2 * MARGIN - 64) / 2
    for place, task in enumerate(read):
        _draw_ability(canvas, story, task, (MARGIN + place * (width + 64), curves + 8, width))
    return canvas.figure


class _Canvas:
    """A white sheet that is drawn on by pixels from its top left."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(PAGE / 100, height / 100), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        return self.figure.add_axes((left / PAGE, 1 - (top + height) / self.height, width / PAGE, height / self.height))

    def write(
        self, left: float, top: float, words: str, *, size: float = 12, color: str = INK, bold: bool = False
    ) -> None:
        for place, line in enumerate(words.split("\n")):  # one by one: matplotlib spaces lines by their letters
            baseline = 1 - (top + size * (0.95 + 1.35 * place)) / self.height
            weight = "bold" if bold else "normal"
            self.figure.text(left / PAGE, baseline, line, fontsize=size * 0.72, color=color, weight=weight)

    def paste(self, left: float, top: float, image: Image.Image) -> None:
        axis = self.axes(left, top, CELL, CELL)
        axis.imshow(image.resize((2 * CELL, 2 * CELL), Image.Resampling.LANCZOS), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=RULE, linewidth=0.4)

    def rule(self, left: float, top: float, width: float) -> None:
        y = 1 - top / self.height
        self.figure.add_artist(Line2D([left / PAGE, (left + width) / PAGE], [y, y], color=RULE, linewidth=0.8))


def _draw_looks(canvas: _Canvas, story: Story, first: Look, last: Look | None, rows: int) -> None:
    """A row for each item: its words, its real image, and its samples at both looks."""
    four = 4 * CELL + 3 * GAP
    real, before, after = MARGIN + WORDS, MARGIN + WORDS + CELL + 16, MARGIN + WORDS + CELL + four + 32
    asked = "prompt" if any(entry.drawings for entry in first.entries) else "question"
    heads = (
        (MARGIN, WORDS - 12, f"held-out {asked}" if story.recipe.eval.probes else asked),
        (real, CELL, "real image"),
        (before, four, _when(first)),
        (after, four, _when(last) if last else "after: nothing was drawn yet"),
    )
    for left, width, words in heads:
        canvas.write(left, HEAD, words, bold=left in (before, after))
        canvas.rule(left, HEAD + 20, width)
    for row in range(rows):
        top = HEAD + 28 + row * (CELL + 2 * GAP)
        entry = first.entries[row]
        canvas.write(MARGIN, top, _wrapped(_asked(entry), 20, 5), size=11.5)
        canvas.paste(real, top, entry.real)
        for left, look in ((before, first), (after, last)):
            if look:
                _draw_samples(canvas, look.entries[row], left, top)


def _draw_samples(canvas: _Canvas, entry: Entry, left: float, top: float) -> None:
    for place, drawing in enumerate(entry.drawings[:4]):
        canvas.paste(left + place * (CELL + GAP), top, drawing)
    if not entry.drawings:
        answers = [_wrapped(extract(answer) or "(no answer)", 48, 1) for answer in entry.answers[:4]]
        canvas.write(left, top, "\n".join(answers), size=11.5)


def _draw_ability(canvas: _Canvas, story: Story, task: Task, place: tuple[float, float, float]) -> None:
    """The first held-out score of a task through time, and what it was at both ends, in words over it."""
    left, top, width = place
    readings = story.readings(task)
    label, _ = next(iter(readings))
    items = next(line["probe"]["items"] for line in story.metrics if line.get("probe", {}).get("task") == task)
    title = f"{TITLES[task].capitalize()}: {label}, {items} held-out items"
    canvas.write(left, top, title, bold=True)
    axis = canvas.axes(left + 36, top + 62, width - 36, 130)
    dress(axis, points=11 * 0.72)
    axis.set_xlabel("step (points: mean ± standard error)", fontsize=11 * 0.72, color=FAINT, labelpad=1)
    axis.set_xlim(*span([story]))
    own = [(temperature, points) for (name, temperature), points in readings.items() if name == label]
    for line, (temperature, points) in enumerate(own):
        trained = _trained(story, task, temperature)
        colour = COLOURS[0] if trained else FAINT
        draw_readings(axis, points, Ink(colour), trained=trained)
        ends = " → ".join(f"{mean:.3f} ± {stderr:.3f}" for _, mean, stderr in dict.fromkeys((points[0], points[-1])))
        words = f"T = {temperature:g}{', as in training' * trained}: {ends}"
        canvas.write(left, top + 19 + 17 * line, words, color=colour)


def _told(story: Story) -> str:
    """How far a run is, and of what it learnt."""
    recipe, steps = story.recipe, _steps(story.last_step)
    of = (
        f"{story.last_step:,} of {_steps(story.num_steps)}" if story.num_steps not in (None, story.last_step) else steps
    )
    what = "samples trained on" if recipe.train.method == "rl" else "targets imitated"
    return f"{of}, {story.samples:,} {what}; recipe {recipe.name}, seed {recipe.seed}"


def _steps(number: int | None) -> str:
    return f"{number:,} step{'s' * (number != 1)}"


def _when(look: Look) -> str:
    return "before training" if look.step == 0 else f"after {_steps(look.step)}"


def _asked(entry: Entry) -> str:
    return entry.prompt if entry.drawings else f"{entry.question} ({entry.answer})"


def _wrapped(words: str, width: int, lines: int) -> str:
    return "\n".join(textwrap.wrap(words, width, max_lines=lines, placeholder=" …"))


def _trained(story: Story, task: Task, temperature: float) -> bool:
    return temperature == story.recipe.sampling.of(task).temperature


def _ever(story: Story, name: str) -> bool:
    """Whether a metric was ever other than 0."""
    return any(value for _, value in story.points(name))


def _trends(
    stories: Sequence[Story], title: str, drawn: Sequence[Points], *, shares: bool = False, smoothed: bool = True
) -> Figure:
    """One metric of every run that has it; shares as per cent from 0."""
    figure, axes = panels(title, [""], stories, run_keys(stories, drawn))
    for (_, ink), points in zip(inked(stories), drawn, strict=True):
        if points and smoothed:
            draw_trend(axes[""], points, ink)
        elif points:
            steps, values = thin(points).T
            draw_line(axes[""], steps, values, ink)
    if shares:
        top = max(0.05, axes[""].get_ylim()[1])
        axes[""].set_ylim(-0.02 * top, top)
        axes[""].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def _followed(stories: Sequence[Story], task: Task) -> list[Figure]:
    """How much the advantages follow each reward, where there are several: a panel for each."""
    prefix = f"share/{task}/"
    own = [
        {name.removeprefix(prefix) for line in story.metrics for name in line if name.startswith(prefix)}
        for story in stories
    ]
    names = sorted(set().union(*own))
    if len(names) < 2:
        return []
    title = f"{TITLES[task]}: share of the advantages' variance"
    figure, axes = panels(title, names, stories, run_keys(stories, own))
    for name, axis in axes.items():
        for story, ink in inked(stories):
            if points := story.points(prefix + name):
                draw_trend(axis, points, ink)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    return [figure]


def _phases(story: Story) -> dict[str, Points]:
    """Seconds of every step by phase."""
    lines = [line for line in story.metrics if "seconds" in line]
    names = dict.fromkeys(name for line in lines for name in line if name.startswith("time/") and name.count("/") == 1)
    return {name.removeprefix("time/"): [(line["step"], line.get(name) or 0.0) for line in lines] for name in names}


def _stacked(story: Story, phases: Mapping[str, Points]) -> Figure:
    """One run's phases on top of each other."""
    colours = dict(zip(phases, COLOURS, strict=False))
    keys = [Line2D([], [], color=colour, linewidth=5, alpha=0.75, label=name) for name, colour in colours.items()]
    figure, axes = panels("seconds a step", [""], [story], keys)
    steps = [step for step, _ in next(iter(phases.values()))]
    values = [[seconds for _, seconds in points] for points in phases.values()]
    axes[""].stackplot(
        steps, values, colors=list(colours.values()), alpha=0.75, linewidth=0, rasterized=len(steps) > MANY
    )
    return figure
