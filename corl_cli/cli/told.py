"""What a run has told of itself so far, as its dashboard needs it: values that grow, and no terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corl_cli.core.recipe import Recipe
from corl_cli.core.types import TASKS, Task

if TYPE_CHECKING:
    from corl_cli.trainer.probes import Reading

WINDOW = 10  # steps of a mean
NOTES = 3  # lines that stay
KEPT = ("reward/", "nll/", "zero_variance/", "time/", "tokens_per_second", "memory/", "seconds")  # of a step's metrics


@dataclass(frozen=True, kw_only=True)
class Told:
    """A run as told up to a step: metrics by name and held-out readings by ability and score, oldest first.

    `at` and `began` are readings of a clock, in seconds: at the last step, and when this process began to go on from
    step `start`, after `spent` seconds of earlier ones.
    """

    name: str
    page: Path
    num_steps: int
    temperatures: Mapping[Task, float]  # at which each ability is trained
    learns: Mapping[Task, str]  # the prefix of what a task is trained on: its rewards, or its loss
    hidden: frozenset[str] = frozenset()  # metrics that say nothing
    step: int = 0
    at: float = 0.0
    start: int = 0
    began: float = 0.0
    spent: float = 0.0
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    read: Mapping[tuple[Task, str], tuple[tuple[float, float], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def stepped(self, step: int, metrics: Mapping[str, float | None], at: float) -> Told:
        """After a step, whose numbers are those of metrics.jsonl or of the loop: what is no number is left out."""
        kept = {name: (*self.series.get(name, ()), value) for name, value in _kept(metrics)}
        return replace(self, step=step, at=at, series={**self.series, **kept})

    def heard(self, readings: Sequence[Reading]) -> Told:
        """After readings of held-out items; those at the training temperature, of all types of answers, are kept."""
        found = dict(self.read)
        for reading in readings:
            if key := self._place(reading):
                found[key] = (*found.get(key, ()), (reading.mean, reading.stderr))
        return replace(self, read=found)

    def after(self, history: Iterable[Mapping[str, Any]], at: float) -> Told:
        """After lines of metrics.jsonl, as `stepped` and `heard` of each: of a long run at once, in one pass."""
        from corl_cli.trainer.probes import Reading

        series = {name: list(values) for name, values in self.series.items()}
        read = {key: list(values) for key, values in self.read.items()}
        step = self.step
        for line in history:
            if "probe" in line:
                reading = Reading.of(line["probe"])
                if key := self._place(reading):
                    read.setdefault(key, []).append((reading.mean, reading.stderr))
            elif "seconds" in line:
                step = line["step"]
                for name, value in _kept(line):
                    series.setdefault(name, []).append(value)
        return replace(
            self,
            step=step,
            at=at,
            series={name: tuple(values) for name, values in series.items()},
            read={key: tuple(values) for key, values in read.items()},
        )

    def _place(self, reading: Reading) -> tuple[Task, str] | None:
        """Where a reading is kept; None for one that is not."""
        kept = reading.temperature == self.temperatures[reading.task] and not reading.answer_type
        return (reading.task, reading.score) if kept else None

    def said(self, line: str) -> Told:
        """After a line: warnings and stops stay, what is said of the start does not."""
        return self if line.startswith("preflight") else replace(self, notes=(*self.notes, line)[-NOTES:])

    def rewards(self, task: Task) -> dict[str, tuple[float, ...]]:
        """What a task is trained on, the total first; empty for one that is not trained."""
        prefix = self.learns.get(task)
        if prefix is None:
            return {}
        found = {
            name.removeprefix(prefix) or "loss (nll)": values
            for name, values in self.series.items()
            if name.startswith(prefix) and name not in self.hidden
        }
        return dict(sorted(found.items(), key=lambda item: item[0] != "total"))

    def recent(self, name: str) -> float | None:
        """The mean of a metric over the last steps; None where there is no value."""
        values = self.series.get(name, ())[-WINDOW:]
        return sum(values) / len(values) if values else None

    def greatest(self, name: str) -> float | None:
        """The greatest value of a metric; None where there is none."""
        return max(self.series.get(name, ()), default=None)

    def phases(self) -> dict[str, float]:
        """Mean seconds of each part of the last steps; `other` is what is timed by none: probes, samples, saving."""
        names = [name for name in self.series if name.startswith("time/") and name.count("/") == 1]
        found = {name.removeprefix("time/"): self.recent(name) or 0.0 for name in names}
        seconds = self.series.get("seconds", ())[-WINDOW - 1 :]
        if len(seconds) > 1:
            rest = (seconds[-1] - seconds[0]) / (len(seconds) - 1) - sum(found.values())
            found["other"] = max(0.0, rest)
        return found

    def elapsed(self, now: float) -> float:
        """Seconds spent on the run, also by earlier processes."""
        return self.spent + now - self.began

    def left(self, now: float) -> float | None:
        """Seconds to the last step at the mean pace of this process, probes and saving included; None before a step.

        The probes before the first step would make a slow start of it, so its own phases stand for it.
        """
        done, todo = self.step - self.start, self.num_steps - self.step
        if done < 1:
            return None
        seconds = self.series["seconds"][-done:]
        pace = (seconds[-1] - seconds[0]) / (done - 1) if done > 1 else sum(self.phases().values())
        return max(pace * (todo - 1), pace * todo - (now - self.at), 0.0)


def begin(
    recipe: Recipe,
    page: Path,
    num_steps: int,
    *,
    done: int,
    history: Sequence[Mapping[str, Any]],
    hidden: frozenset[str],
    at: float,
) -> Told:
    """A run before its first step, or after the `done` ones that it goes on from, with its metrics.jsonl as history."""
    prefix = "nll/{}" if recipe.train.method == "sft" else "reward/{}/"
    told = Told(
        name=recipe.name,
        page=page,
        num_steps=num_steps,
        temperatures={task: recipe.sampling.of(task).temperature for task in TASKS},
        learns={task: prefix.format(task) for task in recipe.train.tasks},
        hidden=hidden,
    )
    told = told.after((line for line in history if done and line["step"] <= done), at)
    return replace(told, step=done, at=at, start=done, began=at, spent=told.series.get("seconds", (0.0,))[-1])


def _kept(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Of a step's metrics those that a dashboard needs, and that are numbers."""
    for name, value in metrics.items():
        if name.startswith(KEPT) and value is not None and math.isfinite(value):
            yield name, value
