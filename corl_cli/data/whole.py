"""The global pass: parts become one set. It looks at small columns first, decides, then copies what stays."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Prepare
from corl_cli.data import manifest, parquet
from corl_cli.data.build import Report
from corl_cli.data.manifest import Counts, File, Split
from corl_cli.data.selection import KEPT, READ, REASONS, ROW, Index, Mask, hold_out, remember, select


class NothingStays(CorlError):
    """Every item was left out."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A set that is written: its splits, and what became of the items of each source and of all."""

    splits: dict[str, Split]
    sources: dict[str, Counts]
    total: Counts


def assemble(
    parts: Sequence[Path],
    counts: Sequence[Mapping[str, Mapping[str, Any]]],
    prepare: Prepare,
    seed: int,
    folder: Path,
    report: Report,
) -> Whole:
    """Judge the rows of all parts together and write those that stay into `folder`/data, whole or not at all.

    `counts` are those of the parts (`Parts.counts`). NothingStays when nothing does.
    """
    made = total(tally(counts))["kept"]
    index, names = _read(parts, seed, lambda done: report("comparing", done, made))
    reasons = select(index, prepare)
    sources = _counts(counts, index, names, reasons)
    whole = _sum(sources, index["coverage"][reasons == KEPT])
    if not whole["kept"]:
        why = ", ".join(f"{items} {reason}" for reason, items in whole["dropped"].items())
        raise NothingStays(
            f"Nothing stays of {whole['offered']} items: {why or 'the sources are empty'}.",
            "Mend the sources or loosen prepare.filters.",
        )
    kept, held_out = reasons == KEPT, np.zeros(len(index), bool)
    held_out[kept] = hold_out(index["phash"][kept], prepare.test)
    splits = _write(parts, {"train": kept & ~held_out, "test": held_out}, prepare.shard_size, folder, report)
    return Whole(splits=splits, sources=sources, total=whole)


def tally(counts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Counts]:
    """What became of the items of each source in some parts, before they are judged together; coverage is not known."""
    summed: dict[str, Counts] = {}
    for part in counts:
        for name, count in part.items():
            own = summed.setdefault(name, {"offered": 0, "kept": 0, "dropped": {}, "coverage": None})
            own["offered"] += count["offered"]
            own["kept"] += count["offered"] - sum(count["dropped"].values())
            own["dropped"] = Counter(own["dropped"]) + Counter(count["dropped"])
    for own in summed.values():
        own["dropped"] = _by_number(own["dropped"])
    return summed


def total(sources: Mapping[str, Counts]) -> Counts:
    """What became of the items of all sources; their coverage is not known."""
    return _sum(sources, np.empty(0, np.float32))


def _read(parts: Sequence[Path], seed: int, report: Callable[[int], None]) -> tuple[Index, list[str]]:
    """What is remembered of all rows, and the names of their sources."""
    names: dict[str, int] = {}
    index = [np.empty(0, ROW)]
    done = 0
    for part in parts:
        for table in parquet.read(part, READ):
            rows = table.to_pylist()
            known = [remember(row, names.setdefault(row["source"], len(names)), seed) for row in rows]
            index.append(np.array(known, ROW))
            report(done := done + len(rows))
    return np.concatenate(index), list(names)


def _counts(
    parts: Sequence[Mapping[str, Mapping[str, Any]]], index: Index, names: list[str], reasons: NDArray[np.uint8]
) -> dict[str, Counts]:
    sources = tally(parts)
    for number, name in enumerate(names):
        own = index["source"] == number
        judged = Counter(
            {REASONS[reason]: int(n) for reason, n in enumerate(np.bincount(reasons[own])) if reason and n}
        )
        sources[name] = {
            "offered": sources[name]["offered"],
            "kept": int((reasons[own] == KEPT).sum()),
            "dropped": _by_number(Counter(sources[name]["dropped"]) + judged),
            "coverage": _mean(index["coverage"][own & (reasons == KEPT)]),
        }
    return sources


def _sum(sources: Mapping[str, Counts], coverage: NDArray[np.float32]) -> Counts:
    dropped = sum((Counter(count["dropped"]) for count in sources.values()), Counter[str]())
    return {
        "offered": sum(count["offered"] for count in sources.values()),
        "kept": sum(count["kept"] for count in sources.values()),
        "dropped": _by_number(dropped),
        "coverage": _mean(coverage),
    }


def _write(
    parts: Sequence[Path], chosen: Mapping[str, Mask], size: int, folder: Path, report: Report
) -> dict[str, Split]:
    """Copy the rows of each split, in order, into its files of `size` rows; an empty split has none."""
    written, done, start = folder / "data.partial", 0, 0
    shutil.rmtree(written, ignore_errors=True)
    chosen = {name: rows for name, rows in chosen.items() if rows.any()}
    kept = sum(int(rows.sum()) for rows in chosen.values())
    with ExitStack() as open_files:
        splits = {
            name: open_files.enter_context(Files(written, name, int(rows.sum()), size)) for name, rows in chosen.items()
        }
        for part in parts:
            for table in parquet.read(part):
                here = slice(start, start := start + len(table))
                for name, rows in chosen.items():
                    splits[name].add(parquet.to_triplets(table.filter(pa.array(rows[here]))))
                    done += int(rows[here].sum())
                report("writing", done, kept)
    shutil.rmtree(folder / "data", ignore_errors=True)  # of a build that was killed before its manifest
    written.rename(folder / "data")
    return {name: {"rows": int(rows.sum()), "files": _described(folder, name)} for name, rows in chosen.items()}


class Files:
    """The parquet files of a split, of `size` rows each, the last of fewer."""

    def __init__(self, folder: Path, split: str, rows: int, size: int) -> None:
        self.folder, self.split, self.size = folder, split, size
        self.number, self.of = 0, -(-rows // size)
        self.writer: parquet.Writer | None = None

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.writer:
            self.writer.__exit__(*error)

    def add(self, rows: pa.Table) -> None:
        """Append triplets, over as many files as they take."""
        while len(rows):
            if self.writer is None:
                self.writer = self._next().__enter__()
            fit = rows.slice(0, self.size - self.writer.rows)
            self.writer.add(fit)
            rows = rows.slice(len(fit))
            if self.writer.rows == self.size:
                self.writer.__exit__(None, None, None)
                self.writer = None

    def _next(self) -> parquet.Writer:
        path = self.folder / f"{self.split}-{self.number:05d}-of-{self.of:05d}.parquet"
        self.number += 1
        return parquet.Writer(path, parquet.triplet_schema())


def _described(folder: Path, split: str) -> list[File]:
    return [manifest.describe(folder, file) for file in sorted((folder / "data").glob(f"{split}-*.parquet"))]


def _by_number(dropped: Mapping[str, int]) -> dict[str, int]:
    """The most frequent reason first."""
    return dict(sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0])))


def _mean(coverage: NDArray[np.float32]) -> float | None:
    known = coverage[~np.isnan(coverage)]
    return float(known.mean(dtype=np.float64)) if len(known) else None
