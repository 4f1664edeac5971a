"""`corl convert`: checkpoints between DeepSeek's format and transformers', and what a recipe needs from the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from corl_cli.cli.common import DryRun, Json, OwnRecipe, Set, complete_checkpoint, console, progress, table
from corl_cli.core.errors import CorlError, UsageError

UNUSED = "SigLIP's pooling head, a counter"


def convert(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, a hub id, a run or 'world'.",
            show_default=False,
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to write to.")] = None,
    to: Annotated[
        Literal["transformers", "deepseek"] | None,
        typer.Option("--to", help="The format to write. [the one that SOURCE is not in]"),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, typer.Option("--dtype", help="Of the weights. [as they are]")
    ] = None,
    fetch_only: Annotated[
        bool, typer.Option("--fetch-only", help="Fetch what a recipe needs from the network, and convert nothing.")
    ] = False,
    recipe: OwnRecipe = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Convert a Janus from DeepSeek's format to transformers', or back. Its weights are compared, and it is asked."""
    if fetch_only:
        if not recipe or source or out or to or dtype:
            raise UsageError(
                "--fetch-only goes with --recipe, --set, --dry-run and --json alone.",
                "Type corl convert --fetch-only --recipe NAME",
            )
        _fetch(recipe, overrides, dry_run=dry_run, as_json=as_json)
        return
    if source and not out:
        raise UsageError(
            "A conversion needs SOURCE and --out: there is no --out.",
            f"Name a new folder: corl convert {source} --out NEW",
        )
    if not source or not out or recipe or overrides:
        raise UsageError(
            "A conversion needs SOURCE and --out; --recipe and --set belong to --fetch-only.",
            "Type corl convert deepseek-ai/Janus-Pro-1B --out janus-pro-1b",
        )
    _convert(source, out, to, dtype, dry_run=dry_run, as_json=as_json)


def _convert(
    source: str,
    out: Path,
    to: Literal["transformers", "deepseek"] | None,
    dtype: Literal["float32", "bfloat16"] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from corl_cli.pipelines.convert import carry_out, check

    job = check(source, out=out, to=to, dtype=dtype, fetch=not dry_run)
    if dry_run:
        report = job.plan()
    else:
        with progress("Tensors", job.steps) as bar:
            report = carry_out(job, bar)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    _tell(report, dry_run=dry_run)


def _tell(report: dict[str, Any], *, dry_run: bool) -> None:
    from corl_cli.pipelines.convert import NAMES

    typer.echo(
        f"{report['source']}, from {NAMES[report['from']]} format to {NAMES[report['to']]}: {report['tensors']} "
        f"tensors, {report['parameters'] / 1e6:.1f} M parameters, {report['dtype']}, {report['bytes'] / 1e9:.3g} GB."
    )
    if report["dropped"]:
        typer.echo(f"Left out: {report['dropped']} tensors that Janus never evaluates: {UNUSED}.")
    if report["zeros"]:
        typer.echo(f"Zeros: {report['zeros']} tensors that DeepSeek's code loads and never evaluates: {UNUSED}.")
    typer.echo(f"It is prompted as {json.dumps(report['prompt'])}{_source(report)}")
    if report["to"] == "deepseek" and not report["known_to_deepseek"]:
        typer.echo("Its SigLIP or VQ model is of a size that DeepSeek's code does not have; corl can convert it back.")
    if dry_run:
        console().print("Nothing was written.")
        return
    typer.echo("Every tensor of the source was found again in what was written.")
    typer.echo(_answers(report["answers"], trained=report["known_to_deepseek"]))
    use = f" Use it with --from {report['out']}" if report["to"] == "transformers" else ""
    console().print(f"{report['out']} holds the model.{use}", soft_wrap=True, markup=False)


def _source(report: dict[str, Any]) -> str:
    """What says how the model is prompted, and what to do where that was guessed."""
    if report["prompt_from"] == "guess":
        return (
            f", which is a guess: neither its files nor its name say how. Models trained from Janus-1.3B have User and "
            f"Assistant there; change the roles in {report['out']}/chat_template.jinja"
        )
    return ", by its own chat template." if report["prompt_from"] == "files" else ", as its name says."


def _answers(answers: dict[str, float] | None, *, trained: bool) -> str:
    if answers is None:
        return "It was not asked anything: that takes more memory than this machine has free."
    asked = "It read a sentence and a picture and drew: all is finite."
    if trained and answers["text"] > answers["guess"]:
        asked += f" But {answers['text']} nats per token of English is worse than guessing ({answers['guess']})."
    return asked


def _fetch(name: str, overrides: list[str], *, dry_run: bool, as_json: bool) -> None:
    from corl_cli.core.loader import load
    from corl_cli.pipelines.fetch import fetch, lacking, wanted

    recipe = load(name, overrides)
    things = wanted(recipe)
    if dry_run:
        rows = [_row(one, "here" if (path := one.here()) else "to fetch", str(path or "")) for one in things]
    else:
        with progress("Fetching", len(things)) as bar:
            found = list(fetch(things, bar))
        rows = [_row(one.wanted, one.state, one.detail, one.nbytes if one.path else None) for one in found]
    if rows or as_json:
        table(rows, as_json=as_json)
    else:
        typer.echo(f"{recipe.name} needs nothing from a network.")
    for need in lacking(recipe):
        console().print(f"No download brings {need.name}: {need.detail}. {need.remedy}", soft_wrap=True, markup=False)
    if failed := [row["name"] for row in rows if row["state"] == "failed"]:
        raise CorlError(f"Not fetched: {', '.join(failed)}.", "The table says why; what is here stays for another try.")


def _row(wanted: Any, state: str, detail: str, nbytes: int | None = None) -> dict[str, Any]:
    size = None if nbytes is None else round(nbytes / 1e6, 1)
    revision = wanted.revision or None
    return {
        "state": state,
        "kind": wanted.kind,
        "name": wanted.name,
        "revision": revision,
        "MB": size,
        "for": wanted.why,
        "where": detail,
    }
