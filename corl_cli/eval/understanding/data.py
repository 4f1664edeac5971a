"""Where the records of a task are: on the hub, or in a local folder in the data set's own columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.eval.understanding.tasks import LmmsTask

LAYOUT = "what datasets.save_to_disk wrote, or parquet files"


def overrides(folder: Path, lmms: LmmsTask) -> dict[str, Any]:
    """What the task's config must say to read a local folder; CorlError when there is nothing to read.

    Files that begin with the split's name are taken, or all where none does.
    """
    if (folder / "dataset_dict.json").exists():
        return {"dataset_path": str(folder), "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    kind = "arrow" if (folder / "dataset_info.json").exists() else "parquet"
    files = sorted(folder.rglob(f"*.{kind}"))
    files = [file for file in files if file.name.startswith(lmms.split)] or files
    if not files:
        raise CorlError(f"{folder} holds no records: {LAYOUT}.", _fetch(lmms))
    data_files = {lmms.split: [str(file) for file in files]}
    return {"dataset_path": kind, "dataset_name": None, "dataset_kwargs": {"data_files": data_files}}


def requirement(name: str, data: str | None, lmms: LmmsTask) -> Requirement:
    """Whether the records can be read, as far as can be told without reading or fetching them."""
    from huggingface_hub import constants

    what = f"{lmms.dataset} ({lmms.split})"
    remedy = f"Give a folder with --set eval.benchmarks.{name}.data=DIR ({LAYOUT}). {_fetch(lmms)}"
    if data is not None:
        folder = Path(data).expanduser()
        try:
            overrides(folder, lmms)
        except CorlError:
            found = f"{folder} holds no records" if folder.is_dir() else f"there is no folder {folder}"
            return Requirement(name=what, state="missing", detail=found, remedy=remedy)
        return Requirement(name=what, state="ok", detail=str(folder))
    if _cached(lmms.dataset):
        return Requirement(name=what, state="ok", detail="in the hub's cache")
    if constants.HF_HUB_OFFLINE:
        detail = "it is not in the hub's cache, and HF_HUB_OFFLINE is set"
        return Requirement(name=what, state="missing", detail=detail, remedy=remedy)
    return Requirement(name=what, state="download", detail="from the hub at first use")


def _cached(dataset: str) -> bool:
    from datasets import config, naming
    from huggingface_hub import constants

    owner, _, name = dataset.partition("/")
    prepared = Path(config.HF_DATASETS_CACHE, f"{owner}___{naming.camelcase_to_snakecase(name)}")
    return prepared.is_dir() or Path(constants.HF_HUB_CACHE, f"datasets--{owner}--{name}").is_dir()


def _fetch(lmms: LmmsTask) -> str:
    return f"Fetch it with: hf download --repo-type dataset {lmms.dataset} --local-dir DIR"
