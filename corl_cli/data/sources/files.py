"""Annotation files: records from JSON, JSON lines, CSV and parquet, streamed, and one clear line when a file is bad."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from corl_cli.core.errors import CorlError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
BLOCK = 1 << 20  # characters read at once
LONGEST = 64 << 20  # characters of one entry of a JSON array; a longer one is damage


def folder(path: Path, page: str) -> Path:
    """The folder, which must be there and unpacked; `page` is where it can be downloaded."""
    if path.is_dir():
        return path
    beside = [path, *(path.with_name(path.name + ending) for ending in ARCHIVES)]
    archive = next((one for one in beside if one.is_file() and one.suffix in ARCHIVES), None)
    if archive:
        command = "unzip" if archive.suffix == ".zip" else "tar -xf"
        raise CorlError(
            f"{archive} is an archive where a folder is expected.",
            f"Unpack it with {command} {archive} and name the folder of its images in the recipe.",
        )
    if path.is_file():
        raise CorlError(f"{path} is a file where a folder is expected.", "Name its folder in the recipe.")
    raise CorlError(f"The folder {path} is missing.", f"Get it from {page}, or name another in the recipe.")


def annotation(path: Path, page: str) -> Path:
    """The annotation file, which must be there, not packed, and whole as far as its end tells."""
    if not path.is_file():
        what = "is a folder where a file is expected" if path.is_dir() else "is missing"
        raise CorlError(f"The annotation file {path} {what}.", f"Get it from {page}, or name another in the recipe.")
    if path.suffix in ARCHIVES:
        raise CorlError(f"{path} is an archive where an annotation file is expected.", "Unpack it and name the file.")
    ends = {".json": (b"}", b"]"), ".parquet": (b"PAR1",)}.get(path.suffix)
    if ends and not _tail(path).endswith(ends):
        raise damaged(path, "it is cut short", page)
    return path


def damaged(path: Path, why: str, page: str) -> CorlError:
    """The error about a file that cannot be read."""
    return CorlError(f"The annotation file {path} cannot be read: {why}.", f"Download it again from {page}")


def document(path: Path, page: str) -> Any:
    """The whole of a JSON file."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON ({error})", page) from error


def records(path: Path, page: str) -> Iterator[Any]:
    """The entries of a JSON array, JSON lines, a CSV or a parquet file, one at a time; None for a line that is bad."""
    try:
        match path.suffix.lower():
            case ".parquet":
                yield from rows([path], page)
            case ".csv" | ".tsv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    yield from _csv(file, "\t" if path.suffix.lower() == ".tsv" else ",")
            case _:
                with path.open(encoding="utf-8-sig") as file:
                    yield from _array(file) if _first(file) == "[" else _lines(file)
    except (ValueError, RecursionError, csv.Error) as error:  # JSON's and Unicode's are ValueErrors
        raise damaged(path, str(error).splitlines()[0].rstrip("."), page) from error


def rows(paths: Sequence[Path], page: str, batch: int = 16) -> Iterator[dict[str, Any]]:
    """The rows of parquet files in order; no more than a batch of them, and the pages they are in, is in memory."""
    import pyarrow.parquet as pq

    for path in paths:
        try:
            with pq.ParquetFile(path, buffer_size=BLOCK, pre_buffer=False) as file:
                for some in file.iter_batches(batch):
                    yield from some.to_pylist()
        except (ValueError, OSError) as error:  # Arrow's own errors are one or the other
            raise damaged(path, str(error).splitlines()[0].rstrip("."), page) from error


def parquet_files(path: Path, split: str, page: str) -> list[Path]:
    """A parquet file, or those of a folder that belong to a split: their name, or their folder's, begins with it."""
    if path.is_file():
        return [annotation(path, page)]
    found = sorted(folder(path, page).rglob("*.parquet"))
    chosen = [file for file in found if file.name.startswith(split) or file.parent.name == split]
    if not chosen:
        names = sorted({file.name.split("-")[0] for file in found})
        has = f"its files are named {', '.join(names[:5])}" if names else "it holds no parquet file at all"
        raise CorlError(
            f"The folder {path} has no parquet files of the split {split}; {has}.",
            f"Get them from {page}, or name a split or a single file in the recipe.",
        )
    return [annotation(file, page) for file in chosen]


def mapping(path: Path, page: str) -> Mapping[str, Any]:
    """The whole of a JSON file that is an object."""
    content = document(path, page)
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__} where an object is expected", page)
    return content


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read().rstrip()


def _first(file: IO[str]) -> str:
    """The first character that is no white space; the file is left at its beginning."""
    start = file.read(4096).lstrip()[:1]
    file.seek(0)
    return start


def _lines(file: IO[str]) -> Iterator[Any]:
    for line in file:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _csv(file: IO[str], delimiter: str) -> Iterator[Any]:
    csv.field_size_limit(min(sys.maxsize, LONGEST))
    for row in csv.DictReader(file, delimiter=delimiter):
        yield None if None in row else row  # more fields than the header


def _array(file: IO[str]) -> Iterator[Any]:
    """The entries of a JSON array, decoded one at a time from a window over the file."""
    decoder = json.JSONDecoder()
    window = file.read(BLOCK)
    place = window.index("[") + 1
    while True:
        start = _skip(window, place, " \t\r\n,")
        if window.startswith("]", start):
            return
        try:
            entry, end = decoder.raw_decode(window, start)
            closed = window.startswith((",", "]"), _skip(window, end, " \t\r\n"))
        except ValueError:  # the entry may go on beyond the window
            closed = False
        if closed:
            yield entry
            place = end
            continue
        more = file.read(BLOCK)
        if not more or len(window) - start > LONGEST:
            raise ValueError("its JSON array is cut short or damaged")
        window, place = window[start:] + more, 0


def _skip(text: str, place: int, characters: str) -> int:
    while text[place : place + 1] and text[place] in characters:
        place += 1
    return place
