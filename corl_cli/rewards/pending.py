"""Work in a thread of its own, while the policy goes on sampling in the main one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from threading import Thread
from typing import Generic, TypeVar

import torch

Given = TypeVar("Given")
Found = TypeVar("Found")

GRACE = 5.0  # seconds that leaving early waits for the thread to end


class Pending(Generic[Given, Found]):
    """What `work(given)` returns or raises, from a thread: without gradients, on a GPU in a stream of its own.

    `given` and all that it holds on a GPU stay until the end. As a context it leaves no thread behind: one that still
    works when the context is left, because something else has failed or was interrupted, is told to end.
    """

    def __init__(self, work: Callable[[Given], Found], given: Given) -> None:
        self.given = given
        self._work = work
        self._error: BaseException | None = None
        self._stream = _stream(torch.cuda.current_device()) if torch.cuda.is_available() else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())  # which is still making what is given
        self._thread = Thread(target=self._run, name="pending", daemon=True)  # no exit waits minutes for Java
        self._thread.start()

    def result(self) -> Found:
        """Wait for the end; raises what the work has raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found

    def __enter__(self) -> Pending[Given, Found]:
        return self

    def __exit__(self, *error: object) -> None:
        """Raise SystemExit in a thread that still works, and wait for GRACE seconds.

        A daemon thread that comes back from one of torch's operations while the interpreter ends aborts the process.
        """
        if self._thread.is_alive():
            thread = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(SystemExit))
            self._thread.join(GRACE)

    def _run(self) -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(self._stream):
                self._found = self._work(self.given)
                if self._stream is not None:
                    self._stream.synchronize()
        except BaseException as error:  # raised by `result`
            self._error = error


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for the whole process: streams are lent from a pool, by turns, and one that is being captured is no other's.

    Those of a high priority have a pool of their own, which no capture takes from.
    """
    return torch.cuda.Stream(device, priority=-1)
