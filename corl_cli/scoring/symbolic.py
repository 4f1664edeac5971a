"""Whether two expressions are the same: asked of one resident process, that hostile algebra may end but not hold up.

Model text is read by a grammar of our own (scoring/expressions.py); sympy sees trees alone, in scoring/algebra.py.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from corl_cli.core.errors import CorlError
from corl_cli.scoring.expressions import Tree, is_atom, is_sum_of_numbers, read_expression

TIMED_OUT = "timed out"
FAILED = "failed"

_PROGRAM = Path(__file__).with_name("algebra.py")


class Algebra:
    """The resident process: started when first asked, started anew when it has ended. Threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def compare(self, one: Tree, other: Tree) -> str:
        """`equal`, `different` or `undecided`; `timed out` past its processor time, `failed` when it died otherwise.

        CorlError when it cannot be started.
        """
        request = json.dumps([one, other]) + "\n"
        with self._lock:
            for _ in range(2):  # again when something else ended the process: the system, short of memory
                reply, status = self._ask(request)
                if reply or status == -signal.SIGPROF:
                    return reply or TIMED_OUT
        return FAILED

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: str) -> tuple[str, int]:
        """The reply to one line; empty, with the exit status, when the process has ended over it."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(request)
            process.stdin.flush()
            if reply := process.stdout.readline().strip():
                return reply, 0
        except BrokenPipeError:
            pass  # it ended while it had nothing to do
        except BaseException:
            self.close()  # interrupted: its reply must not be taken for the next one's
            raise
        self._process = None
        process.communicate()
        return "", process.returncode

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the run
        )
        assert process.stdout
        if process.stdout.readline().strip() != "ready":
            process.kill()
            lines = process.communicate()[1].strip().splitlines() or ["no reason given"]
            raise CorlError(
                f"The process that compares mathematical answers does not start: {lines[-1]}",
                "See whether python -c 'import sympy' works; pip install sympy.",
            )
        self._process = process
        return process


_algebra = Algebra()
atexit.register(lambda: _algebra.close())


def _forked() -> None:
    """A forked child has a process, and a lock, of its own."""
    global _algebra
    _algebra = Algebra()


os.register_at_fork(after_in_child=_forked)


@lru_cache(maxsize=4096)
def same_expression(gold: str, answer: str) -> tuple[bool, str] | None:
    """Whether two cleaned, lower-case texts are one expression or equation, and the rule; None unless both are one.

    A lone number or symbol is mathematics only beside an expression. A comparison that ends without a verdict is
    wrong, and its rule says so: were it missing, an answer could leave its group in order to dodge a zero.
    """
    trees = [tree for text in (gold, answer) if (tree := read_expression(text))]
    if len(trees) < 2 or any(map(is_sum_of_numbers, trees)) or all(map(is_atom, trees)):
        return None
    verdict = _algebra.compare(*trees)
    known = verdict in ("equal", "different")
    return verdict == "equal", "same expression" if known else f"symbolic comparison {verdict}"
