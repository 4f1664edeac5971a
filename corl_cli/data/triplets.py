"""Triplets from the embedded world, a folder, a parquet file or a hub id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.prepared import prepared
from corl_cli.core.recipe import Data
from corl_cli.core.requirements import Requirement, Wanted
from corl_cli.core.types import AnswerType, LazyTriplets, Task, Triplet
from corl_cli.data import templates
from corl_cli.world.items import WorldTriplets
from corl_cli.world.scenes import Split

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS: dict[Task, tuple[str, ...]] = {"t2i": ("prompt",), "mm2t": ("question", "answer")}
COLUMNS = ("image", "prompt", "question", "answer", "answer_type")
TYPES: tuple[AnswerType, ...] = get_args(AnswerType)
WORLD_SIZE = 12288  # triplets of one epoch of the embedded world; every seed has its own
HELD_OUT = "test"  # the split that data.holdout makes
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def load(
    data: Data,
    seed: int,
    split: str | None = None,
    limit: int | None = None,
    tasks: Sequence[Task] = (),
    answer_types: Sequence[AnswerType] = TYPES,
) -> Sequence[Triplet]:
    """The triplets that a recipe names, dressed with its instructions; `split` and `limit` override the recipe's.

    Of a table only the rows that have the texts of all `tasks` count: a prompt to draw, a question with its answer; it
    needs their columns only, without `tasks` those of all. Only questions of `answer_types` count: all of them unless
    given, whatever the recipe trains, so that held-out items are the same in every run.
    UsageError for a split or column that is not there, or when no row is left; CorlError for data that cannot be read.
    """
    wanted, limit = split or data.split, limit or data.limit
    if data.path == "world":
        if wanted not in get_args(Split):
            raise UsageError(f"The embedded world has no split '{wanted}'.", "Use train or test.")
        return Dressed(WorldTriplets(wanted, limit or WORLD_SIZE, seed, answer_types), data)  # type: ignore[arg-type]
    if not data.holdout:
        table = Table(_read(data.path, wanted), data, tasks)
        return Dressed(table.select(_having(table, range(len(table)), tasks, answer_types)[:limit]), data)
    if wanted not in (data.split, HELD_OUT):
        raise UsageError(f"With data.holdout there are the splits {data.split} and {HELD_OUT}.", "Use one of them.")
    table = Table(_read(data.path, data.split), data, tasks)
    chosen = [row for row, name in enumerate(table.ids()) if is_held_out(name, data.holdout) == (wanted == HELD_OUT)]
    return Dressed(table.select(_having(table, chosen, tasks, answer_types)[:limit]), data)


def requirements(data: Data) -> list[Requirement]:
    """What reading the data needs from this machine: a set of the hub; nothing for the world and for local files."""
    if data.path == "world" or not _of_hub(data.path):
        return []
    from huggingface_hub import constants

    here, get = partial(prepared, data.path, data.split), partial(_fetched, data)
    found = here()
    offline = constants.HF_HUB_OFFLINE
    detail = str(found) if found else "it was never read here, and HF_HUB_OFFLINE is set" if offline else data.path
    return [
        Requirement(
            name=f"{data.path} ({data.split})",
            state="ok" if found else "missing" if offline else "download",
            detail=detail,
            wanted=Wanted("data set", data.path, constants.DEFAULT_REVISION, "the triplets", here, get),
        )
    ]


def _of_hub(path: str) -> bool:
    """Whether the set of this name is asked of the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return not Path(path).exists() and Path(path).suffix != ".parquet"


def _fetched(data: Data) -> Path:
    """The set in the cache of `datasets`, as `load` then finds it there."""
    _read(data.path, data.split)
    found = prepared(data.path, data.split)
    if found is None:
        raise CorlError(f"{data.path} was read, and is not in the cache.", "Look whether HF_DATASETS_CACHE is set.")
    return found


def _having(
    table: Table, rows: Sequence[int], tasks: Sequence[Task], answer_types: Sequence[AnswerType]
) -> Sequence[int]:
    """Those rows that have the texts of all tasks and questions of these types; UsageError when none of them has."""
    for task in tasks:
        texts = [table.texts(column) for column in TEXTS[task]]
        having = [row for row in rows if all(column[row].strip() for column in texts)]
        if rows and not having:
            others = [other for other in tasks if other != task]
            raise UsageError(
                f"No triplet of {table.source} has {' and '.join(TEXTS[task])}, which {task} needs.",
                f"Train without it: corl train separate --task {others[0]}" if others else None,
            )
        rows = rows if len(having) == len(rows) else having  # a range is quicker to read
    if set(answer_types) < set(TYPES):
        types = table.types()
        having = [row for row in rows if types[row] in answer_types]
        if rows and not having:
            raise UsageError(
                f"No question of {table.source} is of type {answer_types[0]}, which data.answer_types asks for.",
                "Take other data, --set data.path=…, or questions of the other type.",
            )
        rows = rows if len(having) == len(rows) else having
    return rows


def is_held_out(name: str, share: float) -> bool:
    """Whether the triplet of this id belongs to the held-out share; the same on every machine and in every order."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") < share * 2**64


class Dressed(LazyTriplets):
    """Triplets whose questions carry the recipe's instruction."""

    def __init__(self, triplets: Sequence[Triplet], data: Data) -> None:
        self.triplets, self.instruction = triplets, data.instruction

    def __len__(self) -> int:
        return len(self.triplets)

    def at(self, index: int) -> Triplet:
        bare = self.triplets[index]
        return replace(bare, question=templates.dress(bare.question, bare.answer_type, self.instruction))


class Table(LazyTriplets):
    """Triplets read from the rows of a `datasets` table, by the recipe's names of the columns.

    What the tasks do not need may be missing. Where `data.answer_types` is one type, questions without a column of
    types are of that.
    """

    def __init__(self, rows: Dataset, data: Data, tasks: Sequence[Task] = ()) -> None:
        self.rows, self.data, self.tasks, self.source = rows, data, tasks, data.path
        own = {name: data.columns.get(name, name) for name in (*COLUMNS, "solution")}
        self.columns = {name: column for name, column in own.items() if column in rows.column_names}
        self.id_column = data.columns.get("id", "id")
        self.asks = not tasks or "mm2t" in tasks
        needed = {"image", *(name for task in tasks or TEXTS for name in TEXTS[task])}
        if self.asks and len(set(data.answer_types)) > 1:
            needed.add("answer_type")
        missing = [f"{name} (column '{own[name]}')" for name in COLUMNS if name in needed - self.columns.keys()]
        if missing:
            raise UsageError(
                f"{data.path} lacks {', '.join(missing)}; it has {', '.join(rows.column_names)}.",
                "Name the columns in the recipe: --set data.columns.question=its_name",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, index: int) -> Triplet:
        row = self.rows[index]
        value = {name: row[column] for name, column in self.columns.items()}
        return Triplet(
            id=str(row.get(self.id_column, index)),
            image=self._image(value["image"], index),
            prompt=str(value.get("prompt", "")),
            question=str(value.get("question", "")),
            answer=_clean(str(value.get("answer", ""))),
            answer_type=self._answer_type(value.get("answer_type"), index),
            source=self.source,
            solution=str(value.get("solution") or ""),
        )

    def texts(self, column: str) -> list[str]:
        """One column of texts, of every row."""
        return [str(text or "") for text in self.rows[self.columns[column]]]

    def types(self) -> Sequence[str]:
        """The answer type of every row, as it is written."""
        if "answer_type" in self.columns:
            return [text.lower() for text in self.texts("answer_type")]
        return list(self.data.answer_types) * len(self)

    def ids(self) -> list[str]:
        """The id of every row: its id column, or else its number."""
        column = self.id_column in self.rows.column_names
        return [str(name) for name in (self.rows[self.id_column] if column else range(len(self.rows)))]

    def select(self, rows: Sequence[int]) -> Table:
        """The table of some rows."""
        return Table(self.rows.select(rows), self.data, self.tasks)

    def _image(self, value: Any, index: int) -> Any:
        from PIL import Image

        if isinstance(value, str):
            try:
                value = Image.open(value)
            except OSError as error:
                raise CorlError(
                    f"Row {index} of {self.source}: the image {value} cannot be read.", "Mend or leave out the row."
                ) from error
        if not isinstance(value, Image.Image):
            raise CorlError(
                f"Row {index} of {self.source}: column '{self.columns['image']}' holds no image.",
                "Store images as a datasets Image column or as paths.",
            )
        return value.convert("RGB")

    def _answer_type(self, value: Any, index: int) -> AnswerType:
        kind = str(value).lower()
        if kind not in TYPES and ("answer_type" not in self.columns or not self.asks):
            return self.data.answer_types[0]
        if kind not in TYPES:
            raise CorlError(
                f"Row {index} of {self.source}: answer type '{value}' is neither mc nor oe.",
                "Store mc (multiple choice) or oe (open-ended) in that column.",
            )
        return kind


def _clean(answer: str) -> str:
    """Published solutions may wrap the answer in tags; stored answers are bare."""
    match = _ANSWER.search(answer)
    return (match.group(1) if match else answer).strip()


def _read(path: str, split: str) -> Dataset:
    import datasets

    local = Path(path)
    try:
        if local.suffix == ".parquet":
            return _only(datasets.load_dataset("parquet", data_files=str(local), split="train"), path, split)
        if (local / "dataset_info.json").exists():
            return _only(datasets.load_from_disk(str(local)), path, split)
        if (local / "dataset_dict.json").exists():
            return datasets.load_from_disk(str(local))[split]
        if (local / "parts" / "order.json").exists() and not (local / "manifest.json").exists():
            raise UsageError(f"The set in {path} is not finished.", f"corl prepare-data --out {path} --resume")
        return datasets.load_dataset(path, split=split)
    except UsageError:
        raise
    except Exception as error:
        if "Unknown split" in str(error):
            raise UsageError(
                f"{path} has no split '{split}'.",
                "Keep a share of it from training, --set data.holdout=0.02, or go without: --set eval.probes=null",
            ) from error
        raise CorlError(
            f"No triplets could be read from {path} (split {split}): {str(error).strip().splitlines()[0]}",
            "Give a parquet file, a folder that datasets can load, or a hub id that this machine can reach.",
        ) from error


def _only(rows: Dataset, path: str, split: str) -> Dataset:
    """Rows that have no splits are the split train; asking for another would read the same rows again."""
    if split != "train":
        raise UsageError(
            f"{path} has no splits, so it has no '{split}'.",
            "Keep a share of it from training: --set data.holdout=0.02, whose split is called test.",
        )
    return rows
