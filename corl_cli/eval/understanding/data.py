"""Where the records of a task are: on the hub, or in a local folder in the data set's own columns."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.prepared import prepared
from corl_cli.core.requirements import Requirement, Wanted
from corl_cli.eval.understanding.tasks import LmmsTask

LAYOUT = "what datasets.save_to_disk wrote, or parquet files named after the split"

CACHE = "LMMS_EVAL_DATASETS_CACHE"  # lmms-eval's own variable

_NUMBERS = re.compile(r"(^|[/_-])\d+(-of-\d+)?(-[0-9a-f]+)?$")
_SPLIT = re.compile(r"(^|[/_-])(train|dev|val|valid|validation|test|testmini|eval)([/_-]|$)")


def overrides(folder: Path, lmms: LmmsTask) -> dict[str, Any]:
    """What the task's config must say to read its split from a local folder; CorlError when the split is not there."""
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_text())["splits"]
        if lmms.split not in splits:
            raise _other(folder, splits, lmms)
        return {"dataset_path": str(folder), "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    saved = (folder / "dataset_info.json").exists()
    files = _saved(folder, lmms) if saved else _parquet(folder, lmms)
    data_files = {lmms.split: [str(file) for file in files]}
    kind = "arrow" if saved else "parquet"
    return {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": {"data_files": data_files}}


def _saved(folder: Path, lmms: LmmsTask) -> list[Path]:
    """The files of one saved split, of which `datasets` calls train what has no name; not those of its cache."""
    state = folder / "state.json"
    said = json.loads(state.read_text()) if state.exists() else {"_data_files": []}
    name = re.split(r"\W", said.get("_split") or "train")[0]
    if name not in (lmms.split, "train"):
        raise _other(folder, [name], lmms)
    files = [folder / entry["filename"] for entry in said["_data_files"]]
    if not files or not all(file.exists() for file in files):
        raise CorlError(f"{folder} holds no records, or not all of them: {LAYOUT}.", _fetch(lmms))
    return files


def _parquet(folder: Path, lmms: LmmsTask) -> list[Path]:
    """Files named after the split, else in folders named after it, else the only set, if it names no split at all."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise CorlError(f"{folder} holds no records: {LAYOUT}.", _fetch(lmms))
    name = re.compile(rf"(^|[_-]){re.escape(lmms.split)}(-\d|\.|$)")
    within = {file: file.relative_to(folder) for file in files}
    if found := [file for file in files if name.search(file.name)]:
        return found
    if found := [file for file in files if lmms.split in within[file].parent.parts]:
        return found
    sets = sorted({_NUMBERS.sub("", path.with_suffix("").as_posix()) or "numbers" for path in within.values()})
    if len(sets) > 1 or _SPLIT.search(sets[0]):
        raise _other(folder, sets, lmms)
    return files


def _other(folder: Path, found: Sequence[str], lmms: LmmsTask) -> CorlError:
    told = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return CorlError(f"{folder} holds {told}, not the split {lmms.split}.", _fetch(lmms))


def cache() -> Path:
    """Where lmms-eval has `datasets` keep what it reads.

    Left to itself it takes a node's own disk where the cache is on a shared one: other nodes would not find the data.
    """
    from datasets import config

    return Path(os.environ.get(CACHE) or config.HF_DATASETS_CACHE).expanduser()


def wanted(name: str, lmms: LmmsTask, get: Callable[[], object]) -> Wanted:
    """The records of the hub, which `get` has lmms-eval read."""
    from huggingface_hub import constants

    def here() -> Path | None:
        return prepared(lmms.dataset, lmms.split, cache())

    def fetched() -> Path:
        get()
        if (folder := here()) is None:
            raise CorlError(f"{lmms.dataset} was read, and is not in {cache()}.", _fetch(lmms))
        return folder

    return Wanted("data set", lmms.dataset, constants.DEFAULT_REVISION, f"{name}'s records", here, fetched)


def requirement(name: str, data: str | None, lmms: LmmsTask) -> Requirement:
    """Whether the records can be read, as far as can be told without reading or fetching them."""
    from huggingface_hub import constants

    what = f"{lmms.dataset} ({lmms.split})"
    remedy = f"Give a folder with --set eval.benchmarks.{name}.data=DIR ({LAYOUT}). {_fetch(lmms)}"
    if data is not None:
        folder = Path(data).expanduser()
        try:
            overrides(folder, lmms)
        except CorlError as error:
            found = error.message.rstrip(".") if folder.is_dir() else f"there is no folder {folder}"
            return Requirement(name=what, state="missing", detail=found, remedy=remedy)
        return Requirement(name=what, state="ok", detail=str(folder))
    if place := prepared(lmms.dataset, lmms.split, cache()):
        return Requirement(name=what, state="ok", detail=str(place))
    if constants.HF_HUB_OFFLINE:
        detail = "it was never read here, and HF_HUB_OFFLINE is set"
        return Requirement(name=what, state="missing", detail=detail, remedy=remedy)
    return Requirement(name=what, state="download", detail="from the hub at first use")


def _fetch(lmms: LmmsTask) -> str:
    return f"Fetch it with: hf download --repo-type dataset {lmms.dataset} --local-dir DIR"
