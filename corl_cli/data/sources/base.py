"""Source: a public data set, or the user's own, read item by item in an order that never changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from corl_cli.data.items import Dropped, Raw, Unusable
from corl_cli.data.sources.fields import UNREADABLE

Record = dict[str, Any]  # one entry of an annotation file
Place = Annotated[Path, AfterValidator(Path.expanduser)]  # a file or folder of the user's, ~ allowed


class Options(BaseModel):
    """The options of a source: frozen, unknown keys refused; paths are folders or files on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(ABC):
    """Offers items. The docstring says where the data comes from, its licence, its fields, and who established them.

    `label` begins every id and is the column `source`; `numbered` says that ids are places in a file, or numbers that
    are given anew in every file, so that two sources of one label would give the same ids to different items.
    """

    Options: ClassVar[type[BaseModel]] = Options
    label: str = ""
    numbered: ClassVar[bool] = False

    def __init__(self, options: BaseModel, seed: int) -> None:
        self.options, self.seed = options, seed

    @abstractmethod
    def files(self) -> list[Path]:
        """The annotation files that items come from, whose hashes go into the manifest; CorlError when one is missing.

        Called before `items`, so that whatever else can be told at once (an image folder that is not there, a file cut
        short) stops the build before it starts.
        """

    def fingerprint(self) -> str:
        """What tells that the items come from other data where `files` cannot, because these are too many to hash.

        Empty where `files` are all that matters; called before `items`, as often as `files`.
        """
        return ""

    @abstractmethod
    def items(self) -> Iterator[Raw | Dropped]:
        """Every item in a fixed order, streamed where the format allows; an entry that cannot be read is a Dropped."""


class Records(Source):
    """A source that is a sequence of records, each read on its own.

    The id of a record is its field `id_field`, or else its place in the file.
    """

    id_field: str = "id"

    @abstractmethod
    def records(self) -> Iterator[Any]:
        """The records in order, whatever they are; CorlError when the file itself is damaged."""

    @abstractmethod
    def read(self, name: str, record: Record) -> Iterator[Raw | Dropped]:
        """The items of one record, most often one, whose ids begin with `name`; Unusable when there is none.

        A record of several calls `attempt` for each, so that none is lost for another's fault.
        """

    def items(self) -> Iterator[Raw | Dropped]:
        for number, record in enumerate(self.records()):
            yield from self.attempt(self.name(number, record), record, self.read)

    def attempt(
        self, name: str, record: Any, read: Callable[[str, Record], Iterator[Raw | Dropped]]
    ) -> Iterator[Raw | Dropped]:
        """What `read` makes of a record; a Dropped of this name where it is unusable."""
        try:
            if not isinstance(record, dict):
                raise Unusable(UNREADABLE)
            yield from read(name, record)
        except Unusable as fault:
            yield Dropped(id=name, source=self.label, reason=str(fault))

    def name(self, number: int, record: Any) -> str:
        """The id of the record at this place."""
        own = record.get(self.id_field) if isinstance(record, dict) else None
        return f"{self.label}-{number if own is None else own}"
