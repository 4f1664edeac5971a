"""`corl env`: what to paste into an issue."""

from __future__ import annotations

import json
from typing import Any

import typer

from corl_cli.cli.common import Json


def env(as_json: Json = False) -> None:
    """Print versions, hardware and settings, to paste into an issue. No keys, names or paths are among them."""
    from corl_cli.pipelines.environment import environment

    found = environment()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.echo("### Environment\n")
    for section, facts in found.items():
        typer.echo(f"- {section}: {_told(facts)}")


def _told(facts: dict[str, Any]) -> str:
    """Facts in one line of Markdown; what is not there is left out."""
    return ", ".join(f"{_named(name)} `{_value(value)}`" for name, value in facts.items() if value not in (None, []))


def _named(name: str) -> str:
    return name.replace("_gib", " (GiB)").replace("_", " ") if name.islower() and name != "huggingface_hub" else name


def _value(value: Any) -> str:
    return "; ".join(value) if isinstance(value, list) else str(value)
