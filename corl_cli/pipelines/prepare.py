"""Building a set of triplets: sources, parts, the global pass, and what a reader of the folder finds in it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from types import FrameType

from corl_cli import __version__
from corl_cli.core.errors import CorlError, Interrupted, UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.data import card, manifest, sources
from corl_cli.data.build import Make, Order, Parts, Report, SourceFile, make_parts
from corl_cli.data.making import make
from corl_cli.data.manifest import Counts, Manifest
from corl_cli.data.parquet import COLUMNS
from corl_cli.data.sources.base import Source
from corl_cli.data.whole import NothingStays, assemble, tally, total

LIBRARIES = ("datasets", "imagehash", "numpy", "pillow", "pyarrow", "simplemma")
ROOT = Path("data")  # where sets are built that are given no --out


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build came to; `shard` where it made its parts only."""

    path: Path
    recipe: Recipe
    sources: Mapping[str, Counts]
    total: Counts
    shard: tuple[int, int] | None = None


def plan(recipe: Recipe, limit: int | None) -> dict[str, str]:
    """What a build would read and leave out, found out without reading an item; nothing is written."""
    rows = {"recipe": recipe.name, "seed": str(recipe.seed)}
    for number, (spec, source) in enumerate(zip(recipe.prepare.sources, _bind(recipe), strict=True), 1):
        options = ", ".join(f"{key}: {value}" for key, value in spec.options.items())
        rows[f"source {number}"] = f"{spec.name} ({options})" if options else spec.name
        for file in source.files():
            rows[f"  {file}"] = f"{file.stat().st_size / 2**20:,.1f} MiB"
    rows["items"] = f"the first {limit:,}" if limit else "all"
    for name in ("filters", "balance"):
        section = getattr(recipe.prepare, name).model_dump()
        used = [f"{key}: {value}" for key, value in section.items() if value is not None and value is not False]
        rows[name] = ", ".join(used) or "none"
    rows["images"] = "stored inside" if recipe.prepare.images == "bytes" else "stored as paths"
    rows["files"] = (
        f"parquet of {recipe.prepare.shard_size:,} rows; {recipe.prepare.test:.0%} of the images in split test"
    )
    return rows


def place(recipe: Recipe, out: Path | None, shard: tuple[int, int], *, resume: bool) -> Path:
    """The folder to build in: `out`, or a new data/NAME."""
    if out is None and resume:
        raise UsageError("--resume goes on in --out, and no --out was given.", "Name it: --out data/NAME --resume")
    name = recipe.name if shard == (1, 1) else f"{recipe.name}-{shard[0]}-of-{shard[1]}"
    return out or RunDir.next_free(ROOT, name)


def begun(folder: Path) -> Order | None:
    """What the set in a folder was asked for, whether it is finished or to go on with; None where there is none."""
    record = manifest.read(folder)
    return Parts(folder / "parts").order() or (_order_of(record) if record else None)


def build(
    recipe: Recipe,
    out: Path,
    *,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    resume: bool = False,
    num_proc: int = 1,
    report: Report,
    make: Make = make,
) -> Built:
    """Build a set of triplets in `out`, or only the parts of a shard, and go on with what is there on `resume`.

    UsageError when `out` holds something else, CorlError when the build fails, Interrupted when it was asked to stop:
    finished parts stay in both cases.
    """
    bound = _bind(recipe)
    order = Order(
        corl=__version__,
        recipe=recipe,
        limit=limit,
        files=_files(bound),
        fingerprints=[source.fingerprint() for source in bound],
        shard=shard,
    )
    parts = Parts(out / "parts")
    if resume and (done := manifest.read(out)) and parts.order() is None:
        return _complete(order, done, out)
    with _stoppable(f"Go on with --out {out} --resume"):
        order = _open(parts, order, out, resume=resume)
        if not parts.are_made(order):
            items = islice(chain.from_iterable(source.items() for source in bound), limit)
            order = make_parts(parts, items, order, make, num_proc, report)
            parts.write_order(order)
        if shard != (1, 1):
            made = tally([parts.counts(number) for number in parts.finished()])
            return Built(path=out, recipe=recipe, sources=made, total=total(made), shard=shard)
        return _finish(out, order, dict.fromkeys(parts.finished(), parts), report)


def merge(folders: Sequence[Path], out: Path, report: Report) -> Built:
    """Join the parts that `--shard` builds left in `folders` into one set, duplicates and balance judged over all.

    UsageError when the folders are not all the shards of one build, or `out` holds something else.
    """
    orders = [_made_order(folder) for folder in folders]
    first, owners = orders[0], dict[int, Parts]()
    for folder, order in zip(folders, orders, strict=True):
        if changes := first.differences(order, ignore=("shard",)):
            raise UsageError(
                f"{folders[0]} and {folder} are of different builds:\n{_lines(changes)}",
                "Build all shards from the same recipe and files.",
            )
        parts = Parts(folder / "parts")
        owners |= dict.fromkeys(parts.finished(), parts)
    shards = first.shard[1]
    if lacking := sorted({number % shards + 1 for number in range(first.chunks or 0) if number not in owners}):
        raise UsageError(
            f"Shards are missing: {', '.join(f'{shard}/{shards}' for shard in lacking)}.",
            "Name the folders of all shards.",
        )
    whole = first.model_copy(update={"shard": (1, 1)})
    with _stoppable("Nothing is lost: merge again."):
        marker = Parts(out / "parts")
        _open(marker, whole, out, resume=marker.order() is not None)
        return _finish(out, whole, dict(sorted(owners.items())), report)


