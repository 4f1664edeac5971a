"""What a run says of itself, read back from its files: its readings, its metrics, a table of before and after."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import TASKS, Task
from corl_cli.core.types import TITLES as TITLES
from corl_cli.trainer import checkpoint

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


def summarise(run: RunDir, metrics: Sequence[Mapping[str, Any]] | None = None) -> Summary:
    """The summary of a run directory, of however many steps it has; its metrics are read unless they are given."""
    lines = run.read_metrics() if metrics is None else metrics
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
