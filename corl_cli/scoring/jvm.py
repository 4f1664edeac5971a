"""Java: where it is, and programs that stay and answer one JSON line with another."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement

INSTALL = "Install a Java runtime: apt install default-jre-headless, or conda install openjdk."
GRACE = 5.0  # seconds from the end of a program's output to its exit


def java() -> str:
    """The java that is run: $JAVA_HOME/bin/java where JAVA_HOME is set, else the first on PATH ('java' if none)."""
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else shutil.which("java") or "java"


def requirement() -> Requirement:
    """Whether there is a Java that runs, which one, and its version."""
    program = java()
    if shutil.which(program) is None:
        looked = f"JAVA_HOME is set, and there is no {program}" if os.environ.get("JAVA_HOME") else "none on PATH"
        return Requirement(name="Java", state="missing", detail=looked, remedy=INSTALL)
    try:
        found = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        said = found.stderr.strip()
    except (OSError, subprocess.SubprocessError) as error:
        said = str(error)
    version = re.search(r'version "([^"]+)"', said)
    if version is None:
        why = said.splitlines()[0] if said else "it says no version"
        return Requirement(name="Java", state="broken", detail=f"{program} does not run: {why}", remedy=INSTALL)
    return Requirement(name="Java", state="ok", detail=f"{program}, version {version[1]}")


class Service:
    """A resident program that answers every JSON line on stdin with one on stdout.

    It is started by the first question, and again when it has died or this process is a fork of the one that started
    it. It ends with this object, with the interpreter, and, since its input ends, with a process that is killed. It
    has a session of its own, so that Ctrl-C is heard by corl alone. For one thread at a time.
    """

    def __init__(self, name: str, command: Sequence[str], *, seconds: float, hint: str | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.seconds = seconds
        self.hint = hint
        self._running: _Running | None = None
        self._epitaph = ""

    def ask(self, question: object) -> Any:
        """The answer to a question.

        A program that dies over it is started again and asked once more. CorlError, with `hint` and the last lines of
        its stderr, when it dies again, or takes longer than `seconds` (it is killed then, and the next question starts
        it anew); CorlError also when it cannot be started, answers {"error": reason}, or what is no JSON.
        """
        line = json.dumps(question) + "\n"
        answer = self._exchange(line) or self._exchange(line)
        if not answer:
            raise CorlError(f"{self.name} ended twice over one request {self._epitaph}", self.hint)
        try:
            said = json.loads(answer)
        except ValueError as error:
            self.close()
            raise CorlError(f"{self.name} gave no JSON but {answer.strip()[:200]!r}.") from error
        if "error" in said:
            raise CorlError(f"{self.name} failed: {said['error']}")
        return said

    def close(self) -> None:
        """End the program; the next question starts it again."""
        if self._running:
            self._running.stop()
            self._running = None

    @property
    def pid(self) -> int | None:
        """The process that answers; None before the first question."""
        return self._running.process.pid if self._running else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_running": None}

    def _exchange(self, line: str) -> str:
        """The answer to a line; empty when the program died over it."""
        running = self._alive()
        watch = threading.Timer(self.seconds, running.expire)
        watch.daemon = True
        watch.start()
        try:
            answer = running.answer(line)
        except BaseException:
            self.close()  # an answer left unread would be taken for that of the next question
            raise
        finally:
            watch.cancel()
        if not answer:
            self._epitaph, self._running = running.epitaph(), None
            if running.expired:
                raise CorlError(f"{self.name} gave no answer within {self.seconds:g} s {self._epitaph}", self.hint)
        return answer

    def _alive(self) -> _Running:
        if self._running and (self._running.owner != os.getpid() or self._running.process.poll() is not None):
            self.close()
        if self._running is None:
            self._running = _Running(self._start())
            weakref.finalize(self, self._running.stop)
        return self._running

    def _start(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise CorlError(f"{self.name} cannot be started: {error}", INSTALL) from error


@dataclass
class _Running:
    """A program that runs, the process that started it, and the last lines of its stderr."""

    process: subprocess.Popen[str]
    expired: bool = False

    def __post_init__(self) -> None:
        assert self.process.stderr
        self.owner = os.getpid()
        self.said: deque[str] = deque(maxlen=4)
        self.listener = threading.Thread(target=_listen, args=(self.process.stderr, self.said), daemon=True)
        self.listener.start()

    def answer(self, line: str) -> str:
        """The next line on stdout after one on stdin; empty when the program ended instead."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            return ""
        return answer if answer.endswith("\n") else ""

    def expire(self) -> None:
        """End a program that takes too long."""
        self.expired = True
        self.process.kill()

    def epitaph(self) -> str:
        """The exit code of a program that ended, and what it said last."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        self.stop()
        return f"(exit code {self.process.returncode}): {' / '.join(self.said) or 'it said nothing'}"

    def stop(self) -> None:
        """End the program; a fork leaves that of its parent alone."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        self.listener.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            with suppress(BrokenPipeError):  # a question that was never read
                stream.close()


def _listen(stream: Iterable[str], said: deque[str]) -> None:
    """Keep what tells most of what a program says: no frames of stack traces."""
    said.extend(line for raw in stream if (line := raw.strip()) and not line.startswith(("at ", "... ")))
