"""Annotation files: records from JSON, JSON lines, CSV and parquet, streamed, and one clear line when a file is bad."""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from corl_cli.core.errors import CorlError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
MAGIC = (b"PK\x03\x04", b"\x1f\x8b")  # what zip and gzip files begin with, whatever they are called
TABLES = (".csv", ".tsv", ".parquet")
INNER = ("conversations", "answers")  # lists of objects that an entry may have
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
    head, ending = _head(path), path.suffix.lower()
    if ending in ARCHIVES or head.startswith(MAGIC):
        raise CorlError(f"{path} is an archive where an annotation file is expected.", "Unpack it and name the file.")
    if ending == ".json":
        ends = {b"[": (b"]",), b"{": (b"}",)}.get(head[:1], (b"]", b"}"))
    else:
        ends = (b"PAR1",) if ending == ".parquet" else (b"",)
    if not _tail(path).endswith(ends):
        raise damaged(path, "it is cut short", page)
    return path


def listing(path: Path, page: str) -> Path:
    """The annotation file, as `annotation` has it, that `records` can read: a list of entries, not one JSON object."""
    annotation(path, page)
    if path.suffix.lower() not in TABLES and _head(path).startswith(b"{") and _is_object(path):
        raise CorlError(
            f"The annotation file {path} is one JSON object where a list of entries is expected.",
            f"Store its list in a file of its own and name that, as in jq .questions {path.name} > list.json",
        )
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


def _head(path: Path) -> bytes:
    """What a file begins with, white space and the mark of its encoding aside."""
    with path.open("rb") as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()


def _is_object(path: Path) -> bool:
    """Whether a file is an object over several lines, or a line of one with lists that are no part of an entry."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = filter(str.strip, file)
        first, second = next(lines, ""), next(lines, "")
    entry = _entry(first)
    if second or not isinstance(entry, dict):
        return bool(second) and entry is None and not isinstance(_entry(second), dict)
    lists = [value for key, value in entry.items() if key not in INNER and isinstance(value, list) and value]
    return any(isinstance(value[0], dict) for value in lists)


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
            yield _entry(line)


def _entry(line: str) -> Any:
    """What a line holds; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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
