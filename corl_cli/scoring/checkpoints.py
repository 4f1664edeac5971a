"""A transformers checkpoint under a measure, by folder or hub id: whether it is on this machine, and reading it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import ENOSPC
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, model_info, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, Wanted, demand
from corl_cli.models import torchvision_guard

HUB_SECONDS = 10  # for the hub's first answer; left to itself transformers retries for half a minute

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WORDS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # without, transformers makes a tokenizer of no words
_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")


def requirement(name: str, checkpoint: str, architecture: str | None = None, *, words: bool = True) -> Requirement:
    """Whether a checkpoint is on this machine, whole and of the right class; nothing is loaded or fetched.

    `architecture` is the transformers class it was saved from, None where any will do; `words` says that it reads
    text, and so has a tokenizer.
    """
    found = _requirement(name, checkpoint, architecture, words)
    if Path(checkpoint).expanduser().exists() or _means_folder(checkpoint):
        return found
    here, get = partial(_whole, checkpoint, architecture, words), partial(fetch, name, checkpoint, architecture, words)
    return replace(found, wanted=Wanted("model", checkpoint, constants.DEFAULT_REVISION, name, here, get))


def newest(name: str, checkpoint: str) -> Path:
    """The folder that transformers reads for a hub id: the hub's newest, else the one here; CorlError where is none."""
    try:
        return fetch(name, checkpoint)
    except CorlError:
        if folder := _folder(checkpoint, words=True):
            return folder
        raise


def _requirement(name: str, checkpoint: str, architecture: str | None, words: bool) -> Requirement:
    folder = _folder(checkpoint, words)
    if folder is not None and (fault := _fault(folder, architecture, words)):
        remedy = f"Give a folder or hub id of a {architecture or 'model'} in transformers' format."
        return Requirement(name=name, state="broken", detail=f"{checkpoint} {fault}", remedy=remedy)
    if folder is not None:
        where = "" if Path(checkpoint).expanduser() == folder else ", in the hub's cache"
        return Requirement(name=name, state="ok", detail=checkpoint + where)
    if _means_folder(checkpoint):
        remedy = "Give a folder in transformers' format, or a hub id."
        return Requirement(name=name, state="missing", detail=f"there is no folder {checkpoint}", remedy=remedy)
    if constants.HF_HUB_OFFLINE:
        return Requirement(
            name=name,
            state="missing",
            detail=f"{checkpoint} is neither a folder here nor whole in the hub's cache, and HF_HUB_OFFLINE is set",
            remedy=f"Fetch it with HF_HUB_OFFLINE=0 hf download {checkpoint}, or give a folder.",
        )
    return Requirement(
        name=name,
        state="download",
        detail=f"{checkpoint}, from the hub at first use",
        remedy=f"hf download {checkpoint}",
    )


