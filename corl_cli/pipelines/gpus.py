"""What GPUs can do, from their makers' data sheets, for plans where there is none to measure."""

from __future__ import annotations

import re

from corl_cli.core.errors import UsageError
from corl_cli.pipelines.machine import GIB, Machine


def _sheet(name: str, memory: float, bandwidth: float, bfloat16: float, float32: float) -> Machine:
    """GiB as torch finds them; TB/s; dense TFLOP/s, of the tensor cores and, for float32, of the others."""
    rates = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}
    return Machine(name=name, bandwidth=bandwidth * 1e12, arithmetic=rates, memory=int(memory * GIB))


# NVIDIA's data sheets of H100, H200, A100 (SXM), L40S, and the white paper of the Ada architecture (RTX 4090).
GPUS = {
    "h100": _sheet("H100 80GB SXM", 79.0, 3.35, 989, 67),
    "h200": _sheet("H200 141GB SXM", 139.0, 4.8, 989, 67),
    "a100-80gb": _sheet("A100 80GB SXM", 79.0, 2.039, 312, 19.5),
    "a100-40gb": _sheet("A100 40GB SXM", 39.3, 1.555, 312, 19.5),
    "l40s": _sheet("L40S 48GB", 44.4, 0.864, 362, 91.6),
    "rtx4090": _sheet("RTX 4090 24GB", 23.5, 1.008, 165.2, 82.6),
}


def is_named(machine: str, name: str) -> bool:
    """Whether a machine that calls itself so ("NVIDIA A100-SXM4-80GB") is the GPU of this name (a100-80gb)."""
    words = re.findall(r"\w+", machine.lower().replace("rtx ", "rtx"))
    return set(name.split("-")) <= set(words)


def named(name: str) -> Machine:
    """The GPU of this name; UsageError for one that is not known."""
    if name.lower() not in GPUS:
        raise UsageError(
            f"--gpu {name}: there are no figures of this GPU here.",
            f"Choose one of {', '.join(GPUS)}, or give its own: --memory GIB --bandwidth TB/s --arithmetic TFLOP/s",
        )
    return GPUS[name.lower()]
