"""manifest.json of a built set: what it was made of and what became of it; it is written last and marks it complete."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from corl_cli.core.errors import CorlError
from corl_cli.core.kinds import kind_of
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import write_atomic

NAME = "manifest.json"


class File(TypedDict):
    """A file; `path` is relative to the folder for what was built, as it was given for what a source reads."""

    path: str
    bytes: int
    sha256: str


class Counts(TypedDict):
    """What became of items; `coverage` is the mean of those kept that have one, None where none has."""

    offered: int
    kept: int
    dropped: dict[str, int]
    coverage: float | None


class Split(TypedDict):
    """The rows of a split, and its parquet files in order."""

    rows: int
    files: list[File]


class Manifest(TypedDict):
    """`recipe` is the whole recipe, `files` the annotations that sources read, `fingerprints` those of
    sources that read other files ("" elsewhere), `sources` the counts of each of them.

    `limit` is how many items were read at most. `policy` is the checkpoint that rated the difficulty, where one did.
    Equal inputs give an equal manifest but for `created`.
    """

    corl: str
    libraries: dict[str, str | None]
    created: str
    seed: int
    limit: int | None
    recipe: dict[str, Any]
    files: list[File]
    fingerprints: list[str]
    sources: dict[str, Counts]
    total: Counts
    splits: dict[str, Split]
    columns: list[str]
    policy: NotRequired[str]


def write(folder: Path, manifest: Manifest) -> None:
    """Write it whole or not at all."""
    write_atomic(folder / NAME, json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(folder: Path) -> Manifest | None:
    """The manifest of a built set, None where there is none; CorlError when it is damaged."""
    try:
        manifest: Manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        manifest["splits"], manifest["sources"], manifest["recipe"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CorlError(f"{folder / NAME} is damaged: {error}", "Build the set again.") from error
    return manifest


def training(recipe: Mapping[str, Any], path: str | Path, name: str = "RECIPE") -> str:
    """The command that trains on a set built from `recipe`, called `name`.

    The recipe that training takes by itself is for the embedded world, and its checker rejects other prompts.
    """
    of_the_world = all(source["name"] == "world" for source in recipe["prepare"]["sources"])
    kind = None if of_the_world else kind_of(Recipe.model_validate(recipe))
    chosen = "" if of_the_world else f" --recipe {shlex.quote(name)}"
    return f"corl train {kind.command if kind else 'unified'}{chosen} --set data.path={shlex.quote(str(path))}"


def describe(folder: Path, file: Path) -> File:
    """The entry of a file that was built into the folder."""
    return {"path": file.relative_to(folder).as_posix(), "bytes": file.stat().st_size, "sha256": sha256(file)}


def sha256(file: Path) -> str:
    """The hash of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
