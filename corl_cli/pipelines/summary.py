"""What a run says of itself, read back from its files: its readings, its metrics, a table of before and after."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir, write_atomic
from corl_cli.core.types import TASKS, Task
from corl_cli.trainer import checkpoint

TITLES: dict[Task, str] = {"t2i": "drawing", "mm2t": "answering"}
SMOOTHED = 10  # steps of a running mean


@dataclass(frozen=True, kw_only=True)
class Story:
    """One run as its page tells it: a name among the runs told together, its recipe, the lines of its metrics."""

    label: str
    run: RunDir
    recipe: Recipe
    metrics: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, label: str | None = None) -> Story:
        """The story of a run's folder, called by the folder's name; UsageError when it is no run."""
        run = RunDir(folder)
        return cls(label=label or folder.resolve().name, run=run, recipe=run.recipe(), metrics=run.read_metrics())

    @property
    def tasks(self) -> list[Task]:
        """What is trained or read."""
        read = {line["probe"]["task"] for line in self.metrics if "probe" in line}
        return [task for task in TASKS if task in read or task in self.recipe.train.tasks]

    @property
    def last_step(self) -> int:
        """The last optimiser step that left a line; 0 before the first."""
        return max((line["step"] for line in self.metrics if "seconds" in line), default=0)

    @property
    def num_steps(self) -> int | None:
        """Optimiser steps of the whole run; None where its provenance does not say how many triplets there are."""
        train = self.recipe.train
        if train.max_steps or not self.run.provenance_file.exists():
            return train.max_steps
        triplets = self.run.provenance().get("data", {}).get("triplets")
        return None if triplets is None else train.epochs * (int(triplets) // train.batch_size)

    @property
    def samples(self) -> int:
        """Drawings and answers trained on so far; targets where they are imitated."""
        train = self.recipe.train
        each = train.batch_size * (self.recipe.sampling.group_size if train.method == "rl" else 1)
        return each * sum(len(self.points(f"length/{task}")) for task in TASKS)

    def readings(self, task: Task) -> dict[tuple[str, float], list[tuple[int, float, float]]]:
        """Step, mean and standard error of every held-out reading of a task, by score and temperature.

        A reading without a single score is left out; a standard error that is not known is NaN.
        """
        found: dict[tuple[str, float], list[tuple[int, float, float]]] = defaultdict(list)
        for line in self.metrics:
            probe = line.get("probe")
            if probe and probe["task"] == task and probe["mean"] is not None:
                reading = (line["step"], probe["mean"], _number(probe["stderr"]))
                found[_label(probe), probe["temperature"]].append(reading)
        return dict(found)

    def points(self, name: str) -> list[tuple[int, float]]:
        """Step and value wherever a metric has one."""
        return _points(self.metrics, name)

    def curves(self, task: Task) -> dict[str, list[tuple[int, float]]]:
        """`curves` of this run."""
        return curves(self.metrics, self.recipe, task)


def tell(folders: Sequence[Path]) -> list[Story]:
    """The stories of some runs, each called by the shortest end of its path that no other has.

    UsageError when a folder is no run, or is named twice.
    """
    paths = [folder.resolve() for folder in folders]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UsageError(f"The run {folders[place]} is named twice.", "Name every run once.")
    return [Story.read(folder, _shortest(path, paths)) for folder, path in zip(folders, paths, strict=True)]


def _shortest(path: Path, paths: Sequence[Path]) -> str:
    """The fewest last parts of a path by which it differs from all others."""
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if not any(other.parts[-length:] == end for other in paths if other != path):
            return str(Path(*end))
    return str(path)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One held-out score at the start and at the end of a run; `stderr` is that of the difference."""

    task: str
    score: str
    temperature: float
    items: int
    before: float
    after: float
    stderr: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The end of a run: how far it came, how long it took, what changed, and its best checkpoint if one is kept."""

    step: int
    seconds: float
    peak_gib: float
    changes: list[Change]
    best: Path | None


def summarise(run: RunDir) -> Summary:
    """The summary of a run directory, of however many steps it has."""
    lines = run.read_metrics()
    steps = [line for line in lines if "seconds" in line]
    readings: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if "probe" in line:
            probe = line["probe"]
            readings[probe["task"], _label(probe), probe["temperature"]].append(probe)
    changes = [
        Change(
            task=task,
            score=score,
            temperature=temperature,
            items=probes[-1]["items"],
            before=_number(probes[0]["mean"]),
            after=_number(probes[-1]["mean"]),
            stderr=math.hypot(_number(probes[0]["stderr"]), _number(probes[-1]["stderr"])),
        )
        for (task, score, temperature), probes in readings.items()
    ]
    return Summary(
        step=steps[-1]["step"] if steps else 0,
        seconds=steps[-1]["seconds"] if steps else 0.0,
        peak_gib=max((line["memory/peak_gib"] for line in steps), default=0.0),
        changes=changes,
        best=checkpoint.best(run.checkpoints),
    )


def _label(probe: dict[str, Any]) -> str:
    return f"{probe['score']} ({probe['answer_type']})" if probe["answer_type"] else str(probe["score"])


def _number(value: float | None) -> float:
    """A number of metrics.jsonl, where a missing one is null."""
    return math.nan if value is None else value


def cancels(recipe: Recipe, task: Task) -> bool:
    """Whether the mean of a task's total is 0 by construction: all its rewards are normalised within groups."""
    specs = getattr(recipe.rewards, task)
    return bool(specs) and all(spec.normalise for spec in specs)


