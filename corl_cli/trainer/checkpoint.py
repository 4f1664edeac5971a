"""States of a run that survive a kill: written under a temporary name, the state file last, then renamed."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.models.base import UnifiedPolicy

STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a run is: steps done, the seconds they took, and how many steps in a row were skipped last."""

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0


def save(
    folder: Path,
    policy: UnifiedPolicy,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: State,
    keep: int,
) -> Path:
    """Save one step's state as `folder`/step-N and drop all but the newest `keep` of them.

    `policy` says how these weights are written; the optimiser's state goes by parameters' names.
    """
    path = folder / f"step-{state.step:06d}"
    partial = folder / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with _space(partial):
        partial.mkdir(parents=True)
        policy.save(partial, weights)
        torch.save(optimizer, partial / "optimizer.pt")
        (partial / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return path


@contextmanager
def _space(partial: Path) -> Iterator[None]:
    """A failed write leaves nothing behind, and is a CorlError when the disk is full.

    torch and safetensors raise errors of their own there; torch's do not say why, so the disk is asked.
    """
    try:
        yield
    except Exception as error:
        full = "No space left" in str(error) or shutil.disk_usage(partial.parent).free < 1 << 20
        shutil.rmtree(partial, ignore_errors=True)
        if not full:
            raise
        raise CorlError(
            f"No space left on the disk for a checkpoint in {partial.parent}.",
            "Free some space, then go on with --resume: the checkpoint before is whole.",
        ) from error


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def load(path: Path) -> tuple[State, dict[str, Any]]:
    """How far the run saved at `path` is, and the state of its optimiser; CorlError when it is damaged."""
    try:
        state = State(**json.loads((path / STATE).read_text(encoding="utf-8")))
        return state, torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged(path, str(error).splitlines()[0]) from error


def damaged(path: Path, reason: str) -> CorlError:
    """The error for a checkpoint that cannot be read."""
    return CorlError(
        f"The checkpoint {path} is damaged: {reason}",
        f"Remove that folder and resume from the one before it: rm -r {path}",
    )
