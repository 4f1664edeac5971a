"""Parquet files of the builder: parts that are still to be judged as a whole, and the finished triplets.

Rows are written in groups of a fixed number, so memory is bounded and equal rows are equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corl_cli.core.run_dir import writing

GROUP = 100  # rows of a row group; so many images are in memory at once
PART = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "source")),
        ("image", pa.binary()),
        *((name, pa.string()) for name in ("path", "prompt", "question", "answer", "answer_type")),
        ("coverage", pa.float32()),
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.string()) for name in ("digest", "phash")),
    ]
)
COLUMNS = ("id", "image", "prompt", "question", "answer", "answer_type", "source", "coverage")
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def triplet_schema() -> pa.Schema:
    """Columns of the finished set; the metadata has `datasets` decode the images."""
    types = {"image": _IMAGE, "coverage": pa.float32()}
    values = {
        name: {"_type": "Image"} if name == "image" else {"dtype": "float32" if name in types else "string"}
        for name in COLUMNS
    }
    features = {name: {"_type": "Value", **value} for name, value in values.items()}
    return pa.schema(
        [(name, types.get(name, pa.string())) for name in COLUMNS],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def to_triplets(rows: pa.Table) -> pa.Table:
    """Rows of a part as rows of the finished set."""
    image = pa.StructArray.from_arrays(
        [_null_where_empty(rows["image"]), _null_where_empty(rows["path"])], fields=list(_IMAGE)
    )
    columns = [image if name == "image" else rows[name] for name in COLUMNS]
    return pa.table(columns, schema=triplet_schema())


def read(path: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a file, a bounded number at a time; all columns or some."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=GROUP, columns=columns):
            yield pa.Table.from_batches([batch])


class Writer:
    """Writes one parquet file, whole or not at all; CorlError when the disk is full."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.waiting = schema.empty_table()

    def __enter__(self) -> Self:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.file = self._open()
            except OSError:
                self.partial.unlink(missing_ok=True)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            with writing(self.path):
                if kind is None and len(self.waiting):
                    self.file.write_table(self.waiting.combine_chunks())
                self.file.close()
                if kind is None:
                    with self.partial.open("rb") as file:
                        os.fsync(file.fileno())
                    self.partial.replace(self.path)
        finally:
            self.partial.unlink(missing_ok=True)

    def add(self, rows: pa.Table) -> None:
        """Append rows of the file's schema."""
        self.rows += len(rows)
        self.waiting = pa.concat_tables([self.waiting, rows])
        while len(self.waiting) >= GROUP:
            with writing(self.path):
                self.file.write_table(self.waiting.slice(0, GROUP).combine_chunks())  # how they came must not show
            self.waiting = self.waiting.slice(GROUP)

    def _open(self) -> pq.ParquetWriter:
        """Images are compressed already, and have no order that statistics could tell of."""
        plain = [name for name in self.schema.names if name != "image"]
        images = ["image", "image.bytes", "image.path"]
        return pq.ParquetWriter(
            self.partial,
            self.schema,
            compression=dict.fromkeys(plain, "zstd") | dict.fromkeys(images, "none"),
            use_dictionary=["source", "answer_type"],
            write_statistics=plain,
        )


def _null_where_empty(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pc.if_else(pc.equal(pc.binary_length(whole), 0), pa.scalar(None, whole.type), whole)