@contextmanager
def reading(name: str, checkpoint: str, architecture: str | None = None, *, words: bool = True) -> Iterator[Path]:
    """The checkpoint's folder, fetched from the hub if need be; what fails inside becomes one CorlError.

    The arguments are those of `requirement`. transformers' warnings and bars are silent inside; a download shows the
    hub's own bar.
    """
    demand([requirement(name, checkpoint, architecture, words=words)], "The measure")
    torchvision_guard.check()  # before transformers' image classes are imported
    try:
        folder = _folder(checkpoint, words) or fetch(name, checkpoint, architecture, words)
        with _quiet():
            yield folder
    except (CorlError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CorlError(
            f"No {name} could be read from {checkpoint}: {_reason(error)}",
            "Give another checkpoint (a folder in transformers' format, or a hub id), or copy this one again.",
        ) from error


def weights(read: Callable[..., Any], folder: Path, *, spare: str | None = None) -> Any:
    """A frozen float32 model read by a class's `from_pretrained`; ValueError when tensors are missing or misshapen.

    Tensors whose name contains `spare` may be missing: the caller does not use them.
    """
    model, report = read(folder, dtype=torch.float32, output_loading_info=True)
    lost = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    lost = [key for key in lost if spare is None or spare not in key]
    if lost:
        raise ValueError(f"{len(lost)} tensors are missing or misshapen, {lost[0]} for one")
    return model.eval().requires_grad_(False)


def _folder(checkpoint: str, words: bool) -> Path | None:
    """The folder itself, or the one in the hub's cache that holds the whole checkpoint; None when it is not here."""
    place = Path(checkpoint).expanduser()
    if place.exists():
        return place
    try:
        found = try_to_load_from_cache(checkpoint, "config.json")
    except HFValidationError:
        return None
    if not isinstance(found, str):
        return None
    return None if _lacking(Path(found).parent, words) else Path(found).parent


def _whole(checkpoint: str, architecture: str | None, words: bool) -> Path | None:
    """See `_folder`; None for one of another class, too."""
    folder = _folder(checkpoint, words)
    return None if folder is None or _fault(folder, architecture, words) else folder


def _means_folder(checkpoint: str) -> bool:
    """Whether a name that is no folder here can only have been meant as one."""
    try:
        validate_repo_id(checkpoint)
    except HFValidationError:
        return True
    parent = Path(checkpoint).parent
    return parent != Path() and parent.is_dir()


def _fault(folder: Path, architecture: str | None, words: bool) -> str | None:
    """What is wrong with a checkpoint's folder, as far as its small files tell."""
    if lacking := _lacking(folder, words):
        return lacking
    saved = _json(folder / "config.json").get("architectures") or []
    return f"holds a {saved[0]}, not a {architecture}" if architecture and saved and architecture not in saved else None


def _lacking(folder: Path, words: bool) -> str | None:
    """What a folder lacks of a checkpoint: its configuration, its tokenizer, its weights or some of their shards."""
    if not folder.is_dir():
        return "is a file, not a folder"
    if not (folder / "config.json").is_file():
        return "holds no config.json"
    if not _json(folder / "config.json"):
        return "holds a config.json that cannot be read"
    if words and not any(file for pattern in _WORDS for file in folder.glob(pattern)):
        return f"holds no tokenizer ({', '.join(_WORDS)})"
    if any((folder / name).is_file() for name in _WEIGHTS):
        return None
    shards = [
        shard for name in _WEIGHTS for shard in _json(folder / f"{name}.index.json").get("weight_map", {}).values()
    ]
    if not shards:
        return f"holds no weights ({' or '.join(_WEIGHTS)})"
    return next((f"lacks {shard}" for shard in sorted(set(shards)) if not (folder / shard).is_file()), None)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none to be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fetch(name: str, checkpoint: str, architecture: str | None = None, words: bool = True) -> Path:
    """The folder of the hub's cache with a checkpoint's files, weights in one format only; CorlError.

    The arguments are those of `requirement`. Downloads go on where they stopped. Weights come last: where they are,
    the rest is.
    """
    try:
        files = [file.rfilename for file in model_info(checkpoint, timeout=HUB_SECONDS).siblings or []]
        safe = any(file in files for file in ("model.safetensors", "model.safetensors.index.json"))
        weights = ["model.safetensors", "model-*.safetensors"] if safe else ["pytorch_model.bin", "pytorch_model-*.bin"]
        snapshot_download(checkpoint, allow_patterns=[*_TEXTS])
        folder = Path(snapshot_download(checkpoint, allow_patterns=weights))
    except GatedRepoError as error:
        raise CorlError(
            f"{checkpoint} ({name}) is not here, and the hub gives it only to those who have asked its owners.",
            f"Ask on https://huggingface.co/{checkpoint}, then hf auth login.",
        ) from error
    except RepositoryNotFoundError as error:
        raise CorlError(
            f"{checkpoint} ({name}) is not here, and the hub has no such model, or it is private.",
            "Check the name; a private model wants hf auth login.",
        ) from error
    except Exception as error:  # no network, no permission, no space: each has classes of its own
        full = isinstance(error, OSError) and error.errno == ENOSPC
        reason = f"the disk of {constants.HF_HUB_CACHE} is full" if full else _reason(error)
        raise CorlError(
            f"{checkpoint} ({name}) is not here, and could not be fetched: {reason}",
            "Make room, or name a larger disk as HF_HOME."
            if full
            else f"Try hf download {checkpoint} where there is a network, or give a folder.",
        ) from error
    if fault := _fault(folder, architecture, words):
        raise CorlError(f"{checkpoint} of the hub is no {name}: it {fault}.", "Name one in transformers' format.")
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its warnings, load report and bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
