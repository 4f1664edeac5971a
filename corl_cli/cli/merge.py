"""`corl merge`: several checkpoints into one."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from corl_cli.cli.common import Json, complete_checkpoint, console, progress, table

Method = Literal["gaussian", "linear", "task-arithmetic"]


def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="'world', a run, a folder or a hub id.", autocompletion=complete_checkpoint
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="What all of them began from.", autocompletion=complete_checkpoint
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option("--method", help="gaussian is the paper's, and the default; linear needs no base."),
    ] = None,
    weight: Annotated[
        list[float],
        typer.Option("--weight", metavar="W", help="One for each model; linear divides them by their sum."),
    ] = [],  # noqa: B006 (typer copies it)
    scale: Annotated[
        float | None, typer.Option("--scale", metavar="S", help="Of the summed changes, for task-arithmetic. [1]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge models that have one ancestor into one. A LoRA run alone is folded into the weights it stands on."""
    from corl_cli.pipelines.merge import carry_out, check

    job = check(models, out=out, base=base, method=method, weights=weight, scale=scale)
    with progress("Tensors", len(job.specs)) as bar:
        report = carry_out(job, bar)
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=2))
        return
    _explain(report, given=base is not None)
    table([_row("group", group, readings) for group, readings in report["groups"].items()])
    if report["most_moved"]:
        typer.echo("\nThe tensors that moved most:")
        table([_row("tensor", name, report["tensors"][name]) for name in report["most_moved"]])
    console().print(f"{out} holds the model, and merge.json the numbers. Use it with --from {out}", soft_wrap=True)


def _row(heading: str, name: str, readings: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: shares as per cent, and no columns that say what the heading says."""
    row: dict[str, Any] = {heading: name}
    for key, value in readings.items():
        if key.endswith("outside"):
            row[key] = None if value is None else f"{value:.1%}"
        elif key != "group" and not isinstance(value, bool):
            row[key] = value
    return row


def _explain(report: dict[str, Any], *, given: bool) -> None:
    first = report["method"] == "linear" and not given
    base = "A, as no --base was given" if first else report["base"]["name"]
    names = ", ".join(f"{label} = {model['name']}" for label, model in report["models"].items())
    console().print(
        f"{report['method']}: {names}; base = {base}. Columns A, ... and merged: |w - base| / |base|"
        + (", outside: share of entries added in full" if report["method"] == "gaussian" else "")
        + "; cosine: between the models' changes.",
        soft_wrap=True,
        markup=False,
    )