def _finish(out: Path, order: Order, owners: Mapping[int, Parts], report: Report) -> Built:
    """The global pass, then what is beside the data; the manifest is last, and then the parts are not needed."""
    recipe = order.recipe
    made = [parts.rows(number) for number, parts in owners.items()]
    counts = [parts.counts(number) for number, parts in owners.items()]
    try:
        whole = assemble(made, counts, recipe.prepare, recipe.seed, out, report)
    except NothingStays:
        _remove(out / "parts")
        if not _files_in(out):
            shutil.rmtree(out)
        raise
    record: Manifest = {
        "corl": __version__,
        "libraries": {name: version(name) for name in LIBRARIES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": recipe.seed,
        "limit": order.limit,
        "recipe": recipe.model_dump(mode="json"),
        "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in order.files],
        "fingerprints": order.fingerprints,
        "sources": whole.sources,
        "total": whole.total,
        "splits": whole.splits,
        "columns": list(COLUMNS),
    }
    card.write(out, record)
    manifest.write(out, record)
    _remove(out / "parts")
    return Built(path=out, recipe=recipe, sources=whole.sources, total=whole.total)


def _complete(order: Order, done: Manifest, out: Path) -> Built:
    """The set that is built already, by whatever version; UsageError when another was asked for."""
    if changes := _order_of(done).differences(order, ignore=("corl", "chunks", "items")):
        raise UsageError(
            f"{out} is complete, and was built differently:\n{_lines(changes)}", "Build into another folder."
        )
    _remove(out / "parts")  # where a kill came between the manifest and this
    return Built(path=out, recipe=order.recipe, sources=done["sources"], total=done["total"])


def _order_of(record: Manifest) -> Order:
    files = [SourceFile.model_validate(file) for file in record["files"]]
    return Order(
        corl=record["corl"],
        recipe=Recipe.model_validate(record["recipe"]),
        limit=record["limit"],
        files=files,
        fingerprints=record["fingerprints"],
    )


def _open(parts: Parts, order: Order, out: Path, *, resume: bool) -> Order:
    """Begin a build in an absent or empty folder, or go on with the one that is there if its order is the same."""
    found = parts.order()
    if found is None:
        if out.exists() and (not out.is_dir() or _files_in(out)):
            raise UsageError(
                f"{out} exists and is not empty.", f"Build with --out {RunDir.next_free(out.parent, out.name)}"
            )
        parts.write_order(order)
        return order
    if not resume:
        another = RunDir.next_free(out.parent, out.name)
        raise UsageError(
            f"{out} holds an unfinished build.", f"Go on with it: --out {out} --resume. Start another: --out {another}"
        )
    if changes := found.differences(order):
        raise UsageError(
            f"The build in {out} was begun differently:\n{_lines(changes)}",
            f"Go on as it was begun, --out {out} --resume, or build into another folder.",
        )
    parts.clean()
    return found


def _made_order(folder: Path) -> Order:
    """The order of a shard whose parts are all there."""
    order = Parts(folder / "parts").order()
    if order is None:
        raise UsageError(
            f"{folder} holds no parts to merge.", "Name folders that corl prepare-data --shard i/n has built."
        )
    if not Parts(folder / "parts").are_made(order):
        raise CorlError(f"The build in {folder} is not finished.", f"corl prepare-data --out {folder} --resume")
    return order


def _bind(recipe: Recipe) -> list[Source]:
    return sources.bind_all(recipe.prepare.sources, recipe.seed)


def _files(bound: Sequence[Source]) -> list[SourceFile]:
    return [
        SourceFile(path=str(file), bytes=file.stat().st_size, sha256=manifest.sha256(file))
        for source in bound
        for file in source.files()
    ]


def _files_in(folder: Path) -> bool:
    """Whether there is any file but what a killed build left half written."""
    return any(path.is_file() and not path.name.endswith(".partial") for path in folder.rglob("*"))


def _remove(parts: Path) -> None:
    """The order goes first: without it nobody takes what is left of the parts for a build."""
    Parts(parts).order_file.unlink(missing_ok=True)
    shutil.rmtree(parts, ignore_errors=True)


def _lines(changes: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in changes)


@contextmanager
def _stoppable(go_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block as Interrupted.

    They come as KeyboardInterrupt, which no `except Exception` around an image takes for a fault of the image.
    """
    asked: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt as error:
        number = asked[0] if asked else signal.SIGINT
        raise Interrupted(
            f"Stopped by {signal.Signals(number).name}; finished parts are kept.", go_on, signal=number
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
