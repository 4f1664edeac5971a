"""What a part of corl needs from the machine, and whether it is there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from corl_cli.core.errors import CorlError


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One thing that is needed: `ok`, `download` (the hub will be asked for it), `missing`, or `broken`.

    `detail` says what was found or where it was looked for, `remedy` the next thing to type; empty where all is well.
    """

    name: str
    state: Literal["ok", "download", "missing", "broken"]
    detail: str
    remedy: str = ""

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
