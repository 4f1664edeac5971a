"""Data sets of the hub as the datasets library keeps them once read: all that it can read without a network."""

from __future__ import annotations

import json
from pathlib import Path


def prepared(name: str, split: str, cache: Path | None = None) -> Path | None:
    """The newest folder in which the library's cache holds a split of a set, whole; None where there is none.

    What lies in the hub's cache alone does not count: offline the library does not look there. A split may be written
    as the library allows, such as train[:100] or train+test.
    """
    from datasets import config, naming

    owner, _, own = name.rpartition("/")
    folder = "___".join(filter(None, (owner, naming.camelcase_to_snakecase(own))))
    wanted = {part.partition("[")[0] for part in split.split("+")}
    found = Path(cache or config.HF_DATASETS_CACHE, folder).glob("*/*/*/dataset_info.json")
    whole = [file.parent for file in found if file.parent.suffix != ".incomplete" and wanted <= _splits(file)]
    return max(whole, key=lambda place: place.stat().st_mtime, default=None)


def _splits(info: Path) -> set[str]:
    try:
        return set(json.loads(info.read_text(encoding="utf-8"))["splits"])
    except (OSError, ValueError, LookupError, TypeError):
        return set()
