"""Repeating a step of fixed shapes without launching its kernels one by one: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """Runs steps that read and write tensors at fixed addresses; on a GPU they are recorded once and replayed.

    A step for which nothing else than `key` decides shapes is run as it is the first time, so that everything it needs
    is loaded, recorded the second time, and replayed from then on. Its own Python is not run in a replay. Elsewhere
    than on a GPU steps are simply run.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Take the step that `key` names."""
        if self._stream is None or key not in self._graphs:
            self._graphs[key] = None
            step()
            return
        graph = self._graphs[key] or self._record(step, self._stream)
        self._graphs[key] = graph
        graph.replay()

    def _record(self, step: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """All graphs use one pool: they are replayed in turns, and what they hand on is not in it.

        Rewards may run in another thread meanwhile, so only this one is kept from what a recording forbids.
        (torch.cuda.graph would also return all cached memory to the driver, every time.)
        """
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            step()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        return graph
