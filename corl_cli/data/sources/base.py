"""Source: a public data set, or the user's own, read item by item in an order that never changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from corl_cli.data.items import Dropped, Raw


class Options(BaseModel):
    """The options of a source: frozen, unknown keys refused; paths are folders or files on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(ABC):
    """Offers items. The docstring says where the data comes from, its licence, its fields, and who established them."""

    Options: ClassVar[type[BaseModel]] = Options

    def __init__(self, options: BaseModel, seed: int) -> None:
        self.options, self.seed = options, seed

    @abstractmethod
    def files(self) -> list[Path]:
        """The annotation files that items come from, whose hashes go into the manifest; CorlError when one is missing."""

    @abstractmethod
    def items(self) -> Iterator[Raw | Dropped]:
        """Every item in a fixed order, streamed where the format allows; an entry that cannot be read is a Dropped."""
