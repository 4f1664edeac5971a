"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

import torch


class Memory:
    """The peak of memory since it was made, above what was held then."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        gc.collect()
        self.older = set(_children())
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.start: float | None = torch.cuda.memory_allocated() / 2**20
        else:
            self.start = _new_peak()

    def peak(self) -> float | None:
        """MiB; without a GPU, of this process and those that it has started. None where the system does not tell."""
        if self.start is None:
            return None
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() / 2**20 - self.start
        started = [pid for pid in _children() if pid not in self.older]
        return _status("self", "VmHWM") - self.start + sum(_status(pid, "VmHWM") for pid in started)


def _children() -> list[str]:
    """The processes that this one has started, as far as Linux lists them."""
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def _new_peak() -> float | None:
    """Have Linux begin a new peak of this process: the MiB that it holds now; None where that cannot be done."""
    if sys.platform != "linux":
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what was freed must not be used again unseen
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("self", "VmRSS")


def _status(pid: str, entry: str) -> float:
    """A line of /proc/PID/status in MiB; 0 for a process that has ended."""
    found = re.search(rf"{entry}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
