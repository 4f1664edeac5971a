"""The builder: chunks of offered items become parts on disk, in any order and by any process.

A part is a parquet file and, written after it, a JSON file of counts that marks it finished. What is in a part is a
function of the order alone, so a build can be killed, resumed and shared among machines.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Prepare, Recipe
from corl_cli.core.run_dir import write_atomic
from corl_cli.data import manifest, parquet
from corl_cli.data.items import Dropped, Kept, Raw

Item = Raw | Dropped
Make = Callable[[Raw, Prepare], Kept | Dropped]
Report = Callable[[str, int, int | None], None]  # phase, done, of how many (None where nobody knows)

CHUNK_BYTES = 64 * 2**20  # a chunk whose images come as bytes ends here, so that what waits for a worker is bounded


class SourceFile(BaseModel):
    """A file that a source reads, as it was when the build began."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Order(BaseModel):
    """What a build was asked for: everything that the bytes of its parts depend on.

    `shard` (i, n) makes every n-th chunk from the i-th on (from 1). `chunks` is their number over all shards and
    `items` a hash of what is in which, both None until the sources have been read to the end. `fingerprints` are those
    of the sources, in order, "" where files tell all.
    """

    model_config = ConfigDict(frozen=True)

    corl: str
    recipe: Recipe
    limit: int | None = None
    files: list[SourceFile] = []
    fingerprints: list[str] = []
    shard: tuple[int, int] = (1, 1)
    chunks: int | None = None
    items: str | None = None

    def differences(self, other: Order, *, ignore: Sequence[str] = ("chunks", "items")) -> list[str]:
        """Lines that say where the other order, as asked for now, would make other parts."""
        ours, theirs = (
            {key: value for key, value in one._facts().items() if key not in ignore} for one in (self, other)
        )
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            f"{key}: {ours.get(key)!r} there, {theirs.get(key)!r} now"
            for key in keys
            if ours.get(key) != theirs.get(key)
        ]

    def _facts(self) -> dict[str, Any]:
        recipe = self.recipe.model_dump(mode="json", include={"seed", "prepare"})
        files = {f"file {number} {Path(file.path).name}": file.sha256[:12] for number, file in enumerate(self.files, 1)}
        files |= {f"files of source {number}": mark for number, mark in enumerate(self.fingerprints) if mark}
        read = {"chunks": self.chunks, "items": self.items}
        return {"corl": self.corl, **dict(_leaves(recipe)), "limit": self.limit, **files, "shard": self.shard, **read}


class Parts:
    """The folder of a build's parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.order_file = folder / "order.json"

    def order(self) -> Order | None:
        """What the build was asked for; None where there is none."""
        try:
            return Order.model_validate_json(self.order_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise CorlError(f"{self.order_file} is damaged.", "Remove the folder and build the set again.") from error

    def write_order(self, order: Order) -> None:
        """Note what the build was asked for."""
        write_atomic(self.order_file, order.model_dump_json(indent=2) + "\n")

    def rows(self, number: int) -> Path:
        """The parquet file of a part."""
        return self.folder / f"part-{number:06d}.parquet"

    def is_finished(self, number: int) -> bool:
        """Whether a part is whole."""
        return self.rows(number).with_suffix(".json").exists()

    def finished(self) -> list[int]:
        """The numbers of the parts that are whole."""
        return sorted(int(file.stem.removeprefix("part-")) for file in self.folder.glob("part-*.json"))

    def are_made(self, order: Order) -> bool:
        """Whether every part of the order's shard is whole."""
        shard, shards = order.shard
        return order.chunks is not None and all(map(self.is_finished, range(shard - 1, order.chunks, shards)))

    def counts(self, number: int) -> dict[str, dict[str, Any]]:
        """What became of the items of a part: by source, `offered` and `dropped` {reason: items}."""
        counts: dict[str, dict[str, Any]] = json.loads(self.rows(number).with_suffix(".json").read_text("utf-8"))
        return counts

    def clean(self) -> None:
        """Remove what a killed build left half written."""
        for partial in self.folder.glob(".*.partial"):
            partial.unlink()

    def make(self, number: int, chunk: Sequence[Item], prepare: Prepare, make: Make) -> int:
        """Make one part, and return how many items it was offered."""
        counts: dict[str, dict[str, Any]] = {}
        kept = (asdict(one) for one in _made(chunk, prepare, make, counts) if isinstance(one, Kept))
        with parquet.Writer(self.rows(number), parquet.PART) as file:
            while rows := list(islice(kept, parquet.GROUP)):
                file.add(pa.Table.from_pylist(rows, schema=parquet.PART))
        write_atomic(self.rows(number).with_suffix(".json"), json.dumps(counts, indent=2) + "\n")
        return len(chunk)


def refuse_unfinished(folder: Path) -> None:
    """CorlError when the folder holds no set, but a build that can be gone on with, or the parts of a shard."""
    parts = Parts(folder / "parts")
    if (folder / manifest.NAME).exists() or (order := parts.order()) is None:
        return
    shard, shards = order.shard
    if shards > 1 and parts.are_made(order):
        raise CorlError(
            f"{folder} is no set yet: it holds shard {shard} of {shards}.",
            "When all are there: corl data merge DIR… --out DIR",
        )
    raise CorlError(f"{folder} is an unfinished build.", f"Go on with it: corl prepare-data --out {folder} --resume")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time; fewer where their images come as bytes and are many."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += len(item.image) if isinstance(item, Raw) and isinstance(item.image, bytes) else 0
        if len(chunk) == size or held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def make_parts(parts: Parts, items: Iterable[Item], order: Order, make: Make, num_proc: int, report: Report) -> Order:
    """Make every part of the order's shard that is not there yet; the order, with what is known when all is read.

    No more than `num_proc` + 1 chunks are in memory. CorlError when a worker is killed.
    """
    shard, shards = order.shard
    number, done, busy, read = -1, 0, set[Future[int]](), blake2b(digest_size=8)
    report("making", done, order.limit)
    with _workers(num_proc, parts.folder.parent) as workers:
        for number, chunk in enumerate(chunks(items, order.recipe.prepare.shard_size)):
            read.update("\0".join([str(len(chunk)), *(item.id for item in chunk)]).encode("utf-8", "surrogatepass"))
            if number % shards != shard - 1:
                continue
            if parts.is_finished(number):
                done += len(chunk)
            else:
                busy.add(workers.submit(parts.make, number, chunk, order.recipe.prepare, make))
            if len(busy) > num_proc:
                ready, busy = wait(busy, return_when=FIRST_COMPLETED)
                done += sum(future.result() for future in ready)
            report("making", done, order.limit)
        for future in as_completed(busy):
            done += future.result()
            report("making", done, order.limit)
    report("making", done, done)
    return order.model_copy(update={"chunks": number + 1, "items": read.hexdigest()})


class _InPlace(Executor):
    """Does at once, in this process, what it is given."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments, **named))
        return future


@contextmanager
def _workers(num_proc: int, folder: Path) -> Iterator[Executor]:
    """`num_proc` processes, or this one where it is 1; what they still do when an error ends the block is given up."""
    if num_proc == 1:
        yield _InPlace()
        return
    others = set(multiprocessing.active_children())
    # not forked: the threads of pyarrow would not survive it
    workers = ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield workers
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()  # a half-written part has another name, so nothing is lost
        if isinstance(error, BrokenProcessPool):
            raise CorlError(
                "A worker process was killed; most often memory ran out.",
                f"Go on with fewer of them: --out {folder} --resume --num-proc {num_proc // 2}",
            ) from error
        raise
    finally:
        workers.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """A worker leaves signals to its parent, and ends with it even when the parent is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _made(
    chunk: Sequence[Item], prepare: Prepare, make: Make, counts: dict[str, dict[str, Any]]
) -> Iterator[Kept | Dropped]:
    """What becomes of the items, counted as it is told."""
    for item in chunk:
        try:
            made = make(item, prepare) if isinstance(item, Raw) else item
        except Exception as error:
            error.add_note(f"while making {item.id} of {item.source}")
            raise
        count = counts.setdefault(made.source, {"offered": 0, "dropped": Counter()})
        count["offered"] += 1
        if isinstance(made, Dropped):
            count["dropped"][made.reason] += 1
        yield made


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a nested mapping or list, and their values."""
    inside = dict(enumerate(node)) if isinstance(node, list) else node
    if not isinstance(inside, dict) or not inside:
        yield prefix, node
        return
    for key, value in inside.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def read_shard(text: str) -> tuple[int, int]:
    """`i/n` as two numbers; UsageError unless 1 <= i <= n."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UsageError(f"--shard {text}: this is not i/n with i from 1 to n.", "The second of four: --shard 2/4")
    return int(first), int(second)
