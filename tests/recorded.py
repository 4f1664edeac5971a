"""What tests read of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLOCKED = ("time/", "memory/", "seconds", "tokens_per_second")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run without what a clock or a memory gauge wrote, and without the identity."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.startswith(CLOCKED)}
        for line in lines
        if "identity" not in line
    ]
