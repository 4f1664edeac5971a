"""Repeating a step of fixed shapes without launching its kernels one by one: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache

import torch

SPARE = 2 << 30  # bytes of a GPU that are free before a step is recorded: a recording can get none that others cache


class Graphs:
    """Runs steps that read and write tensors at fixed addresses; on a GPU they are recorded once and replayed.

    A step for which nothing else than `key` decides shapes is run as it is the first time, so that everything it needs
    is loaded, recorded the second time, and replayed from then on. Its own Python is not run in a replay. Elsewhere
    than on a GPU steps are simply run.
    """

    def __init__(self, device: torch.device) -> None:
        self._place = _place(device) if device.type == "cuda" else None
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Take the step that `key` names."""
        if self._place is None or key not in self._graphs:
            self._graphs[key] = None
            step()
            return
        graph = self._graphs[key] or _record(step, *self._place)
        self._graphs[key] = graph
        graph.replay()


@cache
def _place(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.MemPool]:
    """One stream and one pool of memory for all recordings of the process.

    Graphs are replayed in turns, and what they hand on is not in the pool; what a dead graph leaves there serves the
    next one, if it was recorded in the same stream. Each stream also has a workspace of cuBLAS for good.
    """
    return torch.cuda.Stream(device), torch.cuda.MemPool()


def _record(step: Callable[[], None], stream: torch.cuda.Stream, pool: torch.cuda.MemPool) -> torch.cuda.CUDAGraph:
    """The graph of a step, which is not taken.

    Rewards may run in another thread meanwhile, so only this one is kept from what a recording forbids.
    (torch.cuda.graph would return all cached memory to the driver every time.)
    """
    if torch.cuda.mem_get_info()[0] < SPARE:
        torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(pool.id, capture_error_mode="thread_local")  # type: ignore[arg-type]
        try:
            step()
        finally:  # or the process could free no memory any more
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph
