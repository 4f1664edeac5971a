"""The user's own images: a folder with captions, or a table of any columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from corl_cli.core.errors import CorlError
from corl_cli.data.items import Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import answer, answer_type, image, optional, several, texts, unlettered

COLUMNS = {  # what the columns of a table are called when the recipe does not say
    "id": ("id",),
    "image": ("image", "file_name"),  # file_name is what datasets' imagefolder calls it
    "prompt": ("prompt", "caption", "text"),
    "question": ("question",),
    "options": ("options", "choices"),
    "answer": ("answer",),
    "answer_type": ("answer_type",),
    "solution": ("solution",),
}
TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTIONS = ".txt"  # of a file beside an image, a caption a line
PAGE = "where it came from"


class TableOptions(Options):
    """A folder of images or a table, the folder of a table's images (null: its own), and its names of the columns."""

    path: Place
    images: Place | None = None
    columns: dict[str, str] = Field({})
    label: str = Field("own", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is not one of {', '.join(COLUMNS)}")
        return columns


class Table(Records):
    """A table (CSV, TSV, JSON, JSON lines, parquet), or a folder of images, with whatever licence the user's data has.

    A folder is read as `datasets` reads an image folder: by its metadata.csv, .jsonl or .parquet, whose `file_name` is
    relative to the folder; without one, every image in it and below counts, in the order of names, its captions being
    the lines of the .txt file beside it. Columns are `id`, `image` (a path, bytes, or an Image column), `prompt`,
    `question`, `options` (a list; in a CSV as ["red", "blue"], as red | blue,
    or in the question as lines "A. red"), `answer`, `answer_type` and
    `solution`; `columns` says what they are called where that differs. A row whose caption is empty is dropped; one
    where it is null, or a table without the column, is for answering alone.
    """

    Options = TableOptions
    options: TableOptions
    numbered = True

    def __init__(self, options: TableOptions, seed: int) -> None:
        super().__init__(options, seed)
        self.label = options.label
        self.columns: dict[str, str] = {}  # what they are called, known from the first row

    def files(self) -> list[Path]:
        """The table; for a folder without one nothing, because its captions may be as many files as its images."""
        if self.options.images:
            files.folder(self.options.images, PAGE)
        table = self._table()
        return [files.listing(table, PAGE)] if table else []

    def fingerprint(self) -> str:
        """Of a folder without a table: a hash of the names and sizes of its images and of their captions."""
        if self._table():
            return ""
        digest = blake2b(digest_size=16)
        for path in _walk(self.options.path):
            if path.suffix.lower() in (*IMAGES, CAPTIONS):
                name = os.fsencode(path.relative_to(self.options.path).as_posix())
                digest.update(b"%s\0%d\n" % (name, path.stat().st_size))
        return digest.hexdigest()

    def records(self) -> Iterator[Any]:
        table = self._table()
        if table is None:
            yield from _pictures(self.options.path)
            return
        for record in files.records(table, PAGE):
            if isinstance(record, dict):
                self.columns = self.columns or self._named(table, list(record))
            yield record

    def name(self, number: int, record: Any) -> str:
        own = optional(record, self.columns.get("id", "id")) if isinstance(record, dict) else ""
        return f"{self.label}-{own or number}"

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        column = self.columns or {name: name for name in COLUMNS}
        options = texts(record, column["options"]) if record.get(column["options"]) else ()
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, column["image"], self._images()),
            captions=several(record, column["prompt"]),
            question=optional(record, column["question"]),
            options=unlettered(options),
            answer=answer(record, column["answer"]),
            solution=optional(record, column["solution"]),
            answer_type=answer_type(record, column["answer_type"]),
        )

    def _table(self) -> Path | None:
        """The file of the rows; None for a folder of images alone."""
        path = self.options.path
        if path.is_file() and path.suffix.lower() in TABLES:
            return path
        files.folder(path, PAGE)
        return next((own for end in TABLES if (own := path / f"metadata{end}").is_file()), None)

    def _images(self) -> Path:
        path = self.options.path
        return self.options.images or (path if path.is_dir() else path.parent)

    def _named(self, table: Path, has: list[str]) -> dict[str, str]:
        """What the columns are called in a table that has these: as the recipe says, else by a name that is usual."""
        own = self.options.columns
        named = {name: own.get(name) or next((n for n in names if n in has), name) for name, names in COLUMNS.items()}
        missing = [name for name, column in named.items() if name in {"image", *own} and column not in has]
        if not {named["prompt"], named["question"]} & {*has}:
            missing.append("prompt or question")
        if missing:
            raise CorlError(
                f"{table} lacks columns for {', '.join(missing)}; it has {', '.join(has)}.",
                "Name them in the recipe, as in columns: {image: its_name, prompt: its_name}",
            )
        return named


def _pictures(folder: Path) -> Iterator[Record]:
    """The images of a folder and of those in it, with their captions, in the order of names."""
    for path in _walk(folder):
        if path.suffix.lower() in IMAGES:
            yield {
                "id": path.relative_to(folder).as_posix(),
                "image": str(path.relative_to(folder)),
                "prompt": _captions(path.with_suffix(CAPTIONS)),
            }


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, in the order of names."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _captions(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
