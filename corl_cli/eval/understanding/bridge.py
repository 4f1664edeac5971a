"""lmms-eval in a process of its own: it takes seconds to import, reseeds random numbers, and patches other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.eval.understanding import data

MODULE = "corl_cli.eval.understanding.child"

# A process of a launch would wait for the others; its device is the policy's.
_LAUNCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OURS = {
    "API_TYPE": "openai",  # whose place corl's judge takes
    "USE_LLM_JUDGE": "False",  # a second, unasked judge of the reasoning tasks
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONUNBUFFERED": "1",
}


def converse(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The child's records, as they come, of one job in JSON; CorlError with what it could not do.

    Leaving the iteration early ends the child; when this process dies, the child sees that its parent is another one.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log,
        tempfile.TemporaryDirectory() as scratch,  # some tasks write files for servers where they are
    ):
        child = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=scratch,
            env=_environment(),
            encoding="utf-8",
        )
        assert child.stdin
        assert child.stdout
        try:
            with suppress(BrokenPipeError), child.stdin:
                json.dump(job, child.stdin)
            for line in child.stdout:
                record = json.loads(line)
                if "error" in record:
                    raise CorlError(record["error"], record["hint"])
                yield record
            if code := child.wait():
                raise CorlError(f"lmms-eval's process ended with code {code}: {_last(log.fileno())}")
        finally:
            child.terminate()
            child.stdout.close()
            child.wait()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LAUNCH and "ACCELERATE" not in name}
    path = os.pathsep.join(map(os.path.abspath, sys.path))  # the child finds what this process finds
    return kept | _OURS | {"PYTHONPATH": path, data.CACHE: str(data.cache())}


def _last(log: int) -> str:
    """The last line that a log says something in."""
    size = os.fstat(log).st_size
    text = os.pread(log, 4096, max(0, size - 4096)).decode("utf-8", errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
