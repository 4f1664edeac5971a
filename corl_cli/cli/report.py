"""`corl report`: the page of one or several runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import Json, complete_run, console, progress
from corl_cli.core.errors import UsageError
from corl_cli.core.numbers import finite

if TYPE_CHECKING:
    from corl_cli.pipelines.report import Told


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="The folders of runs.", autocompletion=complete_run)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The page; report.html in the run, or above the first of several."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE.png", help="Also one picture of the run, before and after."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the page of a run, or of several over each other: one HTML file that needs nothing else.

    Alarms, scores before and after, curves, drawings and answers through time, groups taken apart, evaluations, recipe.
    """
    first = runs[0].resolve()
    page = out or (first if len(runs) == 1 else first.parent) / "report.html"
    named = " ".join(map(str, runs))
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"{page}: the page is HTML.", f"corl report {named} --out {page}.html")
    if picture and picture.suffix.lower() != ".png":
        raise UsageError(f"{picture}: the picture is a PNG.", f"corl report {named} --picture {picture}.png")
    if picture and len(runs) > 1:
        raise UsageError("A picture is of one run.", f"corl report {runs[0]} --picture {picture}")
    from corl_cli.pipelines.report import Report, draw

    made = Report(runs)
    with progress("reading", made.work) as bar:
        made.write(page, bar)
    if picture:
        draw(runs[0], picture)
    if as_json:
        told = {
            "page": str(page),
            "picture": picture and str(picture),
            "runs": [_told(run) for run in made.runs],
            "missing": made.missing,
        }
        typer.echo(json.dumps(finite(told), indent=2, ensure_ascii=False, allow_nan=False))
        return
    for run in made.runs:
        alarms = [alarm.name for alarm in run.audited.found.alarms] if run.audited else []
        seen = f"{'; '.join(alarms) or 'no alarm'} {run.basis}".rstrip() if run.audited else "not audited"
        typer.echo(f"{run.story.label}: {run.head['steps']}, {run.head['state']}; {seen}")
    for reason in made.missing:
        console().print(f"warning: not shown: {reason}", markup=False, soft_wrap=True)
    for file in (page, picture):
        if file:
            console().print(f"Open: {file}", markup=False, soft_wrap=True)


def _told(run: Told) -> dict[str, Any]:
    from dataclasses import asdict

    from corl_cli.pipelines.summary import summarise

    return {
        "label": run.story.label,
        "run": str(run.story.run.path),
        "step": run.story.last_step,
        "steps": run.planned,
        "state": run.head["state"],
        "changes": [
            asdict(change) | {"change": change.after - change.before}
            for change in summarise(run.story.run, run.story.metrics).changes
        ],
        "recorded_steps": run.recorded,
        "audited_steps": run.read,
        **{f"{level}s": count if run.audited else None for level, count in run.raised.items()},
    }
