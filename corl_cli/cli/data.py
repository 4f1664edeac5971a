"""`corl data`: check a set of triplets, look into it, join its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corl_cli.cli.common import Json, Recipe, Set, console, progress, table
from corl_cli.core.errors import UsageError

if TYPE_CHECKING:
    from corl_cli.core import recipe as recipes
    from corl_cli.data.check import Report
    from corl_cli.pipelines.data import Seen, View

DEFAULT = "world/unified"  # any recipe will do where columns have corl's own names

app = typer.Typer(
    help="Check a set of triplets, look into it, join its parts.", no_args_is_help=True, rich_markup_mode=None
)

Set_ = Annotated[
    str, typer.Argument(metavar="DIR", help="A built set, a folder or parquet file that datasets can read, or 'world'.")
]


@app.callback()
def group() -> None:
    """Check a set of triplets, look into it, join its parts."""


@app.command(epilog="Example: corl data check data/prepare-world")
def check(path: Set_, recipe: Recipe = DEFAULT, overrides: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """Check a set of triplets. Columns, files, texts, options, images, duplicates, leaks between splits.

    Exits 1 when there is a fault; a remark is worth a look. The recipe matters for data.columns only.
    """
    from dataclasses import asdict

    from corl_cli.data import check as checking

    data = _load(path, recipe, overrides).data
    total = checking.count(data)
    if total is None:
        report = checking.check(data)
    else:
        with progress("checking", total) as bar:
            report = checking.check(data, bar)
    if as_json:
        typer.echo(_json(asdict(report) | {"sound": report.sound}))
    else:
        _print(path, report)
    if not report.sound:
        raise typer.Exit(1)


@app.command(epilog="Example: corl data show data/prepare-world --index 3 --out three.png")
def show(
    path: Set_,
    index: Annotated[int, typer.Option("--index", metavar="N", help="Which one, from 0; -1 is the last.")] = 0,
    split: Annotated[str | None, typer.Option("--split", help="Of which part, in place of the recipe's.")] = None,
    recipe: Recipe = DEFAULT,
    overrides: Set = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Save its image there.")] = None,
    as_json: Json = False,
) -> None:
    """Show one triplet as the model will see it. Chat text and tokens of both tasks, answer, image.

    The recipe gives the instruction that is added, and the checkpoint whose tokenizer counts.
    """
    from corl_cli.pipelines.data import see

    if out and out.suffix.lower() != ".png":
        raise UsageError(f"{out}: the image is saved as PNG.", f"corl data show {path} --out {out.with_suffix('.png')}")
    seen = see(_load(path, recipe, overrides), index, split)
    if as_json:
        typer.echo(_json(_facts(seen)))
    else:
        _describe(seen)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        seen.triplet.image.save(out)
        console().print(f"{out} is its image.", markup=False)


@app.command(epilog="Example: corl data merge data/stage1-1-of-2 data/stage1-2-of-2 --out data/stage1")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="All the shards of one build.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the whole set.")],
    as_json: Json = False,
) -> None:
    """Join the shards of corl prepare-data --shard. Duplicates, balance and splits are judged over all of them."""
    from corl_cli.cli import prepare
    from corl_cli.pipelines.prepare import merge

    with prepare.Phases() as phases:
        built = merge(folders, out, phases)
    prepare.show(built, as_json, "RECIPE")


def _load(path: str, recipe: str, overrides: list[str]) -> recipes.Recipe:
    """The recipe with `path` as its data."""
    from corl_cli.core.loader import load

    loaded = load(recipe, overrides)
    return loaded.model_copy(update={"data": loaded.data.model_copy(update={"path": path})})


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


def _print(path: str, report: Report) -> None:
    rows = ", ".join(f"{number:,} {split}" for split, number in report.rows.items())
    if report.findings:
        table(
            [
                {
                    "": finding.severity,
                    "what": finding.what,
                    "count": finding.count,
                    "for example": ", ".join(finding.examples),
                }
                for finding in report.findings
            ]
        )
    for reason in report.unchecked:
        console().print(f"Not checked: {reason}.", markup=False, soft_wrap=True)
    verdict = "no fault" if report.sound else "there are faults"
    console().print(f"{path} ({rows}): {verdict}.", markup=False, soft_wrap=True)


def _facts(seen: Seen) -> dict[str, object]:
    from dataclasses import asdict

    triplet = seen.triplet
    names = ("id", "source", "prompt", "question", "answer", "answer_type")
    return {
        **{name: getattr(triplet, name) for name in names},
        "index": seen.index,
        "rows": seen.rows,
        "image_size": list(triplet.image.size),
        "views": [asdict(view) | {"total": view.total, "fits": view.fits} for view in seen.views],
    }


def _describe(seen: Seen) -> None:
    triplet = seen.triplet
    typer.echo(f"{triplet.id}, number {seen.index} of {seen.rows:,}, from {triplet.source}")
    typer.echo(f"image: {triplet.image.width} x {triplet.image.height} pixels")
    for view in seen.views:
        typer.echo(f"\n{view.task}: {_tokens(view)}\n{view.text}")
    if triplet.answer:
        typer.echo(f"\nanswer ({triplet.answer_type}): {triplet.answer}")


def _tokens(view: View) -> str:
    prompt = f"{view.text_tokens} tokens of text"
    if view.image_tokens:
        prompt += f" and {view.image_tokens} of the image"
    new = f"{view.new} of the drawing" if view.task == "t2i" else f"at most {view.new} of the answer"
    verdict = "" if view.fits else ", WHICH DOES NOT FIT"
    return f"{prompt}, then {new}: {view.total} of {view.room}{verdict}"
