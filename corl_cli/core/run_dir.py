"""The folder of one run: its recipe and provenance, then metrics, samples, rollouts and checkpoints as it goes on."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corl_cli import __version__
from corl_cli.core import versions
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import diff, dump, load
from corl_cli.core.recipe import Recipe

LIBRARIES = ("torch", "transformers", "accelerate", "datasets")


class RunDir:
    """A run on disk. Making one touches nothing; `create` and `open` do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.provenance_file = path / "provenance.json"
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, *, command: Sequence[str], facts: Mapping[str, Any], folders: bool = True
    ) -> RunDir:
        """A new run in an absent or empty folder; `facts` join its provenance: data, starting weights, processes.

        UsageError when something is there already. A study has no `folders` of a training's.
        """
        run = cls(path)
        made = {inside.name for inside in (run.provenance_file, run.samples, run.rollouts, run.checkpoints)}
        there = {inside.name for inside in path.iterdir() if inside.suffix != ".partial"} if path.is_dir() else set()
        if there - made:  # a kill may have left what is made here
            go_on = f"Go on with it: --out {path} --resume. " if run.recipe_file.exists() else ""
            raise UsageError(
                f"{path} exists and is not empty.",
                f"{go_on}Start another with --out {cls.next_free(path.parent, path.name)}",
            )
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            for folder in (run.samples, run.rollouts, run.checkpoints) if folders else ():
                folder.mkdir(parents=True, exist_ok=True)
        write_atomic(run.provenance_file, json.dumps(_provenance(command) | dict(facts), indent=2) + "\n")
        write_atomic(run.recipe_file, dump(recipe))  # last: it marks the folder as a run
        return run

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> RunDir:
        """The run at `path`, to go on with; UsageError when there is none or its recipe is another one."""
        run = cls(path)
        free = ("notes", "distributed.strategy")  # a checkpoint is the same whoever held the weights
        changes = {key: pair for key, pair in diff(run.recipe(), recipe).items() if key not in free}
        if changes:
            lines = "\n".join(f"  {key}: {ours!r} there, {theirs!r} now" for key, (ours, theirs) in changes.items())
            raise UsageError(
                f"The run {path} was started with another recipe:\n{lines}",
                f"Resume with its own, --recipe {run.recipe_file}, or start another run with another --out.",
            )
        return run

    def moved(self, checkpoint: str, start: str) -> None:
        """Note where the run's starting weights, model.checkpoint and what that stands for, are now."""
        model = self.recipe().model.model_copy(update={"checkpoint": checkpoint})
        write_atomic(self.provenance_file, json.dumps(self.provenance() | {"start": start}, indent=2) + "\n")
        write_atomic(self.recipe_file, dump(self.recipe().model_copy(update={"model": model})))

    @classmethod
    def next_free(cls, folder: Path, name: str) -> Path:
        """folder/name, or the first of folder/name-2, folder/name-3, ... that does not exist."""
        path, number = folder / name, 1
        while path.exists():
            number += 1
            path = folder / f"{name}-{number}"
        return path

    def recipe(self) -> Recipe:
        """The frozen recipe of the run; UsageError when the folder is not a run."""
        if not self.recipe_file.is_file():
            raise UsageError(f"{self.path} is not a run: it has no recipe.yaml.", "Name a folder under runs/.")
        return load(self.recipe_file)

    def provenance(self) -> dict[str, Any]:
        """Where the run came from: command, versions, data, starting weights."""
        provenance: dict[str, Any] = json.loads(self.provenance_file.read_text(encoding="utf-8"))
        return provenance

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl; values must be finite or None, which every JSON reader takes."""
        text = json.dumps(line, allow_nan=False) + "\n"
        with writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(text)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line torn by a kill is left out."""
        if not self.metrics_file.exists():
            return []
        with self.metrics_file.open(encoding="utf-8") as file:
            try:
                return [json.loads(line) for line in file if line.endswith("\n")]
            except ValueError as error:
                raise CorlError(f"{self.metrics_file} is damaged: {error}", "Remove the damaged line.") from error

    def truncate_after(self, step: int) -> None:
        """Drop the metrics of later steps, and a torn last line, so that a resumed run writes them once."""
        lines = [json.dumps(line) for line in self.read_metrics() if line["step"] <= step]
        write_atomic(self.metrics_file, "".join(f"{line}\n" for line in lines))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: a temporary name, fsync, rename. CorlError when the disk is full."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself and outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, then: str = "go on with --resume") -> Iterator[None]:
    """Turn a full disk or a place that cannot be written, met while writing `path`, into a CorlError that says so.

    `then` is what to do once there is space.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CorlError(f"No space left on the disk for {path}.", f"Free some space, then {then}.") from error
        raise CorlError(f"{path} cannot be written: {error.strerror}.", "Choose another place with --out.") from error


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that gets its name when all went well and goes away when not."""
    partial_folder = out.absolute().with_name(f".{out.absolute().name}.partial")
    try:
        with writing(out, then="try again"):
            shutil.rmtree(partial_folder, ignore_errors=True)  # of one that was killed
            partial_folder.mkdir(parents=True)
        yield partial_folder
        with writing(out, then="try again"):
            partial_folder.rename(out.absolute())
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def check_vacant(out: Path) -> None:
    """UsageError when there is something at `out` already, other than an empty folder."""
    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty.", "Choose another place with --out.")


def check_room(out: Path, nbytes: int, what: str) -> None:
    """CorlError when the disk of `out` has less room than `what` takes."""
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if nbytes > free:
        raise CorlError(
            f"{what} takes {nbytes / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free.",
            "Free some space, or choose another place with --out.",
        )


def _provenance(command: Sequence[str]) -> dict[str, Any]:
    return {
        "command": list(command),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "corl": __version__,
        "commit": versions.commit(Path()),
        "python": platform.python_version(),
        **{name: versions.installed(name) for name in LIBRARIES},
    }
