"""Answers of judges on disk, so that a second run asks, and pays, for nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.run_dir import write_atomic


def default_folder() -> Path:
    """$CORL_CACHE/judge, else $XDG_CACHE_HOME/corl/judge, else ~/.cache/corl/judge."""
    if own := os.environ.get("CORL_CACHE"):
        return Path(own).expanduser() / "judge"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "corl", "judge")


class AnswerCache:
    """One small JSON file for each answer, named by the sha256 of all that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writing = threading.Lock()  # two threads with the same question share a temporary name

    def key(self, asked: dict[str, Any]) -> str:
        """The sha256 of what was asked, of whom and how: JSON, images and all."""
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """The stored answer; None where there is none, or its file is damaged."""
        try:
            answer = json.loads(self._file(key).read_text(encoding="utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, key: str, answer: str, facts: dict[str, Any]) -> None:
        """Store an answer; `facts` are for whoever reads the file. CorlError when it cannot be written."""
        try:
            with self._writing:
                write_atomic(self._file(key), json.dumps({**facts, "answer": answer}, indent=1) + "\n")
        except CorlError as error:
            raise CorlError(error.message, "Name another folder for judges' answers with CORL_CACHE=FOLDER.") from error

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
