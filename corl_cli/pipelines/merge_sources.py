"""Checkpoints to be merged: finding them, opening their weights, and what keeps two of them from being merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from corl_cli.core.errors import UsageError
from corl_cli.core.requirements import Wanted
from corl_cli.models import lora
from corl_cli.models.shards import ADAPTERS, Adapted, Saved, Weights
from corl_cli.pipelines.build import locate
from corl_cli.scoring.checkpoints import requirement

LINES = 5  # tensors named per model when many differ


@dataclass(frozen=True)
class Source:
    """A checkpoint to be merged: as it was named, its folders (its own, then those that its adapters stand on)."""

    name: str
    folders: tuple[Path, ...]
    weights: Weights

    def file(self, name: str) -> Path | None:
        """One of its files, from the first of its folders that has it."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)


def open_source(name: str) -> Source:
    """A source by name: 'world', a run, a folder or a hub id in the cache; adapters with the weights they stand on."""
    folder = at_hand(name)
    if isinstance(folder, Wanted):
        raise _nowhere(name, f"; a model of the hub is fetched with hf download {name}")
    if not (folder / ADAPTERS).is_file():
        return Source(name, (folder,), Saved(folder))
    under = lora.base_of(folder)
    base = Source(str(folder), (folder,), Saved(folder)) if under == str(folder) else open_source(under)
    return Source(name, (folder, *base.folders), Adapted(folder, base.weights))


def at_hand(name: str) -> Path | Wanted:
    """The folder of a source, in the hub's cache for a hub id, or what the hub may have; UsageError for neither."""
    folder = Path(locate(name)).expanduser()
    if folder.is_dir():
        return folder
    wanted = requirement("Janus checkpoint", name).wanted
    if wanted and (here := wanted.here()):
        return here
    owner, _, model = name.partition("/")
    if not (wanted and model) or owner == "runs" or Path(owner).is_dir():  # it looks like a folder's name
        raise _nowhere(name)
    return wanted


def _nowhere(name: str, fetch: str = ".") -> UsageError:
    return UsageError(f"{name} is neither a folder here nor in the hub's cache.", f"Give a run or a checkpoint{fetch}")


def ancestor(source: Source) -> Source:
    """The weights that a LoRA checkpoint stands on; UsageError for a model without adapters."""
    if not isinstance(source.weights, Adapted):
        raise UsageError(
            f"{source.name} is one model, and without LoRA adapters there is nothing to fold.",
            "Name two or more models to merge: corl merge A B --base C --out DIR",
        )
    return Source(str(source.folders[1]), source.folders[1:], source.weights.base)


def differences(one: Source, other: Source) -> Iterator[UsageError]:
    """What keeps two models from being merged: a line for each tensor, and one for the tokenizer."""
    ours, theirs = one.weights.specs, other.weights.specs
    lines = [f"{other.name} lacks {name}, which {one.name} has." for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"{one.name} lacks {name}, which {other.name} has." for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].shape != theirs[name].shape:
            shapes = f"{list(theirs[name].shape)} in {other.name} and {list(ours[name].shape)} in {one.name}"
            lines.append(f"{name} is {shapes}.")
        elif not _mergeable(one, other, name):
            lines.append(f"{name} holds whole numbers, and other ones in {other.name} than in {one.name}.")
    if len(lines) > LINES:
        lines[LINES:] = [f"{len(lines) - LINES} more tensors differ between {other.name} and {one.name}."]
    yield from (UsageError(line, "Merge models of one architecture, saved in the same way.") for line in lines)
    for source in (one, other):
        if not source.file("config.json"):
            yield UsageError(f"{source.name} has no config.json.", "Copy or fetch it again.")
        if not source.file("tokenizer.json"):
            yield UsageError(f"{source.name} has no tokenizer.json.", "Copy or fetch it again.")
    if _tokenizer(one) != _tokenizer(other):
        yield UsageError(
            f"{other.name} has another tokenizer than {one.name}: their tokens mean different words.",
            "Merge models that were trained from one checkpoint.",
        )


def _mergeable(one: Source, other: Source, name: str) -> bool:
    """Whether a tensor has a mean: numbers that are not whole, or the same ones in both."""
    ours, theirs = one.weights.specs[name], other.weights.specs[name]
    if ours.dtype.is_floating_point and theirs.dtype.is_floating_point:
        return True
    return ours == theirs and all(
        torch.equal(one.weights.rows(name, rows), other.weights.rows(name, rows)) for rows in ours.pieces()
    )


def _tokenizer(source: Source) -> Any:
    """What a tokenizer does to a text; how batches are padded and cut is a setting that is saved with it."""
    file = source.file("tokenizer.json")
    if not file:
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key not in ("padding", "truncation")}
