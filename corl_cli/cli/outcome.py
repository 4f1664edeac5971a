"""What `corl train` says at the end of a run: what changed, and where to look and go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from corl_cli.cli.common import table
from corl_cli.core.types import TITLES

if TYPE_CHECKING:
    from corl_cli.core.run_dir import RunDir
    from corl_cli.pipelines.summary import Change, Summary


def show(run: RunDir, trackers: Sequence[str], *, as_json: bool) -> None:
    """Held-out scores before and after to stdout, as a table or JSON; after a table, on stderr, where to look.

    Of the page and the picture of a run, those are named that could be made.
    """
    from corl_cli.pipelines.summary import summarise

    summary = summarise(run)
    if as_json:
        changes = [asdict(change) | {"change": change.after - change.before} for change in summary.changes]
        fields = {"run": str(run.path), "step": summary.step, "seconds": summary.seconds, "peak_gib": summary.peak_gib}
        table([fields | {"best": summary.best and str(summary.best), "changes": changes}], as_json=True)
        return
    table([_row(change) for change in summary.changes])
    steps = f"{summary.step} step{'s' * (summary.step != 1)}"
    typer.echo(f"{steps} in {summary.seconds:.0f} s, {summary.peak_gib:.2f} GiB at most.", err=True)
    for what, where in _places(run, summary, trackers).items():
        typer.echo(f"  {what:<8}  {where}", err=True)


def _row(change: Change) -> dict[str, str | float]:
    return {
        "held out": f"{TITLES[change.task]}: {change.score}",
        "T": change.temperature,
        "items": change.items,
        "before": f"{change.before:.3f}",
        "after": f"{change.after:.3f}",
        "change": f"{change.after - change.before:+.3f} ± {change.stderr:.3f}",
    }


def _places(run: RunDir, summary: Summary, trackers: Sequence[str]) -> dict[str, str]:
    from corl_cli.pipelines.report import PAGE, PICTURE

    files = {"open": run.path / PAGE, "picture": run.path / PICTURE, "samples": run.samples}
    places = {what: str(file) for what, file in files.items() if file.exists()}
    places["model"] = f"{run.checkpoints}; to go on from it: --from {shlex.quote(str(run.path))}"
    if summary.best:
        places["best"] = f"{summary.best}; to go on from it: --from {shlex.quote(f'{run.path}@best')}"
    if "tensorboard" in trackers:
        places["numbers"] = f"tensorboard --logdir {shlex.quote(str(run.path))}"
    return places
