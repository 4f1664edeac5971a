"""How published sets lie on the disk: a list, an object of problems, or parquet files; sources add what is in them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources import conversations, files
from corl_cli.data.sources.base import Options, Place, Record, Records


class ListingOptions(Options):
    """The file that lists the items, and the folder that their images are relative to."""

    path: Place
    images: Place


class Listing(Records):
    """A file that is a list of records, and a folder of images; `page` is where to get them."""

    page: ClassVar[str]
    options: ListingOptions

    def files(self) -> list[Path]:
        files.folder(self.options.images, self.page)
        return [files.listing(self.options.path, self.page)]

    def records(self) -> Iterator[Any]:
        return files.records(self.options.path, self.page)


class ProblemsOptions(Options):
    """The file of the problems, and the folder of their images."""

    problems: Place
    images: Place


class Problems(Records):
    """A JSON object of problems by their ids, and a folder of images; `page` is where to get them.

    A record is a problem that is `wanted`, with its key in the object as `id`.
    """

    page: ClassVar[str]
    options: ProblemsOptions

    def files(self) -> list[Path]:
        files.folder(self.options.images, self.page)
        return [files.annotation(self.options.problems, self.page)]

    def records(self) -> Iterator[Any]:
        for key, problem in files.mapping(self.options.problems, self.page).items():
            if not isinstance(problem, dict):
                yield problem
            elif self.wanted(problem):
                yield {**problem, "id": key}

    @abstractmethod
    def wanted(self, problem: Record) -> bool:
        """Whether the options ask for this problem; one that they do not is no item, nor a dropped one."""


class ParquetOptions(Options):
    """A parquet file or a folder of them, and which split."""

    path: Place
    split: str = "train"


class Parquet(Records):
    """The rows of parquet files of one split; `page` is where to get them."""

    page: ClassVar[str]
    options: ParquetOptions

    def files(self) -> list[Path]:
        return files.parquet_files(self.options.path, self.options.split, self.page)

    def records(self) -> Iterator[Any]:
        return files.rows(self.files(), self.page)


class Dialogues(Records):
    """Records that are conversations about an image: an item for each pair of turns.

    Questions have their options in them, replies reason before they answer. `without_options` is the answer type of a
    question without any, None where that cannot be told.
    """

    without_options: ClassVar[AnswerType | None] = None

    def read(self, name: str, record: Record) -> Iterator[Raw | Dropped]:
        for turn, one in enumerate(conversations.split(record)):
            yield from self.attempt(f"{name}-{turn}", one, self._exchange)

    @abstractmethod
    def picture(self, record: Record) -> Path | bytes:
        """The image that a conversation is about; Unusable when there is none."""

    def wanted(self, kind: AnswerType | None) -> bool:
        """Whether the options ask for questions of this answer type; all, unless said otherwise."""
        return True

    def _exchange(self, name: str, record: Record) -> Iterator[Raw]:
        asked, reply = conversations.exchange(record["conversations"])
        question, options = conversations.bare(asked)
        kind = "mc" if options else self.without_options
        if not self.wanted(kind):
            return
        reasoning, answer = conversations.final(reply)
        yield Raw(
            id=name,
            source=self.label,
            image=self.picture(record),
            question=question,
            options=options,
            answer=answer,
            solution=reasoning,
            answer_type=kind,
        )
