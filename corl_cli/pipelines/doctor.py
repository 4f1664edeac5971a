"""Whether this machine has what corl can make use of."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.models import torchvision_guard
from corl_cli.pipelines.catalogue import entries


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at, its state, and what it is for."""

    name: str
    state: Literal["ok", "download", "missing", "broken"]
    detail: str
    remedy: str
    purpose: str


def diagnose() -> list[Finding]:
    """The libraries and the hardware, then everything that any reward may need, each thing once."""
    return [*_machine(), *_rewards()]


def _machine() -> Iterator[Finding]:
    yield _finding(Requirement(name="python", state="ok", detail=platform.python_version()), "everything")
    yield _finding(
        Requirement(name="torch", state="ok", detail=f"{torch.__version__}, {_threads()}"),
        "everything",
    )
    yield _finding(_gpu(), "training at full size")
    yield _finding(_torchvision(), "none of corl's own; lpips and lmms-eval bring it along")


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


def _gpu() -> Requirement:
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        named = [f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards]
        return Requirement(name="GPU", state="ok", detail=f"{', '.join(named)}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        return Requirement(
            name="GPU",
            state="missing",
            detail="this torch is built for the CPU; the embedded world needs no more",
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


def _rewards() -> Iterator[Finding]:
    """The requirements of every reward and choice, one finding for each name with all that it is for."""
    found: dict[str, Requirement] = {}
    purposes: dict[str, dict[str, None]] = {}
    for entry in entries():
        for purpose, requirements in [
            *((f"{entry.name} ({choice.option}: {choice.value})", choice.requirements) for choice in entry.choices),
            (entry.name, entry.requirements),
        ]:
            for requirement in requirements:
                found.setdefault(requirement.name, requirement)
                purposes.setdefault(requirement.name, {})[purpose] = None
    for name, requirement in found.items():
        yield _finding(requirement, ", ".join(purposes[name]))


def _finding(requirement: Requirement, purpose: str) -> Finding:
    return Finding(
        name=requirement.name,
        state=requirement.state,
        detail=requirement.detail,
        remedy=requirement.remedy,
        purpose=purpose,
    )
