"""A study from a recipe to its table: every arm made and read for every seed, whatever stops it in between."""

from __future__ import annotations

import gc
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from corl_cli.core.errors import CorlError, Interrupted, UsageError
from corl_cli.core.loader import derive
from corl_cli.core.numbers import finite
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir, write_atomic
from corl_cli.pipelines import abilities, build, launch, merge, plan, report, study_report, train
from corl_cli.pipelines.study_arms import START, STUDIES, Arm, Study
from corl_cli.trainer.journal import Display

T = TypeVar("T")
READING = 1 / 2  # work of a held-out sample in that of a sample trained on: 7.5 and 14 ms on a CPU


class Screen(Protocol):
    """Where a study shows itself while it goes on."""

    def say(self, line: str) -> None: ...

    def training(self, title: str, steps: int, done: int) -> AbstractContextManager[Display]:
        """Open a run's own display."""
        ...

    def merging(self, title: str, tensors: int) -> AbstractContextManager[Progress]:
        """Open a merge's own progress."""
        ...


@dataclass(frozen=True)
class Job:
    """One arm for one seed; the start is the same for all seeds."""

    arm: Arm
    seed: int | None

    @property
    def name(self) -> str:
        """Of its run, its merged weights and its reading."""
        return self.arm.name if self.seed is None else f"{self.arm.name}-seed-{self.seed}"


def describe(kind: str, recipe: Recipe) -> list[dict[str, object]]:
    """The arms of a study with what they stand on and what they cost, for one seed.

    The last row is the sum over all seeds.
    """
    study = STUDIES[kind](recipe)
    rows: list[dict[str, object]] = [
        {
            "arm": arm.name,
            "made": _made(arm),
            "from": " + ".join(arm.parents) or ("" if arm.name == START else START),
            "steps": arm.steps,
            "samples": arm.samples,
        }
        for arm in study.arms.values()
    ]
    seeds = len(recipe.study.seeds)
    total = {name: seeds * sum(getattr(arm, name) for arm in study.arms.values()) for name in ("steps", "samples")}
    return [*rows, {"arm": f"all, {seeds} seed{'s' if seeds > 1 else ''}", "made": "", "from": "", **total}]


def open_study(kind: str, recipe: Recipe, out: Path | None, *, resume: bool, command: Sequence[str]) -> Path:
    """The study's folder; the main process makes it, the others wait for its name.

    CorlError when the GPU is too small for an arm; UsageError when `out` exists and `resume` is not asked for, or when
    it holds another study or another recipe.
    """
    launch.check(recipe)
    for arm in STUDIES[kind](recipe).arms.values():
        if arm.recipe:
            plan.check_memory(arm.recipe, launch.join().num_processes)
    return _on_main(lambda: _open(kind, recipe, out, resume, command))


def run(kind: str, recipe: Recipe, folder: Path, screen: Screen) -> None:
    """Make and read what is still missing of an open study, then its table and plot, also after each whole seed.

    Interrupted (a CorlError) when it was asked to stop; every finished run, merge and reading is kept.
    """
    study = STUDIES[kind](recipe)
    walk = _Walk(study=study, recipe=recipe, folder=folder.resolve(), screen=screen)
    with _stopping(kind, folder):
        for seed in recipe.study.seeds:
            for job in walk.jobs:
                if job.seed in (seed, None):
                    walk.do(job)
            _on_main(partial(study_report.write, study, recipe, folder, through=seed))
    PartialState().destroy_process_group()


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return PartialState().is_main_process


