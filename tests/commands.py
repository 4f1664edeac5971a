"""corl as a user types it: in the process of the tests, where imports are paid for once, or in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from corl_cli.cli.app import app

Done = subprocess.CompletedProcess[str]


def corl(*words: str | Path, cwd: Path, code: int | None = None) -> Done:
    """A command in this process, which is left as it was; what would end in a traceback is raised.

    A user's own module that it imports stays imported: give it a name that no other test has.
    """
    typed = [str(word) for word in words]
    with patch.dict(os.environ), pytest.MonkeyPatch.context() as patched:
        patched.chdir(cwd)
        patched.setattr(sys, "argv", ["corl", *typed])  # a run records it
        patched.setattr(sys, "path", [*sys.path])
        done = CliRunner().invoke(app, typed, prog_name="corl", catch_exceptions=False)
    assert code in (None, done.exit_code), done.output
    return subprocess.CompletedProcess(typed, done.exit_code, done.stdout, done.stderr)


def process(*words: str | Path, cwd: Path, launch: tuple[str, ...] = ()) -> Done:
    """A command in a process of its own, or in those of a launcher (`launch` are its words)."""
    return subprocess.run(
        command(*words, launch=launch), cwd=cwd, capture_output=True, text=True, timeout=900, preexec_fn=hearing
    )


def started(*words: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """A command that a test stops."""
    return subprocess.Popen(command(*words), cwd=cwd, text=True, preexec_fn=hearing, **options)


def command(*words: str | Path, launch: tuple[str, ...] = ()) -> list[str]:
    return [sys.executable, "-m", *launch, "corl_cli", *map(str, words)]


def hearing() -> None:
    """A shell ignores Ctrl-C for what it starts in the background, and so would all that the tests start."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings of a recipe as they are typed."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def wait_for(run: Path, process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], Any]) -> None:
    """Until a line of the run's metrics is the wanted one."""
    file = run / "metrics.jsonl"
    while not any(wanted(json.loads(line)) for line in _lines(file) if line.endswith("}")):
        assert process.poll() is None, f"it ended before, with {process.returncode}"
        time.sleep(0.05)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
