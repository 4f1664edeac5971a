"""`corl doctor`: whether this machine has what corl can make use of, or what one command needs."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from corl_cli.cli.common import (
    Json,
    OwnRecipe,
    Set,
    complete_benchmark,
    complete_checkpoint,
    complete_recipe,
    complete_reward,
    table,
)
from corl_cli.core.errors import CorlError, UsageError

if TYPE_CHECKING:
    from corl_cli.pipelines.doctor import Finding

INDENT = " " * 12


def complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of what --for asks about: recipes, benchmarks or rewards."""
    known = {"train": complete_recipe, "eval": complete_benchmark, "reward": complete_reward}
    return known[ctx.params["what"]](incomplete) if ctx.params.get("what") in known else []


def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="With --for: a recipe to train, a benchmark, or a reward (a name or '{name: …}').",
            show_default=False,
            autocompletion=complete_name,
        ),
    ] = None,
    what: Annotated[
        Literal["train", "eval", "reward"] | None,
        typer.Option("--for", help="Look at what one command needs, and exit 1 where it cannot run."),
    ] = None,
    recipe: OwnRecipe = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="RUN|MODEL",
            help="Weights in place of the recipe's.",
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Look at this machine: hardware, libraries, the hub, what rewards and benchmarks need, and what to do."""
    if what is None:
        if name or recipe or checkpoint or overrides:
            raise UsageError(
                "NAME, --recipe, --checkpoint and --set belong to --for.",
                f"For one: corl doctor --for train {name or recipe or 'world/unified'}",
            )
        _everything(as_json)
        return
    if what == "train" and name and recipe:
        raise UsageError("A training has one recipe: NAME and --recipe are two.", "Leave one of them out.")
    with _loading():
        from corl_cli.pipelines.readiness import Asked, ready
    verdict = ready(Asked(what=what, name=name, recipe=recipe, overrides=overrides, checkpoint=checkpoint))
    _show(verdict.findings, as_json)
    if not verdict.runs:
        raise CorlError(f"{verdict.command} cannot run here.")
    typer.echo(f"{verdict.command} can run here.", err=True)


@contextmanager
def _loading() -> Iterator[None]:
    """CorlError for libraries that do not load: nothing of corl runs then."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        raise CorlError(
            f"corl's libraries cannot be imported: {(str(error).strip() or type(error).__name__).splitlines()[0]}",
            "In corl's folder: pip install --force-reinstall . -c constraints.txt",
        ) from error


def _everything(as_json: bool) -> None:
    with _loading():
        from corl_cli.pipelines.doctor import diagnose
    findings = diagnose()
    _show(findings, as_json)
    words = {"ok": "ok", "download": "to download at first use", "missing": "missing", "broken": "broken"}
    counts = Counter[str](finding.state for finding in findings)
    told = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
    typer.echo(f"\n{told}. Whether a command can run: corl doctor --for train|eval|reward [NAME]", err=True)


def _show(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        table([asdict(finding) for finding in findings], as_json=True)
        return
    width = max(40, min(120, shutil.get_terminal_size((120, 24)).columns))
    for number, (group, inside) in enumerate(groupby(findings, key=lambda finding: finding.group)):
        typer.echo("\n" * (number > 0) + group)
        for finding in inside:
            typer.echo("\n".join(_lines(finding, width)))


def _lines(finding: Finding, width: int) -> list[str]:
    """One thing: its state and what was found; where something is to be done, what it is for, and that.

    A remedy is one line however long, so that it can be copied.
    """
    found = textwrap.wrap(
        f"{finding.name}: {finding.detail}",
        width,
        initial_indent=f"  {finding.state:<10}",
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if finding.state == "ok":
        return found
    purpose = textwrap.wrap(
        f"for {finding.purpose}", width, initial_indent=INDENT, subsequent_indent=INDENT, break_on_hyphens=False
    )
    return [*found, *purpose, *([f"{INDENT}> {finding.remedy}"] if finding.remedy else [])]
