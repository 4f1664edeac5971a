"""The page of one or several runs: what was learnt, drawn and answered, and whether it cheats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.loader import dump
from corl_cli.core.progress import Progress
from corl_cli.core.run_dir import RunDir, write_atomic
from corl_cli.core.types import TASKS, Task
from corl_cli.eval import paper
from corl_cli.pipelines import account, eval_report, groups, looks, panels, plots
from corl_cli.pipelines.audit import Audited, audit
from corl_cli.pipelines.eval_report import Board
from corl_cli.pipelines.groups import Apart
from corl_cli.pipelines.panels import Ink
from corl_cli.pipelines.recordings import Recordings
from corl_cli.pipelines.summary import TITLES, Story, tell
from corl_cli.trainer import album

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PICTURE = "report.html", "picture.png"
AUDITED = 9  # recorded steps that a run's own page reads, at most: other processes may wait while it is made
DAMAGED = (CorlError, OSError, ValueError, LookupError, TypeError)  # what reading a damaged file may raise

T = TypeVar("T")


@dataclass(kw_only=True)
class Told:
    """One run as its page tells it; what could not be read is None or empty, and named in `missing` with the reason.

    `recorded` counts the recorded steps, of which `recordings` may have a few; `unaudited` says why there is no audit.
    """

    story: Story
    ink: Ink
    recordings: Recordings | None = None
    recorded: int = 0
    unaudited: str = ""
    audited: Audited | None = None
    apart: Apart = field(default_factory=Apart)
    boards: list[Board] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def head(self) -> dict[str, str]:
        """How far it is, in words."""
        return {
            "steps": account.steps(self.story),
            "time": account.duration(self.story),
            "state": account.state(self.story),
            "written": account.written(self.story),
        }

    @property
    def planned(self) -> int | None:
        """Steps planned, where that is known."""
        return account.num_steps(self.story)

    @property
    def read(self) -> int:
        """How many recorded steps the audit could read."""
        seen = [seen.step for steps in self.audited.record.steps.values() for seen in steps] if self.audited else []
        return len(set(seen))  # where tasks take turns, each has its own

    @property
    def basis(self) -> str:
        """On what a verdict rests, in words; empty where that is every recorded step."""
        return f"in {self.read} of {self.recorded} recorded steps" if self.read < self.recorded else ""

    @property
    def thinned(self) -> bool:
        """Whether recorded steps were left out."""
        return self.recordings is not None and len(self.recordings.steps) < self.recorded

    @property
    def raised(self) -> dict[str, int]:
        """How many alarms and warnings there are."""
        found = [alarm.severity for alarm in self.audited.found.alarms] if self.audited else []
        return {level: found.count(level) for level in ("alarm", "warning")}

    @property
    def swatch(self) -> str:
        """Its ink as a CSS background: whole or striped, as its lines are in the figures."""
        colour, cycle = self.ink
        if not cycle:
            return colour
        width = 4 // cycle
        return f"repeating-linear-gradient(90deg, {colour} 0 {width}px, transparent {width}px {width + 2}px)"

    @property
    def yaml(self) -> str:
        """The whole recipe."""
        return dump(self.story.recipe)

    def optional(self, what: str, make: Callable[[], T], default: T) -> T:
        """What `make` makes; a damaged part is named, and the default takes its place."""
        try:
            return make()
        except DAMAGED as error:
            reason = error.message if isinstance(error, CorlError) else f"{type(error).__name__}: {error}"
            self.missing.append(f"{what}: {reason}")
            return default


class Report:
    """The page about some runs, in the making; UsageError when one of the folders is no run, or is named twice.

    Of each run it reads at most so many recorded steps, or all.
    """

    def __init__(self, folders: Sequence[Path], most: int | None = None) -> None:
        for folder in folders:
            account.demand_run(folder)
        self.stories = tell(folders)
        self.album = looks.Album(items=[], looks={}, damaged=[])
        self.runs = [Told(story=story, ink=ink) for story, ink in panels.inked(self.stories)]
        for told in self.runs:
            try:
                told.recordings = Recordings(told.story.run.path)
                told.recorded = len(told.recordings.steps)
                told.recordings.steps = looks.thinned(told.recordings.steps, most or told.recorded)
            except CorlError as error:
                told.unaudited = error.message

    @property
    def work(self) -> int:
        """How many times a recorded step is read."""
        return sum(len(told.recordings.steps) + len(self._apart(told)) for told in self.runs if told.recordings)

    def write(self, page: Path, progress: Progress | None = None) -> None:
        """Read what the runs have recorded, and write the page."""
        for told in self.runs:
            self._read(told, progress)
        self.album = looks.read(self.stories)
        compared, differences = account.differences(self.stories)
        pages.write(
            page,
            "run.html",
            title=", ".join(story.label for story in self.stories),
            runs=self.runs,
            sentence=account.sentence,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            changes=account.changes(self.stories),
            curves=self._curves(),
            machine=plots.machine(self.stories) if self._begun else [],
            smoothing=panels.SMOOTHING,
            album=self.album,
            judged=looks.JUDGED,
            missing=self.missing,
            choice=groups.CHOICE,
            titles=TITLES,
            compared=compared,
            differences=differences,
            paper=paper.SOURCE,
        )

    @property
    def missing(self) -> list[str]:
        """What could not be read, and why; known when the page is written."""
        own = [reason for told in self.runs for reason in (*told.missing, *told.apart.damaged)]
        return [*self.album.damaged, *dict.fromkeys(own)]

    def _read(self, told: Told, progress: Progress | None) -> None:
        run = told.story.run
        if recordings := told.recordings:
            try:
                told.audited = audit(recordings, progress)
            except CorlError as error:
                told.unaudited = error.message
            told.apart = groups.take_apart(recordings, self._apart(told), progress)
        if (run.path / "eval").is_dir():
            told.boards = told.optional("evaluations", lambda: eval_report.boards(run.path / "eval", pictures=0), [])
        told.provenance = told.optional(run.provenance_file.name, lambda: account.provenance(told.story), {})

    def _apart(self, told: Told) -> list[int]:
        """The recorded steps whose groups are shown; of several runs the last."""
        steps = told.recordings.steps if told.recordings else []
        return groups.ends_and_middle(steps) if len(self.runs) == 1 else steps[-1:]

    @property
    def _begun(self) -> bool:
        return any(story.metrics for story in self.stories)

    def _curves(self) -> dict[Task, dict[str, list[Figure]]]:
        """The figures of each task that any run trains or reads."""
        tasks = [task for task in TASKS if any(task in story.tasks for story in self.stories) and self._begun]
        return {
            task: {
                "held out": [figure for figure in [plots.held_out(self.stories, task)] if figure],
                "rewards": plots.rewards(self.stories, task),
                "health": plots.health(self.stories, task),
            }
            for task in tasks
        }


def write(folders: Sequence[Path], page: Path, most: int | None = None) -> None:
    """Write the page of the runs in some folders, from all recorded steps or so many; UsageError when one is no run."""
    Report(folders, most).write(page)


def refresh(run: RunDir, say: Callable[[str], None]) -> None:
    """Make RUN/report.html anew, from a few recorded steps; a run goes on without it, and says why."""
    _attempt(PAGE, lambda: write([run.path], run.path / PAGE, AUDITED), say)


def finish(run: RunDir, say: Callable[[str], None]) -> None:
    """The page and the picture of a run that ends; what cannot be made is said."""
    refresh(run, say)
    _attempt(PICTURE, lambda: draw(run.path, run.path / PICTURE), say)


def _attempt(what: str, make: Callable[[], None], say: Callable[[str], None]) -> None:
    try:
        make()
    except Exception as error:  # nothing that a page meets may end a training
        reason = error.message if isinstance(error, CorlError) else f"{type(error).__name__}: {error}"
        say(f"warning: {what} was not made: {reason}")


def draw(folder: Path, file: Path) -> None:
    """Write the one picture of a run that stands alone; CorlError when it has no samples."""
    story = Story.read(folder)
    ends = looks.thinned(album.steps(story.run.samples), 2)
    write_atomic(file, plots.picture(story, [album.read(story.run.samples, step) for step in ends]))
