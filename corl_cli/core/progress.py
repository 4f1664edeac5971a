"""How far a piece of work is, told by whoever does it to whoever shows it."""

from typing import Protocol


class Progress(Protocol):
    """Told of steps that are done."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count finished steps; `note` is shown beside them."""
