"""The live dashboard of `corl train` in a terminal: one panel on stderr, and what the run says above it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from corl_cli.cli.common import console
from corl_cli.cli.panel import panel
from corl_cli.cli.told import Told
from corl_cli.core.errors import Interrupted

if TYPE_CHECKING:
    from corl_cli.trainer.probes import Reading

REFRESH = 0.5  # seconds


def has_room() -> bool:
    """Whether stderr is a terminal that a panel can be drawn in: one whose cursor moves, and that shows blocks."""
    talk = console()
    return sys.stderr.isatty() and talk.is_interactive and talk.encoding.startswith("utf")


class Dashboard:
    """Shows a run that is under way. One thread draws; the run, and the handlers of signals, only tell.

    A line is printed at the next refresh, so that a signal that comes while something is drawn finds no lock taken.
    """

    def __init__(self, told: Told) -> None:
        from rich.live import Live

        self.told = told
        self.lines: deque[str] = deque()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.terminals = [sys.stderr, *([sys.stdout] if sys.stdout.isatty() else [])]
        self.live = Live(
            get_renderable=lambda: panel(self.told, *console().size, now=time.monotonic()),
            console=console(),
            auto_refresh=False,
            redirect_stdout=sys.stdout in self.terminals,  # what is piped stays with its reader
        )

    def __enter__(self) -> Dashboard:
        """SIGTERM ends the run also before its loop listens, with the cursor back."""
        self.before = signal.signal(signal.SIGTERM, self._stop)
        try:
            with self._terminal():
                self.live.start(refresh=True)
            self.thread.start()
        except BaseException:  # a Ctrl-C just then
            self._leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """The last state stays in the terminal."""
        self._leave()

    def say(self, line: str) -> None:
        self.told = self.told.said(line)
        self.lines.append(line)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.told = self.told.stepped(step, metrics, time.monotonic())

    def readings(self, step: int, readings: Sequence[Reading]) -> None:
        self.told = self.told.heard(readings)

    def _leave(self) -> None:
        self.done.set()
        try:
            if self.thread.is_alive():
                self.thread.join()
            self._draw()
        finally:
            try:
                with self._terminal():
                    self._stop_drawing()
            finally:
                signal.signal(signal.SIGTERM, self.before)

    def _stop_drawing(self) -> None:
        try:
            self.live.stop()
        except IndexError:  # a Ctrl-C amid its start: rich takes back a hook that it had not set
            console().show_cursor(True)

    def _watch(self) -> None:
        while not self.done.wait(REFRESH):
            self._draw()

    def _draw(self) -> None:
        with self._terminal():
            while self.lines:
                console().print(self.lines.popleft(), markup=False, soft_wrap=True)
            self.live.refresh()

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        """Where the terminal has gone away, the run goes on: nothing is drawn, and what is said goes nowhere."""
        try:
            yield
        except OSError:
            self.done.set()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in self.terminals:
                os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

    def _stop(self, number: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(
            f"Stopped by {signal.Signals(number).name} while no step was under way.",
            f"Go on with --out {self.told.page.parent} --resume",
            signal=number,
        )
