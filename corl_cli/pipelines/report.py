"""The page of one or several runs: what was learnt, drawn and answered, and whether it cheats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.run_dir import RunDir

PAGE = "report.html"


def write(folders: Sequence[Path], page: Path) -> None:
    """Write the page of the runs in some folders; CorlError when one is no run."""
    pages.write(page, "run.html", runs=[RunDir(folder) for folder in folders])


def refresh(run: RunDir, say: Callable[[str], None]) -> None:
    """Make RUN/report.html anew; a run goes on without it, and says why."""
    try:
        write([run.path], run.path / PAGE)
    except CorlError as error:
        say(f"warning: {PAGE} was not made: {error.message}")
