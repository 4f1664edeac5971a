"""What a machine can do at best, measured: bytes a second between memory and arithmetic units, operations a second."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from corl_cli import __version__

GIB = 2**30
REPEATS = 5
LIBRARIES = ("torch", "transformers", "accelerate", "peft")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is moved and multiplied to measure a kind of device, and how often between two looks at the clock."""

    copied: int  # bytes; far more than caches hold
    side: dict[str, int]  # of the square matrices, by dtype
    calls: int


SCALES = {
    "cpu": Scale(copied=256 << 20, side={"float32": 1024, "bfloat16": 256}, calls=1),
    "cuda": Scale(copied=1 << 30, side={"float32": 4096, "bfloat16": 8192}, calls=10),
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A CPU with the threads used, or a GPU: bytes/s of a large copy, flop/s of a large product by dtype, bytes held.

    Weights that stay in the caches of a processor are read faster than the bandwidth says.
    """

    name: str
    bandwidth: float
    arithmetic: dict[str, float]
    memory: int

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {dtype}" for dtype, rate in self.arithmetic.items())
        return f"{self.name}: {self.bandwidth / 1e9:.3g} GB/s, {rates}, {self.memory / GIB:.0f} GiB"


def this_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure(device: torch.device) -> Machine:
    """The machine behind `device`, measured in a second or two: the median of several copies and products each."""
    scale = SCALES[device.type]
    found = Machine(
        name=_name(device),
        bandwidth=_bandwidth(device, scale),
        arithmetic={dtype: _arithmetic(device, dtype, side, scale.calls) for dtype, side in scale.side.items()},
        memory=memory(device),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or what was copied would count as taken
    return found


def memory(device: torch.device) -> int:
    """Bytes that the GPU has; without one, the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory(device: torch.device) -> int:
    """Bytes of the GPU that nothing holds; without one, all of the machine's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else memory(device)


def versions() -> dict[str, str]:
    """Of corl, Python and the libraries that speed depends on; of CUDA where torch is built for it."""
    found = {"corl": __version__, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, a GPU's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _bandwidth(device: torch.device, scale: Scale) -> float:
    """Bytes read and written by a copy, a second."""
    source = torch.ones(scale.copied // 4, device=device)
    target = torch.empty_like(source)
    return 2 * scale.copied / _typical(lambda: target.copy_(source), device, scale.calls)


def _arithmetic(device: torch.device, dtype: str, side: int, calls: int) -> float:
    """Operations of a matrix product, two per multiply-add, a second."""
    left, right = torch.randn(2, side, side, device=device).to(getattr(torch, dtype)).unbind()
    product = torch.empty_like(left)
    return 2 * side**3 / _typical(lambda: torch.matmul(left, right, out=product), device, calls)


def _typical(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """Seconds of one call, the median of several looks, after one that does not count."""

    def often() -> None:
        for _ in range(calls):
            call()

    often()
    return statistics.median(seconds(often, device) for _ in range(REPEATS)) / calls


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).name)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' * (threads > 1)}"


def processor() -> str:
    """The model of the CPU as Linux names it, else as Python does."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
