"""Merging checkpoints that have one ancestor, tensor by tensor, from checks to a folder that transformers can read."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor

from corl_cli import __version__
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.numbers import finite
from corl_cli.core.progress import Progress
from corl_cli.core.run_dir import check_room, check_vacant, whole_folder, writing
from corl_cli.models import shards
from corl_cli.models.merge import Method, Moments, Movement, factors, gaussian, kind, weighted
from corl_cli.models.shards import Spec
from corl_cli.pipelines.merge_sources import Source, ancestor, differences, open_source

REPORT = "merge.json"
MOST_MOVED = 10
COMPANIONS = (  # what a checkpoint in transformers' format has besides weights
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A merge that has passed its checks.

    `base` is the ancestor; without one (linear) changes are told against the first model. One model alone is a LoRA
    checkpoint, folded into its base.
    """

    base: Source
    models: list[Source]
    method: Method | None
    weights: list[float]
    scale: float
    specs: dict[str, Spec]
    out: Path

    @property
    def labels(self) -> list[str]:
        """A, B, ... for the models in the order given."""
        return list(ascii_uppercase[: len(self.models)])


def check(
    models: Sequence[str],
    *,
    out: Path,
    base: str | None = None,
    method: Method | None = None,
    weights: Sequence[float] = (),
    scale: float | None = None,
) -> Merge:
    """Open everything and compare names, shapes and tokenizers, before a byte is written.

    UsageError with all faults at once, CorlError when the disk lacks room.
    """
    folds = len(models) == 1
    chosen = None if folds else method or "gaussian"
    faults = _options(len(models), base, method, weights, scale)
    opened: list[Source] = []
    for name in [*([base] if base else []), *models]:
        try:
            opened.append(open_source(name))
        except CorlError as error:
            faults.append(error)
    try:
        check_vacant(out)
    except CorlError as error:
        faults.append(error)
    _refuse(faults)
    sources = opened[1:] if base else list(opened)
    _refuse(list(_twice(sources)))
    if folds:
        opened.insert(0, ancestor(sources[0]))
    _refuse([fault for source in opened[1:] for fault in differences(opened[0], source)])
    merge = Merge(
        base=opened[0],
        models=sources,
        method=chosen,
        weights=list(weights) or [1.0] * len(models),
        scale=1.0 if scale is None else scale,
        specs={name: Spec(spec.shape, _widest(sources, name)) for name, spec in opened[0].weights.specs.items()},
        out=out,
    )
    check_room(out, sum(spec.nbytes for spec in merge.specs.values()), "The merged model")
    return merge


def carry_out(merge: Merge, progress: Progress) -> dict[str, Any]:
    """Write the merged model and return its report, which is also in merge.json.

    The folder is written under a temporary name and renamed, so that there is all of it or nothing. CorlError when a
    model holds NaN or infinity, or the disk is full.
    """
    with whole_folder(merge.out) as partial_folder:
        work = _Work(merge, progress)
        _copy_companions(merge, partial_folder)
        shards.write(partial_folder, merge.specs, work.pieces)
        report: dict[str, Any] = finite(_report(merge, work))
        with writing(merge.out):
            (partial_folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


@dataclass
class _Work:
    """The pieces of the merged tensors, and what is learnt while they pass by."""

    merge: Merge
    progress: Progress
    movements: dict[str, Movement] = field(default_factory=dict)
    digests: dict[str, dict[str, str]] = field(default_factory=dict)  # of each tensor, by source

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The rows of one merged tensor, in order."""
        spec = self.merge.specs[name]
        sources = [self.merge.base, *self.merge.models]
        hashes = [hashlib.sha256() for _ in sources]
        found: Movement | None = None  # a sum, not a list: small tensors kept among large ones fragment the memory
        combine = self._combination(name)
        for rows in spec.pieces():
            parts = [source.weights.rows(name, rows) for source in sources]
            for source, part, digest in zip(sources, parts, hashes, strict=True):
                digest.update(shards.raw(part))
                if not part.isfinite().all():
                    raise CorlError(f"{source.name} holds NaN or infinity in {name}.", "Give an earlier checkpoint.")
            if not spec.dtype.is_floating_point:  # equal in all, or check would have said so
                yield parts[0]
                continue
            base, changes = _changes(parts)
            added, outside = combine(changes)
            merged = (base + added).to(spec.dtype)
            moved = Movement.of(base, changes, merged.double(), outside)
            found = found + moved if found else moved
            yield merged.view(parts[0].shape)
        if found:
            self.movements[name] = found
        self.digests[name] = {source.name: h.hexdigest() for source, h in zip(sources, hashes, strict=True)}
        self.progress.advance(note=name)

    def _combination(self, name: str) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
        """From the models' changes of a tensor to what is added to the base, and what lay outside the band."""
        merge = self.merge
        if merge.method == "gaussian":
            moments = Moments(len(merge.models))
            for rows in merge.specs[name].pieces():
                sources = [merge.base, *merge.models]
                moments.add(_changes([source.weights.rows(name, rows) for source in sources])[1])
            centre, spread = moments.band()
            return partial(gaussian, centre=centre, spread=spread)
        weights = factors(merge.method, merge.weights, merge.scale) if merge.method else [1.0]
        return lambda changes: (weighted(changes, weights), None)

    def fingerprint(self, source: Source) -> str:
        """A hash of all tensors of a source, the same however they are spread over files."""
        specs = source.weights.specs
        lines = [f"{name} {specs[name]} {self.digests[name][source.name]}" for name in sorted(specs)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _changes(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The base [M] and the models' changes [K, M] in float64, from pieces of the base and of the models."""
    base = parts[0].double().flatten()
    return base, torch.stack([part.double().flatten() - base for part in parts[1:]])


# ---- checks ----------------------------------------------------------------------------------------------------------


def _options(
    num_models: int, base: str | None, method: Method | None, weights: Sequence[float], scale: float | None
) -> list[CorlError]:
    """What is wrong with the options among themselves."""
    faults = []
    if num_models == 1:
        if base or method or weights or scale is not None:
            faults.append(
                (
                    "One model alone is folded, without --base, --method, --weight or --scale.",
                    "Leave them out, or name a second model to merge.",
                )
            )
        return [UsageError(*fault) for fault in faults]
    if num_models > len(ascii_uppercase):
        faults.append((f"{num_models} models are more than the {len(ascii_uppercase)} that there are letters for.", ""))
    method = method or "gaussian"
    if method != "linear" and not base:
        faults.append((f"--method {method} needs --base.", "Name the model that all began from, such as --base world"))
    if weights and method == "gaussian":
        faults.append(("--weight: gaussian merging has no weights.", "Use --method linear or task-arithmetic."))
    elif weights and len(weights) != num_models:
        times = "once" if len(weights) == 1 else f"{len(weights)} times"
        faults.append((f"--weight is given {times} for {num_models} models.", "Give one for each."))
    elif method == "linear" and weights and (min(weights) < 0 or sum(weights) == 0):
        faults.append(
            (
                "--weight: a mean has weights of at least 0, not all of them 0.",
                "Give each model its share: --weight 1 --weight 3 is a quarter of the first.",
            )
        )
    if not all(map(math.isfinite, [*weights, scale or 0])):
        faults.append(("--weight and --scale are finite numbers.", ""))
    if scale is not None and method != "task-arithmetic":
        faults.append((f"--scale: {method} merging has none.", "It belongs to --method task-arithmetic."))
    return [UsageError(message, hint or None) for message, hint in faults]


def _twice(sources: Sequence[Source]) -> Iterator[CorlError]:
    names: dict[Path, str] = {}
    for source in sources:
        folder = source.folders[0].resolve()
        if folder in names:
            same = "" if names[folder] == source.name else f": it is {names[folder]}"
            yield UsageError(f"{source.name} is given twice{same}.", "Name each model once; --weight makes it count.")
        names[folder] = source.name


def _refuse(faults: Sequence[CorlError]) -> None:
    if faults:
        messages = dict.fromkeys(fault.message for fault in faults)
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        raise UsageError("\n".join(messages), "\n".join(hints) or None)


def _widest(sources: Sequence[Source], name: str) -> torch.dtype:
    """The widest type of a tensor among the models: in a narrower one small changes round away."""
    return reduce(torch.promote_types, (source.weights.specs[name].dtype for source in sources))


# ---- writing ---------------------------------------------------------------------------------------------------------


def _copy_companions(merge: Merge, folder: Path) -> None:
    """Configuration, tokenizer and processor of the first model, told of the type of the merged weights."""
    with writing(folder):
        for name in COMPANIONS:
            if file := merge.models[0].file(name):
                shutil.copyfile(file, folder / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.pop("torch_dtype", None)  # its name in older transformers
        config["dtype"] = _dtype(merge)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _dtype(merge: Merge) -> str:
    kinds = [spec.dtype for spec in merge.specs.values() if spec.dtype.is_floating_point]
    return str(reduce(torch.promote_types, kinds)).removeprefix("torch.")


def _report(merge: Merge, work: _Work) -> dict[str, Any]:
    labels = merge.labels
    groups: dict[str, list[Movement]] = {}
    for name, movement in work.movements.items():
        groups.setdefault(kind(name), []).append(movement)
    moved = {name: movement for name, movement in work.movements.items() if not movement.unmoved}
    most = sorted(moved, key=lambda name: -moved[name].merged)[:MOST_MOVED]
    return {
        "corl": __version__,
        "method": merge.method or "fold",
        "parameters": _parameters(merge),
        "dtype": _dtype(merge),
        "base": _describe(work, merge.base),
        "models": {label: _describe(work, model) for label, model in zip(labels, merge.models, strict=True)},
        "groups": {
            group: {
                "tensors": len(movements),
                "unmoved": sum(movement.unmoved for movement in movements),
                **reduce(add, movements).readings(labels),
            }
            for group, movements in sorted(groups.items())
        },
        "most_moved": most,
        "tensors": {
            name: {"group": kind(name), "unmoved": movement.unmoved, **movement.readings(labels)}
            for name, movement in sorted(work.movements.items())
        },
    }


def _parameters(merge: Merge) -> dict[str, Any]:
    if merge.method == "linear":
        return {"weights": factors("linear", merge.weights, 1.0)}
    if merge.method == "task-arithmetic":
        return {"weights": merge.weights, "scale": merge.scale}
    return {}


def _describe(work: _Work, source: Source) -> dict[str, str]:
    return {"name": source.name, "path": str(source.folders[0].absolute()), "fingerprint": work.fingerprint(source)}
