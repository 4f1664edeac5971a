"""What this machine has for all that corl does: hardware, libraries, disk space, and a way to the hub."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from packaging.requirements import Requirement as Package

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, Wanted
from corl_cli.models import torchvision_guard
from corl_cli.pipelines.fetch import unreachable
from corl_cli.pipelines.machine import GIB, memory

SECONDS = 4.0  # that the hub is waited for
LITTLE = 2e9  # bytes; a checkpoint of Janus-Pro-1B with its optimiser takes several times as much

Found = TypeVar("Found")
Need = tuple[Requirement, str]  # and what it is for


def machine() -> Iterator[Need]:
    """Python, torch and what it runs on, the disks, the hub."""
    yield from basis()
    yield _gpu(), "training at full size"
    yield torchvision()
    yield _room("disk for runs", Path("runs"), "name another with --out"), "runs and checkpoints"
    cache = Path(constants.HF_HUB_CACHE)
    yield _room("disk for the hub's cache", cache, "name another folder in HF_HOME"), "weights and data of the hub"
    yield hub(), "downloads of weights and data"


def basis() -> Iterator[Need]:
    """What every command stands on."""
    yield Requirement(name="python", state="ok", detail=platform.python_version()), "everything"
    threads = torch.get_num_threads()
    detail = f"{torch.__version__}, {threads} thread{'s' * (threads > 1)}"
    yield Requirement(name="torch", state="ok", detail=detail), "everything"


def torchvision() -> Need:
    """One that works with this torch, or none; else nothing runs that reads a model of transformers."""
    return _torchvision(), "none of corl's own; lpips and lmms-eval bring it along"


def libraries() -> Iterator[Need]:
    """The packages that corl stands on, and those that only some of it needs."""
    yield package("transformers"), "everything"
    yield package("accelerate"), "training, several processes"
    yield package("datasets"), "data of the hub and of files"
    yield package("peft"), "model.lora"
    yield _flash(), "model.attention: flash_attention_2"


def package(name: str, remedy: str = "") -> Requirement:
    """An installed package, in a version that corl asks for; without a `remedy` of its own pip gets that version."""
    wanted = _wanted(name)
    fitting = f"pip install '{name}{wanted.specifier if wanted else ''}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Requirement(name=name, state="missing", detail="not installed", remedy=remedy or fitting)
    if wanted and not wanted.specifier.contains(found, prereleases=True):
        detail = f"{found}, and corl asks for {wanted.specifier}"
        return Requirement(name=name, state="broken", detail=detail, remedy=fitting)
    return Requirement(name=name, state="ok", detail=found)


def hub(seconds: float = SECONDS) -> Requirement:
    """Whether the hub (HF_ENDPOINT) answers; with HF_HUB_OFFLINE it is not asked."""
    if constants.HF_HUB_OFFLINE:
        detail, remedy = (
            "HF_HUB_OFFLINE is set, so nothing is asked of it",
            "Where there is a network: HF_HUB_OFFLINE=0",
        )
        return Requirement(name="hub", state="missing", detail=detail, remedy=remedy)
    begun = time.monotonic()
    fault = within(seconds, lambda: unreachable(seconds), f"{constants.ENDPOINT} says nothing for {seconds:g} s")
    if fault:
        remedy = "Look at the network, at HF_ENDPOINT and at proxies; where there is none: export HF_HUB_OFFLINE=1"
        return Requirement(name="hub", state="missing", detail=fault, remedy=remedy)
    token = "with a token" if get_token() else "without a token, which gated models ask for (hf auth login)"
    detail = f"{constants.ENDPOINT} answers in {time.monotonic() - begun:.1f} s; {token}"
    return Requirement(name="hub", state="ok", detail=detail)


def refused(wanted: Wanted, seconds: float = SECONDS) -> tuple[str, str] | None:
    """Why the hub will not give a model or data set, and what to do; None where it does, or does not say in time."""

    def ask() -> tuple[str, str] | None:
        try:
            HfApi().auth_check(wanted.name, repo_type="dataset" if wanted.kind == "data set" else "model")
        except GatedRepoError:
            page = f"{constants.ENDPOINT}/{'datasets/' * (wanted.kind == 'data set')}{wanted.name}"
            return f"{wanted.name} is gated", f"Accept its terms at {page}, then: hf auth login"
        except RepositoryNotFoundError:
            return f"the hub has no {wanted.kind} {wanted.name}", "See how it is spelt; a private one: hf auth login"
        except Exception:  # of the library under huggingface_hub: the download itself will tell
            return None
        return None

    return within(seconds, ask, None)


def within(seconds: float, ask: Callable[[], Found], late: Found) -> Found:
    """What is found in time, else `late`: looking up a name is not ended by a time limit of the request."""
    found: list[Found] = []
    thread = Thread(target=lambda: found.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return found[0] if found else late


def _gpu() -> Requirement:
    if torch.cuda.is_available():
        named = [_card(index) for index in range(torch.cuda.device_count())]
        return Requirement(name="GPU", state="ok", detail=f"{', '.join(named)}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        held = f"{memory(torch.device('cpu')) / GIB:.0f} GiB of memory"
        return Requirement(
            name="GPU",
            state="missing",
            detail=f"this torch is built for the CPU, {held}; the embedded world needs no more",
            remedy="For Janus-Pro install torch for your GPU: https://pytorch.org/get-started/locally",
        )
    return Requirement(
        name="GPU",
        state="missing",
        detail=f"torch is built for CUDA {torch.version.cuda} and finds no device",
        remedy="See whether nvidia-smi lists one, and whether its driver is new enough.",
    )


def _torchvision() -> Requirement:
    if find_spec("torchvision") is None:
        return Requirement(name="torchvision", state="ok", detail="not installed, and not needed")
    try:
        torchvision_guard.check()
    except CorlError as error:
        return Requirement(name="torchvision", state="broken", detail=error.message, remedy=error.hint or "")
    return Requirement(name="torchvision", state="ok", detail=f"{version('torchvision')} works with this torch")


def _card(index: int) -> str:
    free, whole = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)} ({free / GIB:.0f} of {whole / GIB:.0f} GiB free)"


def _flash() -> Requirement:
    remedy = "pip install flash-attn --no-build-isolation"
    found = package("flash-attn", f"{remedy}, with a GPU; or leave model.attention at sdpa")
    if found.state == "ok":
        try:
            import_module("flash_attn")
        except Exception as error:  # built for another torch: ImportError, OSError, RuntimeError
            detail = f"{found.detail} cannot be imported: {str(error).splitlines()[0]}"
            return Requirement(name=found.name, state="broken", detail=detail, remedy=f"{remedy} --force-reinstall")
    return found


def _room(name: str, folder: Path, instead: str) -> Requirement:
    place = folder.absolute()
    there = next(path for path in (place, *place.parents) if os.path.isdir(path))  # a Path may raise PermissionError
    if not os.access(there, os.W_OK | os.X_OK):
        return Requirement(
            name=name,
            state="broken",
            detail=f"{there} cannot be written",
            remedy=f"See who may write there (ls -ld {shlex.quote(str(there))}), or {instead}.",
        )
    free = shutil.disk_usage(there).free
    detail = f"{free / 1e9:.1f} GB free at {folder}"
    if free < LITTLE:
        return Requirement(name=name, state="broken", detail=detail, remedy=f"Free some space, or {instead}.")
    return Requirement(name=name, state="ok", detail=detail)


def _wanted(name: str) -> Package | None:
    """What corl's own metadata ask of a package; None where corl is not installed, or asks nothing."""
    try:
        asked = [Package(line) for line in requires("corl") or ()]
    except PackageNotFoundError:
        return None
    return next((package for package in asked if package.name == name), None)