def curves(metrics: Sequence[Mapping[str, Any]], recipe: Recipe, task: Task) -> dict[str, list[tuple[int, float]]]:
    """The mean rewards of a task, their parts and their total by step, without a total that is 0 by construction."""
    prefix = f"reward/{task}/"
    names = dict.fromkeys(name for line in metrics for name in line if name.startswith(prefix))
    if cancels(recipe, task):
        names.pop(f"{prefix}total", None)
    found = {name.removeprefix(prefix): _points(metrics, name) for name in names}
    return {name: points for name, points in found.items() if points}


def _points(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Step and value wherever a metric has one: where tasks take turns, at a task's own steps."""
    return [(line["step"], line[name]) for line in metrics if line.get(name) is not None]


def draw_curves(run: RunDir) -> None:
    """curves.png, a column for each ability: its held-out scores with their standard errors, also where it is not
    trained; its rewards while training, or the loss of an imitation; entropy, and KL where there is one.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    lines, recipe = run.read_metrics(), run.recipe()
    read = {line["probe"]["task"] for line in lines if "probe" in line}
    tasks = [task for task in TASKS if task in read or task in recipe.train.tasks]
    size, heights = (7 * len(tasks), 9), [3, 3, 2]
    figure, axes = pyplot.subplots(
        3, len(tasks), figsize=size, height_ratios=heights, squeeze=False, layout="constrained"
    )
    last = max((line["step"] for line in lines), default=0)
    for axis in axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(xlim=(-0.02 * last, 1.02 * last) if last else None, xlabel="step")
        axis.grid(alpha=0.3)
    for (held_out, learning, spread), task in zip(axes.T, tasks, strict=True):
        _draw_readings(held_out, lines, task)
        if task in recipe.train.tasks:
            _draw_learning(learning, lines, recipe, task)
            _draw_spread(spread, lines, task)
        else:
            learning.set_axis_off()
            spread.set_axis_off()
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
    write_atomic(run.path / "curves.png", file.getvalue())


def _draw_readings(axis: Any, lines: list[dict[str, Any]], task: Task) -> None:
    probes = [(line["step"], line["probe"]) for line in lines if "probe" in line and line["probe"]["task"] == task]
    for key in dict.fromkeys((_label(probe), probe["temperature"]) for _, probe in probes):
        points = [(step, p["mean"], p["stderr"]) for step, p in probes if (_label(p), p["temperature"]) == key]
        steps, *values = zip(*points, strict=True)
        means, errors = ([_number(value) for value in column] for column in values)
        axis.errorbar(steps, means, errors, marker="o", markersize=3, capsize=2, label=f"{key[0]}, T = {key[1]:g}")
    axis.set(title=f"{TITLES[task]}, held out", ylabel="mean ± standard error")
    if probes:
        _name_lines(axis)


def _draw_learning(axis: Any, lines: Sequence[Mapping[str, Any]], recipe: Recipe, task: Task) -> None:
    """What a task is trained on: its rewards, or the loss of its targets."""
    sft = recipe.train.method == "sft"
    drawn = {"nll": _points(lines, f"nll/{task}")} if sft else curves(lines, recipe, task)
    for name, points in drawn.items():
        _draw_smooth(axis, points, name)
    what = "nats a token of the targets" if sft else "rewards while training"
    axis.set(title=f"{TITLES[task]}, {what} (mean of up to {SMOOTHED} steps)")
    if any(drawn.values()):
        _name_lines(axis)


def _draw_spread(axis: Any, lines: Sequence[Mapping[str, Any]], task: Task) -> None:
    """How open the policy still is, and how far it went from its start where that is measured."""
    _draw_smooth(axis, _points(lines, f"entropy/{task}"), "entropy")
    axis.set(title=f"{TITLES[task]}, nats a token (mean of up to {SMOOTHED} steps)", ylabel="entropy")
    handles = axis.get_lines()
    if kl := _points(lines, f"kl/{task}"):
        right = axis.twinx()
        _draw_smooth(right, kl, "KL to the start", color="tab:red")
        right.set(ylabel="KL")
        handles = [*handles, *right.get_lines()]
    if handles:
        axis.legend(handles=handles, fontsize="small", loc="best", frameon=False)


def _draw_smooth(axis: Any, points: Sequence[tuple[int, float]], name: str, **style: Any) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axis.plot(steps, _smooth(values), label=name, linewidth=1.2, **style)


def _name_lines(axis: Any) -> None:
    """The legend, beside the lines and not over them."""
    axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _smooth(values: tuple[float, ...], width: int = SMOOTHED) -> list[float]:
    """Running mean over the last `width` values."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