@dataclass(kw_only=True)
class _Walk:
    """The way through the jobs of a study, with the time that is left."""

    study: Study
    recipe: Recipe
    folder: Path
    screen: Screen
    begun: float = field(default_factory=time.monotonic)
    worked: float = 0.0  # by this process
    trained: bool = False  # by this process; the time of a reading alone says little

    def __post_init__(self) -> None:
        arms = [arm for arm in self.study.arms.values() if arm.name != START]
        self.jobs = [Job(self.study.arms[START], None)]
        self.jobs += [Job(arm, seed) for seed in self.recipe.study.seeds for arm in arms]

    def do(self, job: Job) -> None:
        """Make and read one arm for one seed, unless that is done."""
        reading = study_report.reading_file(self.folder, job.name)
        if reading.exists():
            return
        gc.collect()  # the last run's weights, before there are others
        checkpoint, work = self._checkpoint(job), self._work(job)
        self.screen.say(self._title(job))
        if job.arm.recipe:
            self._train(job, job.arm.recipe)
        elif job.arm.parents:
            self._merge(job)
        with launch.watching():
            scores = abilities.measure(self.recipe, checkpoint)
            found = {"checkpoint": checkpoint, "scores": [asdict(score) for score in scores]}
            _on_main(lambda: write_atomic(reading, json.dumps(finite(found)) + "\n"))
        self.worked += work

    def _train(self, job: Job, recipe: Recipe) -> None:
        model = self._checkpoint(Job(self.study.arms[job.arm.parents[0]], job.seed)) if job.arm.parents else None
        changes = {"seed": job.seed} | ({"model": {"checkpoint": model}} if model else {})
        own = derive(recipe, changes)
        out = self.folder / "runs" / job.name
        if model:
            _on_main(lambda: _follow(RunDir(out), model))
        opened = train.open_run(own, out, resume=True, command=["corl", "study"])
        if not train.is_complete(own, opened):
            with self.screen.training(job.name, plan.num_steps(own), train.steps_done(opened)) as display:
                train.train(own, opened, display, last=False)
            self.trained = True
        with launch.watching():
            _on_main(partial(report.finish, opened, self.screen.say))

    def _merge(self, job: Job) -> None:
        out = Path(self._checkpoint(job))
        if out.exists():
            return
        sources = [self._checkpoint(Job(self.study.arms[name], job.seed)) for name in job.arm.parents]

        def act() -> None:
            ready = merge.check(sources, out=out, base=self._base(job), method="gaussian")
            with self.screen.merging(job.name, len(ready.specs)) as progress:
                merge.carry_out(ready, progress)

        with launch.watching():
            _on_main(act)

    def _base(self, job: Job) -> str:
        """What the parents of a merge began from."""
        above = self.study.arms[job.arm.parents[0]].parents
        return self._checkpoint(Job(self.study.arms[above[0] if above else START], job.seed if above else None))

    def _checkpoint(self, job: Job) -> str:
        """Where a job's weights are, as model.checkpoint may be; absolute, so that OUT may be spelt in many ways."""
        if job.arm.recipe:
            return str(self.folder / "runs" / job.name)
        return str(self.folder / "merged" / job.name) if job.arm.parents else self.recipe.model.checkpoint

    def _work(self, job: Job) -> float:
        """What is left to do of a job, in samples trained on."""
        probes = self.recipe.eval.probes
        whole, done = job.arm.batches, 0
        if whole:
            done = train.steps_done(RunDir(self.folder / "runs" / job.name))
        return job.arm.rows * (whole - done) / max(1, whole) + READING * 4 * (probes.items if probes else 0)

    def _title(self, job: Job) -> str:
        missing = [other for other in self.jobs if not study_report.reading_file(self.folder, other.name).exists()]
        left = sum(self._work(other) for other in missing)
        spent = time.monotonic() - self.begun
        hours = f", about {_clock(spent / self.worked * left)} left" if self.trained else ""
        return f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.name}: {_made(job.arm)}{hours}"


def _follow(run: RunDir, parent: str) -> None:
    """Let a run that was begun from its parent know where that is, now that the study may have been moved."""
    if run.recipe_file.exists() and run.recipe().model.checkpoint != parent:
        run.moved(parent, build.locate(parent))


def _made(arm: Arm) -> str:
    if arm.recipe is None:
        return "merged, gaussian" if arm.parents else "as it is"
    tasks = (" by turns: " if arm.recipe.train.cycle else " ").join(["", " + ".join(arm.recipe.train.tasks)]).strip()
    kinds = "" if "t2i" in arm.recipe.train.tasks else f" ({', '.join(arm.recipe.data.answer_types)})"
    return f"{'imitated' if arm.recipe.train.method == 'sft' else 'reinforced'}, {tasks}{kinds}"


def _clock(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _open(kind: str, recipe: Recipe, out: Path | None, resume: bool, command: Sequence[str]) -> Path:
    if resume and out is None:
        raise UsageError(
            "--resume goes on in --out, and no --out was given.",
            f"Name the study: corl study {kind} --out runs/NAME --resume",
        )
    path = out or RunDir.next_free(Path("runs"), recipe.name)
    if resume and (path / "recipe.yaml").exists():
        there = RunDir.open(path, recipe).provenance().get("study")
        if there != kind:
            what = f"the study {there}" if there else "a run"
            raise UsageError(f"{path} is {what}, not the study {kind}.", "Name another folder with --out.")
        return path
    return RunDir.create(path, recipe, command=command, facts={"study": kind}, folders=False).path


@contextmanager
def _stopping(kind: str, folder: Path) -> Iterator[None]:
    """Say how to go on with the study, not with the run that was under way in it."""
    hint = f"Go on with: corl study {kind} --out {folder} --resume"
    try:
        yield
    except Interrupted as error:
        raise Interrupted(error.message, hint, signal=error.exit_code - 128) from error
    except KeyboardInterrupt as error:
        raise Interrupted("Stopped by SIGINT; what was finished is kept.", hint, signal=signal.SIGINT) from error


def _on_main(act: Callable[[], T]) -> T:
    """Let the main process act, and all processes have what came of it, or its error."""
    state = launch.join()
    outcome: list[T | CorlError | None] = [None]
    if state.is_main_process:
        try:
            outcome[0] = act()
        except CorlError as error:
            outcome[0] = error
    broadcast_object_list(outcome)
    if isinstance(outcome[0], CorlError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]
