"""`corl prepare-data`: build a set of triplets from public data or one's own."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import DryRun, Json, Out, Recipe, Resume, Seed, Set, complete_checkpoint, console, table
from corl_cli.core.errors import UsageError

if TYPE_CHECKING:
    from corl_cli.data.manifest import Counts
    from corl_cli.pipelines.prepare import Built

DEFAULT = "prepare/world"
MOST = 8  # worker processes, unless more are asked for: each holds a chunk of images

NumProc = Annotated[
    int | None, typer.Option("--num-proc", min=1, metavar="N", help=f"Worker processes; all cores up to {MOST}.")
]


def prepare_data(
    recipe: Recipe = DEFAULT,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Read N items only, over all sources in order."),
    ] = None,
    seed: Seed = None,
    resume: Resume = False,
    num_proc: NumProc = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Build the I-th of N parts, for corl data merge.")
    ] = None,
    rollouts: Annotated[
        str | None,
        typer.Option(
            "--rollouts",
            metavar="POLICY",
            help="Keep what this checkpoint or run neither always nor never gets.",
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Build a set of triplets: image, prompt, question. From public data, your own files, or the embedded world.

    Without --out it goes to data/NAME. A build that was stopped goes on with --resume.
    """
    from corl_cli.core.loader import load
    from corl_cli.data.build import read_shard
    from corl_cli.pipelines import prepare

    if seed is not None:
        overrides = [*overrides, f"seed={seed}"]
    wanted = read_shard(shard) if shard else (1, 1)
    begun = prepare.begun(out) if resume and out else None
    if begun and recipe == DEFAULT and not overrides:  # nothing else was asked for: go on with the build's own
        loaded, limit, wanted = begun.recipe, limit or begun.limit, wanted if shard else begun.shard
    else:
        loaded = load(recipe, overrides)
    if rollouts and wanted != (1, 1):
        raise UsageError("--rollouts rates a whole set, not a shard.", "Leave it out, and rate what is merged.")
    if dry_run:
        rows = prepare.plan(loaded, limit)
        table([rows] if as_json else [{"plan": key, "": value} for key, value in rows.items()], as_json=as_json)
        return
    folder = prepare.place(loaded, out, wanted, resume=resume)
    with Phases() as phases:
        built = prepare.build(
            loaded,
            folder,
            limit=limit,
            shard=wanted,
            resume=resume,
            num_proc=num_proc or min(MOST, os.cpu_count() or 1),
            report=phases,
        )
        if rollouts:
            from corl_cli.pipelines.difficulty import rate

            rated = rate(folder, rollouts, loaded, phases)
            built = replace(built, sources=rated["sources"], total=rated["total"])
    show(built, as_json, "RECIPE" if begun and recipe == DEFAULT else recipe)


def show(built: Built, as_json: bool, recipe: str) -> None:
    """Print what a build from a recipe, called `recipe` by the user, came to, and what to do with it."""
    if as_json:
        facts = {"path": str(built.path), "shard": built.shard, "total": built.total, "sources": built.sources}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    from corl_cli.data.manifest import training

    whole = [("all", built.total)] if len(built.sources) > 1 else []
    table([row for name, counts in [*built.sources.items(), *whole] for row in _rows(name, counts)])
    if built.shard:
        shard, of = built.shard
        say = (
            f"{built.path} holds the parts of shard {shard} of {of}. When all are there: corl data merge DIR… --out DIR"
        )
    else:
        train = training(built.recipe.model_dump(mode="json"), built.path, recipe)
        say = f"{built.path} holds the set, and preview.html. Train: {train}"
        say += " (RECIPE: the one that it was built with)" if " RECIPE " in train else ""
    console().print(say, markup=False, soft_wrap=True)


def _rows(name: str, counts: Counts) -> list[dict[str, Any]]:
    """A line of a source, and one for each reason by which items were dropped."""
    dropped = sum(counts["dropped"].values())
    first = {"source": name, "offered": counts["offered"], "kept": counts["kept"], "dropped": dropped}
    reasons = [{"": reason, "dropped": items} for reason, items in counts["dropped"].items()]
    return [first | {"": "", "mean coverage": counts["coverage"]}] + [
        dict.fromkeys(first, "") | reason | {"mean coverage": ""} for reason in reasons
    ]


class Phases:
    """One line of progress after another, as a build reports itself; of a phase whose end nobody knows, the count."""

    every = 10.0  # seconds between lines where stderr is no terminal

    def __enter__(self) -> Phases:
        self.bars, self.phase = ExitStack(), ""
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.close()

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        if phase != self.phase:
            self.bars.close()
            self.phase, self.ended, self.begun = phase, False, time.monotonic()
            self.said = self.begun
            self.bar = self._bar() if console().is_terminal else None
        if self.bar:
            self.bar.update(self.task, completed=done, total=total)
        elif (done == total) != self.ended or time.monotonic() - self.said > self.every:
            self.ended = done == total
            self.said = time.monotonic()
            seconds = self.said - self.begun
            of = f"/{total:,}" if total else ""
            rate = f", {done / seconds:,.0f} a second" if seconds > 1 else ""
            print(f"{phase} {done:,}{of}{rate}", file=sys.stderr, flush=True)

    def _bar(self) -> Any:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
        )
        bar = self.bars.enter_context(rich.Progress(*columns, console=console()))
        self.task = bar.add_task(self.phase, total=None)
        return bar
