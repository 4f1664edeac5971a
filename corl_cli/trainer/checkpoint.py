"""States of a run that survive a kill: written under a temporary name, the state file last, then renamed.

Which checkpoint is best is read from the states themselves, so that no second file can disagree with them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.run_dir import flush
from corl_cli.models.base import UnifiedPolicy

STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a run is: steps done, the seconds they took, and how many steps in a row were skipped last.

    `scores` are held-out means by task/score, and `gain` what they are worth together (probes.gain); None where this
    step was not read, or no best checkpoint is wanted.
    """

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    gain: float | None = None


def save(
    folder: Path,
    policy: UnifiedPolicy,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Any],
    state: State,
    keep: int,
) -> Path:
    """Save one step's state as `folder`/step-N and drop all but the newest `keep` of them and the best.

    `policy` says how these weights are written; the optimiser's state goes by parameters' names. CorlError when the
    disk is full or cannot be written; what was there before is whole then.
    """
    path = folder / f"step-{state.step:06d}"
    partial = folder / f".{path.name}.partial"
    sweep(folder)
    with _whole(partial):
        partial.mkdir(parents=True)
        policy.save(partial, weights)
        with (partial / "optimizer.pt").open("wb") as file:  # given a path, torch does not say why it cannot write
            torch.save(optimizer, file)
        (partial / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        for written in (*partial.rglob("*"), partial):
            flush(written)
        _drop(path)
        partial.rename(path)
        flush(folder)  # before older ones go
    kept = best(folder)
    for old in complete(folder)[:-keep]:
        if old != kept:
            _drop(old)
    return path


def sweep(folder: Path) -> None:
    """Remove what a kill left of checkpoints that were being written or dropped."""
    for torn in folder.glob(".step-*"):
        shutil.rmtree(torn, ignore_errors=True)


def _drop(path: Path) -> None:
    """Remove a checkpoint, if there; by another name first, so that a kill leaves no half of one under its own."""
    if path.exists():
        shutil.rmtree(path.rename(path.with_name(f".{path.name}.dropped")))


@contextmanager
def _whole(partial: Path) -> Iterator[None]:
    """A failed write leaves nothing behind; CorlError where the disk is to blame."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = _disk(error)
        if reason is None:
            raise
        raise CorlError(
            f"No checkpoint can be written to {partial.parent}: {reason}.",
            "Mend that, then go on with --resume: the checkpoint before is whole.",
        ) from error


def _disk(error: BaseException | None) -> str | None:
    """What the disk said, which errors of torch and safetensors hide; None where the error is not of writing."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, SafetensorError):
            return str(error)
        error = error.__context__
    return None


def complete(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def best(folder: Path) -> Path | None:
    """The whole checkpoint with the largest gain, the later of equal ones; None where none has a gain."""
    gains = {path: _state(path).gain for path in complete(folder)}
    compared = [(value, path) for path, value in gains.items() if value is not None]
    return max(compared)[1] if compared else None


def load(path: Path) -> tuple[State, dict[str, Any]]:
    """How far the run saved at `path` is, and the state of its optimiser; CorlError when it is damaged."""
    state = _state(path)
    try:
        return state, torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:
        raise damaged(path, str(error).splitlines()[0]) from error


def _state(path: Path) -> State:
    try:
        return State(**json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error


def damaged(path: Path, reason: str) -> CorlError:
    """The error for a checkpoint that cannot be read."""
    return CorlError(
        f"The checkpoint {path} is damaged: {reason}",
        f"Remove that folder and resume from the one before it: rm -r {path}",
    )
