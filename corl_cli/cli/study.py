"""`corl study`: the paper's comparisons, every arm trained, read and set side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from corl_cli.cli.common import DryRun, Json, Out, OwnRecipe, Resume, Seed, Set, console, progress, table, with_options
from corl_cli.cli.train import Silent, Terminal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from corl_cli.core.progress import Progress

app = typer.Typer(help="Compare ways of training, as the paper does.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Compare ways of training, as the paper does."""


def _study(
    kind: str,
    *,
    recipe: OwnRecipe = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """The body of every command; the options are theirs too."""
    from corl_cli.core.loader import examine

    if seed is not None:
        overrides = [*overrides, f"study.seeds=[{seed}]"]
    if recipe is None and resume and out and (out / "recipe.yaml").exists() and not overrides:
        recipe = str(out / "recipe.yaml")  # nothing else was asked for: go on with the study's own
    draft = examine(recipe or f"study/{kind}", overrides)
    from corl_cli.pipelines import checks, study

    checks.check_study(draft, kind)
    loaded = draft.recipe
    if dry_run:
        table(study.describe(kind, loaded), as_json=as_json)
        return
    folder = study.open_study(kind, loaded, out, resume=resume, command=["corl", *sys.argv[1:]])
    main = study.is_main_process()
    screen = Screen() if main else Dark()
    screen.say(f"{loaded.name} in {folder}")
    study.run(kind, loaded, folder, screen)
    if main:
        _finish(folder, as_json)


@app.command(epilog="Example: corl study paradigms --set train.max_steps=50 --set study.seeds=[0] --out runs/pilot")
@with_options(_study)
def paradigms(**options: Any) -> None:
    """Separate, merging, cycle and unified training at one budget of samples (the paper's Figure 1)."""
    _study("paradigms", **options)


@app.command(epilog="Example: corl study corl --set train.max_steps=50 --set study.seeds=[0] --out runs/ablations")
@with_options(_study)
def corl(**options: Any) -> None:
    """The two stages and what each adds, supervised training, and the rewards (the paper's Tables 3 and 4)."""
    _study("corl", **options)


class Screen:
    """Shows a study on stderr: a line for each arm, and the bar of what is under way."""

    def say(self, line: str) -> None:
        console().print(line, markup=False, soft_wrap=True)

    @contextmanager
    def training(self, title: str, steps: int, done: int) -> Iterator[Terminal]:
        with progress(title, steps, done=done) as bar:
            yield Terminal(bar)

    def merging(self, title: str, tensors: int) -> AbstractContextManager[Progress]:
        return progress(title, tensors)


class Dark(Screen):
    """What the other processes show."""

    def say(self, line: str) -> None: ...

    def training(self, title: str, steps: int, done: int) -> AbstractContextManager[Silent]:  # type: ignore[override]
        return nullcontext(Silent())


def _finish(folder: Path, as_json: bool) -> None:
    import json

    from corl_cli.pipelines.study_report import FIGURE, RESULTS, TABLE

    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps(results, indent=2))
        return
    table(results["table"])
    typer.echo(f"\n{results['caption']}")
    typer.echo(f"Table: {folder / TABLE}. Plot: {folder / FIGURE}. All numbers: {folder / RESULTS}.", err=True)
