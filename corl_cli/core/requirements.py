"""What a part of corl needs from the machine, and whether it is there."""

from dataclasses import dataclass
from typing import Literal


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
