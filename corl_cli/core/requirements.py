"""What a part of corl needs from the machine, and whether it is there."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from corl_cli.core.errors import CorlError


@dataclass(frozen=True)
class Wanted:
    """Something that is had from a network: a model or a data set by its hub id, or a file by its URL.

    Whoever loads it makes this, so that what is fetched ahead is what is looked for: `here` tells where it lies whole,
    None where it does not; `get` brings it to that place (CorlError). `revision` is empty where there are none, and
    `why` says what it is for.
    """

    kind: Literal["model", "data set", "file"]
    name: str
    revision: str
    why: str
    here: Callable[[], Path | None] = field(compare=False, repr=False)
    get: Callable[[], Path] = field(compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One thing that is needed: `ok`, `download` (the hub will be asked for it), `missing`, or `broken`.

    `detail` says what was found or where it was looked for, `remedy` the next thing to type; empty where all is well.
    `wanted` is what a network has of it, here already or not; None where no download brings it.
    """

    name: str
    state: Literal["ok", "download", "missing", "broken"]
    detail: str
    remedy: str = ""
    wanted: Wanted | None = field(default=None, compare=False)

    @property
    def met(self) -> bool:
        """Whether work that needs it can begin."""
        return self.state in ("ok", "download")


def demand(requirements: Iterable[Requirement], what: str) -> None:
    """CorlError with a line for everything that `what` needs and this machine lacks, and the remedies as its hint."""
    lacking = list(dict.fromkeys(need for need in requirements if not need.met))
    if lacking:
        raise CorlError(
            "\n".join(f"{what} needs {need.name} ({need.state}): {need.detail}." for need in lacking),
            "\n".join(dict.fromkeys(need.remedy for need in lacking if need.remedy)) or None,
        )
