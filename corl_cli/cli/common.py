"""What commands share: their common options, tables and progress. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_type_hints

import typer

from corl_cli.core.numbers import finite
from corl_cli.core.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

DEPTH, WIDTH = 5, 500  # of the tree that completion looks at: levels, and folders of each
PARTS = frozenset({"checkpoints", "samples", "rollouts"})  # of a run
CLOSED = frozenset({"eval.yaml", "config.json"})  # of folders with none inside: a result, a model


def complete_recipe(incomplete: str) -> list[str]:
    """Shipped recipes that begin so, for shell completion."""
    from corl_cli.core.loader import names

    return [name for name in names() if name.startswith(incomplete)]


def complete_reward(incomplete: str) -> list[str]:
    """Registered rewards that begin so."""
    from corl_cli.rewards import REWARDS

    return [name for name in REWARDS if name.startswith(incomplete)]


def complete_benchmark(incomplete: str) -> list[str]:
    """Registered benchmarks that begin so."""
    from corl_cli.eval import BENCHMARKS

    return [name for name in BENCHMARKS if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Runs whose path begins so."""
    return _folders(incomplete, lambda inside: "recipe.yaml" in inside)


def complete_checkpoint(incomplete: str) -> list[str]:
    """What weights can be taken from: `world`, runs, and folders with a model."""
    found = _folders(incomplete, lambda inside: "config.json" in inside or {"recipe.yaml", "checkpoints"} <= inside)
    return ["world", *found] if "world".startswith(incomplete) else found


def complete_result(incomplete: str) -> list[str]:
    """Results of evaluations whose path begins so."""
    return _folders(incomplete, lambda inside: "result.json" in inside)


def _folders(incomplete: str, wanted: Callable[[set[str]], bool]) -> list[str]:
    """Wanted folders, told by the names inside, whose path begins so; near ones first, and not all of a large tree."""
    start = incomplete.rpartition("/")[2]
    at = incomplete.removesuffix(start)
    level = [at + name for name, is_folder in _inside(at or ".") if is_folder and name.startswith(start)]
    found: list[str] = []
    for _ in range(DEPTH):
        inside = {path: _inside(path) for path in sorted(level)[:WIDTH]}
        names = {path: {name for name, _ in entries} for path, entries in inside.items()}
        found += [path for path in inside if wanted(names[path])]
        level = [
            f"{path}/{name}"
            for path, entries in inside.items()
            for name, is_folder in entries
            if is_folder and name not in PARTS and not names[path] & CLOSED
        ]
    return found


def _inside(folder: str) -> list[tuple[str, bool]]:
    """What is in a folder but hidden, and whether it is a folder; nothing where it cannot be read."""
    try:
        return [(entry.name, entry.is_dir()) for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError:
        return []


Recipe = Annotated[
    str,
    typer.Option("--recipe", metavar="NAME|FILE", help="A shipped recipe or a file.", autocompletion=complete_recipe),
]
OwnRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="A shipped recipe or a file, in place of the command's own.",
        autocompletion=complete_recipe,
    ),
]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A shipped recipe or a file.", autocompletion=complete_recipe)
]
Set = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as train.max_steps=20; may be repeated."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to write to.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed, in place of the recipe's.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="So many items only, spread over all.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, print the plan, and do nothing.")]
NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", min=1, help="So many processes of this machine, one on each GPU."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on in --out where it stopped.")]
FIGURES = "+-–0123456789.e%"  # what a cell that is a number consists of


def with_options(body: Callable[..., None]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes them as keywords, the options of the body that it shares with others."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        kinds = inspect.Parameter
        wanted = [(command, kinds.POSITIONAL_OR_KEYWORD), (body, kinds.KEYWORD_ONLY)]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                parameter.replace(annotation=get_type_hints(function, include_extras=True)[name])
                for function, kind in wanted
                for name, parameter in inspect.signature(function).parameters.items()
                if parameter.kind is kind
            ]
        )
        return command

    return give


@cache
def console() -> Console:
    """The console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def table(rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print rows to stdout as a table with the first row's keys as columns, or as a JSON list."""
    if as_json:
        typer.echo(json.dumps(finite(list(rows)), indent=2, allow_nan=False))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, markup=False)
    if not out.is_terminal:
        out.width = 200  # a file has no edge to wrap at
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0] if rows else ():
        number = all(not _cell(row.get(name)).strip(FIGURES) for row in rows)
        word = max(map(len, name.split()), default=0)  # a head is not broken within a word
        grid.add_column(name, justify="right" if number else "left", overflow="fold", min_width=word)
    for row in rows:
        grid.add_row(*(_cell(row.get(name)) for name in rows[0]))
    out.print(grid)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def remedies(needs: Iterable[Remedied]) -> None:
    """Print what to do about each thing that is not there, once and unbroken, so that it can be copied."""
    lines = dict.fromkeys(f"  {need.name}: {need.remedy}" for need in needs if need.remedy)
    if lines:
        typer.echo("\n".join(["\nWhat to do, where you need it:", *lines]))


class Remedied(Protocol):
    """Something with a name and, where something is to be done, a remedy."""

    @property
    def name(self) -> str: ...
    @property
    def remedy(self) -> str: ...


@contextmanager
def progress(what: str, total: int, *, done: int = 0, every: float = 10.0) -> Iterator[Progress]:
    """A bar on stderr with the time left; where stderr is no terminal, a plain line at most every `every` seconds."""
    if not console().is_terminal:
        yield Lines(what, total, done, every)
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("left"),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}", markup=False),
    )
    with rich.Progress(*columns, console=console()) as bars:
        yield Bar(bars, bars.add_task(what, total=total, completed=done, note=""))


class Bar:
    """A progress bar of rich."""

    def __init__(self, bars: Any, task: Any) -> None:
        self.bars, self.task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.bars.update(self.task, advance=steps, note=note)


class Lines:
    """Progress as lines of text, for logs; the time left is told by what came after the first steps, which load."""

    def __init__(self, what: str, total: int, done: int, every: float) -> None:
        self.what, self.total, self.done, self.every = what, total, done, every
        self.last = time.monotonic()
        self.begun: tuple[float, int] | None = None  # when the first steps were done, and how many

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        now = time.monotonic()
        self.begun = self.begun or (now, self.done)
        if now - self.last < self.every and self.done < self.total:
            return
        self.last = now
        parts = [f"{self.what} {self.done}/{self.total}", self._left(now), note]
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        assert self.begun
        start, done = self.begun
        if self.done == self.total:
            return f"{clock(0)} left"
        return (
            f"{clock((now - start) / (self.done - done) * (self.total - self.done))} left" if self.done > done else ""
        )


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
