"""Triplets from the embedded world, a folder, a parquet file or a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data
from corl_cli.core.types import AnswerType, Triplet
from corl_cli.data import templates
from corl_cli.world.items import WorldTriplets
from corl_cli.world.scenes import Split

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("image", "prompt", "question", "answer", "answer_type")
WORLD_SIZE = 12288  # triplets of one epoch of the embedded world; every seed has its own
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def load(data: Data, seed: int, split: str | None = None, limit: int | None = None) -> Sequence[Triplet]:
    """The triplets that a recipe names, dressed with its instructions; `split` and `limit` override the recipe's.

    UsageError for a split or column that is not there, CorlError for data that cannot be read.
    """
    split, limit = split or data.split, limit or data.limit
    if data.path == "world":
        if split not in get_args(Split):
            raise UsageError(f"The embedded world has no split '{split}'.", "Use train or test.")
        return Dressed(WorldTriplets(split, limit or WORLD_SIZE, seed), data)  # type: ignore[arg-type]
    rows = _read(data.path, split)
    table = Table(rows if limit is None else rows.select(range(min(limit, len(rows)))), data)
    return Dressed(table, data)


class Dressed(Sequence[Triplet]):
    """Triplets whose questions carry the recipe's instruction."""

    def __init__(self, triplets: Sequence[Triplet], data: Data) -> None:
        self.triplets, self.instruction = triplets, data.instruction

    def __len__(self) -> int:
        return len(self.triplets)

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Triplet]: ...
    def __getitem__(self, index: int | slice) -> Triplet | list[Triplet]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        bare = self.triplets[index]
        return replace(bare, question=templates.dress(bare.question, bare.answer_type, self.instruction))


class Table(Sequence[Triplet]):
    """Triplets read from the rows of a `datasets` table, by the recipe's names of the columns."""

    def __init__(self, rows: Dataset, data: Data) -> None:
        self.rows, self.source = rows, data.path
        self.columns = {name: data.columns.get(name, name) for name in COLUMNS}
        self.id_column = data.columns.get("id", "id")
        missing = [f"{name} (column '{own}')" for name, own in self.columns.items() if own not in rows.column_names]
        if missing:
            raise UsageError(
                f"{data.path} lacks {', '.join(missing)}; it has {', '.join(rows.column_names)}.",
                "Name the columns in the recipe: --set data.columns.question=its_name",
            )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Triplet]: ...
    def __getitem__(self, index: int | slice) -> Triplet | list[Triplet]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.rows[index]
        value = {name: row[column] for name, column in self.columns.items()}
        return Triplet(
            id=str(row.get(self.id_column, index)),
            image=self._image(value["image"], index),
            prompt=str(value["prompt"]),
            question=str(value["question"]),
            answer=_clean(str(value["answer"])),
            answer_type=self._answer_type(value["answer_type"], index),
            source=self.source,
        )

    def _image(self, value: Any, index: int) -> Any:
        from PIL import Image

        if isinstance(value, str):
            value = Image.open(value)
        if not isinstance(value, Image.Image):
            raise CorlError(
                f"Row {index} of {self.source}: column '{self.columns['image']}' holds no image.",
                "Store images as a datasets Image column or as paths.",
            )
        return value.convert("RGB")

    def _answer_type(self, value: Any, index: int) -> AnswerType:
        kind = str(value).lower()
        if kind not in get_args(AnswerType):
            raise CorlError(
                f"Row {index} of {self.source}: answer type '{value}' is neither mc nor oe.",
                "Store mc (multiple choice) or oe (open-ended) in that column.",
            )
        return kind  # type: ignore[return-value]


def _clean(answer: str) -> str:
    """Published solutions may wrap the answer in tags; stored answers are bare."""
    match = _ANSWER.search(answer)
    return (match.group(1) if match else answer).strip()


def _read(path: str, split: str) -> Dataset:
    import datasets

    local = Path(path)
    try:
        if local.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(local), split="train")
        if (local / "dataset_info.json").exists():
            return datasets.load_from_disk(str(local))
        return datasets.load_dataset(path, split=split)
    except Exception as error:
        raise CorlError(
            f"No triplets could be read from {path} (split {split}): {str(error).strip().splitlines()[0]}",
            "Give a parquet file, a folder that datasets can load, or a hub id that this machine can reach.",
        ) from error
