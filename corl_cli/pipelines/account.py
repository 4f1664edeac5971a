"""What a run's page says of one run in words and tables: what it is, how far it came, what changed, its recipe."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corl_cli.core import kinds
from corl_cli.core.errors import UsageError
from corl_cli.core.loader import diff, load, names
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import TASKS
from corl_cli.pipelines.summary import TITLES, Story, summarise

SHORT = 12  # characters of a commit

Readings = Sequence[tuple[int, float, float]]  # step, mean, standard error


def demand_run(folder: Path) -> None:
    """UsageError, with what to do instead, where a folder is a study, a merged model, a result, or no run at all."""
    run = RunDir(folder)
    if run.recipe_file.is_file():
        if not run.samples.is_dir() and (folder / "runs").is_dir():
            raise UsageError(
                f"{folder} is a study, not a run.", f"Its table is in it; for its runs: corl report {folder}/runs/*"
            )
        return
    others = {
        "merge.json": ("the result of corl merge, not a run.", "Name the run of one of its models."),
        "manifest.json": ("the result of an evaluation, not a run.", f"For its page: corl eval report {folder}"),
    }
    for file, (what, hint) in others.items():
        if (folder / file).is_file():
            raise UsageError(f"{folder} is {what}", hint)
    run.recipe()


def sentence(story: Story) -> str:
    """What the run is: which tasks are trained, how, on which data, from which model."""
    train, recipe = story.recipe.train, story.recipe
    what = " and ".join(TITLES[task] for task in TASKS if task in train.tasks)
    how = "learnt by imitating the data's own targets" if train.method == "sft" else "trained by reinforcement"
    turns = ", by turns" if train.cycle else ", together" if len(train.tasks) > 1 else ""
    data = "the embedded world" if recipe.data.path == "world" else f"{recipe.data.path} ({recipe.data.split})"
    model = "the shipped tiny Janus" if recipe.model.checkpoint == "world" else recipe.model.checkpoint
    kind = kinds.kind_of(recipe)
    command = f" (corl train {kind.command})" if kind else ""
    return f"{what.capitalize()} {how}{turns}{command}, on {data}, from {model}."


def is_finished(story: Story) -> bool:
    """Whether the run has done its last step."""
    planned = num_steps(story)
    return planned is not None and story.last_step >= planned


def num_steps(story: Story) -> int | None:
    """Steps planned; None where the recipe leaves them to the data and the provenance does not tell their number."""
    try:
        return story.num_steps
    except ValueError:  # a damaged file, which the page names
        return None


def state(story: Story) -> str:
    """Whether the run is finished; what is not may go on or have stopped, which its files do not tell."""
    if is_finished(story):
        return "finished"
    return f"going on, or stopped after step {story.last_step}" if story.last_step else "no step done yet"


def steps(story: Story) -> str:
    """Steps done of those planned."""
    planned = num_steps(story)
    return f"{story.last_step:,} of {planned:,} steps" if planned else f"{story.last_step:,} steps"


def duration(story: Story) -> str:
    """Time spent on the run so far; empty before its first step."""
    spent = round(max((line["seconds"] for line in story.metrics if "seconds" in line), default=0.0))
    hours, minutes, seconds = spent // 3600, spent // 60 % 60, spent % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def written(story: Story) -> str:
    """When the run last wrote something, in UTC."""
    file = story.run.metrics_file if story.run.metrics_file.exists() else story.run.recipe_file
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def changes(stories: Sequence[Story]) -> list[dict[str, str]]:
    """A line for every held-out score and temperature; before, after and change of one run, or a column for each."""
    table: dict[tuple[str, str, float], dict[str, str]] = {}
    items: dict[tuple[str, str, float], list[str]] = defaultdict(list)
    for story in stories:
        readings: dict[tuple[str, str, float], Readings] = {
            (task, *key): points for task in story.tasks for key, points in story.readings(task).items()
        }
        for change in summarise(story.run, story.metrics).changes:
            key = (change.task, change.score, change.temperature)
            held_out = f"{'drawing' if change.task == 't2i' else 'answering'}: {change.score}"
            line = {"held out": held_out, "T": f"{change.temperature:g}"}
            table.setdefault(key, line)
            table[key] |= _change(story, readings.get(key, []), alone=len(stories) == 1)
            items[key].append(str(change.items))
    for key, line in table.items():
        line["items"] = ", ".join(dict.fromkeys(items[key]))
    columns = sorted(dict.fromkeys(name for line in table.values() for name in line), key=lambda name: name == "items")
    return [{name: line.get(name, "–") for name in columns} for line in table.values()]


def _change(story: Story, points: Readings, *, alone: bool) -> dict[str, str]:
    if not points:
        return {} if alone else {story.label: "–"}
    (first, before, error), (last, after, other) = points[0], points[-1]
    start, end = _number(before, error), _number(after, other)
    moved = f"{after - before:+.3f} ± {math.hypot(error, other):.3f}".removesuffix(" ± nan")
    if first == last:
        return {f"step {first}": start} if alone else {story.label: start}
    if alone:
        return {"change": moved, f"step {first}": start, f"step {last}": end}
    return {story.label: f"{before:.3f} → {after:.3f} ({moved})"}


def _number(mean: float, stderr: float) -> str:
    return f"{mean:.3f}" if math.isnan(stderr) else f"{mean:.3f} ± {stderr:.3f}"


def differences(stories: Sequence[Story]) -> tuple[str, list[dict[str, str]]]:
    """What the recipes are compared with, and a line for each key that differs.

    Several runs are compared with the first, one with the shipped recipe of its name; without one there is nothing.
    """
    first = stories[0]
    if len(stories) > 1:
        recipes = {story.label: story.recipe for story in stories}
        return f"Keys in which the recipes of these runs differ from that of {first.label}.", _table(recipes)
    shipped = next((name for name in names() if name.replace("/", "-") == first.recipe.name), None)
    if shipped is None:
        return "", []
    return f"Keys in which it differs from the shipped recipe {shipped}.", _table(
        {"shipped": load(shipped), "here": first.recipe}
    )


def _table(recipes: Mapping[str, Recipe]) -> list[dict[str, str]]:
    """A line for each key that differs from the first recipe, with every recipe's value."""
    (first, base), *others = recipes.items()
    found = {label: diff(base, recipe) for label, recipe in others}
    lines = {}
    for key in dict.fromkeys(key for own in found.values() for key in own):
        was = next(own[key][0] for own in found.values() if key in own)
        values = {label: own[key][1] if key in own else was for label, own in found.items()}
        lines[key] = {"key": key, first: _value(was)} | {label: _value(value) for label, value in values.items()}
    return list(lines.values())


def _value(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def provenance(story: Story) -> dict[str, str]:
    """Where the run came from, a line for each fact; OSError or ValueError where the file is gone or damaged."""
    known = story.run.provenance()
    data = known.pop("data", {})
    facts = {"command": shlex.join(known.pop("command", [])), "folder": str(story.run.path)}
    facts |= {name: str(value)[:SHORT] if name == "commit" else str(value) for name, value in known.items() if value}
    return facts | {f"data {name}": str(value) for name, value in data.items()}
