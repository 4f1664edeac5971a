"""`corl train`: every kind of training, from a recipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corl_cli.cli import dashboard, outcome
from corl_cli.cli.common import (
    DryRun,
    Json,
    Lines,
    NumProcesses,
    Out,
    OwnRecipe,
    Resume,
    Seed,
    Set,
    complete_checkpoint,
    console,
    table,
    with_options,
)
from corl_cli.cli.told import begin
from corl_cli.core import kinds
from corl_cli.core.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from corl_cli.core.kinds import Kind
    from corl_cli.core.loader import Draft
    from corl_cli.core.recipe import Recipe
    from corl_cli.core.run_dir import RunDir
    from corl_cli.trainer.journal import Display
    from corl_cli.trainer.probes import Reading

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN|CHECKPOINT",
        help="Weights to start from: a run, RUN@best, a folder or a hub id.",
        autocompletion=complete_checkpoint,
    ),
]

app = typer.Typer(help="Train a policy that draws and answers.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Train a policy that draws and answers."""


def _train(
    command: str,
    task: str | None = None,
    *,
    recipe: OwnRecipe = None,
    start: From = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    seed: Seed = None,
    num_processes: NumProcesses = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """The body of every command; the options are theirs too."""
    wanted = kinds.named(command, task)
    changes = [*overrides]
    if start is not None:
        changes.append(f"model.checkpoint={json.dumps(start)}")
    if seed is not None:
        changes.append(f"seed={seed}")
    draft = _read(wanted, command, recipe, changes, out if resume else None)
    from corl_cli.pipelines import checks, launch, plan, report, train

    checks.check(draft, wanted, num_processes, out if resume else None)
    loaded = draft.recipe
    remarks = []
    if resume and out and not (out / "recipe.yaml").exists():
        remarks.append(f"There is no run in {out} yet: starting one.")
    base = loaded.model.checkpoint
    if command == "refined" and start is None and not Path(base.removesuffix("@best")).is_dir():
        remarks.append(f"refined starts from {base}, not from a run of stage 1: --from RUN")
    if dry_run:
        _say(*remarks)
        rows = plan.describe(loaded, kinds.check(loaded, wanted).command, num_processes or 1)
        table([rows] if as_json else [{"plan": key, "": value} for key, value in rows.items()], as_json=as_json)
        return
    launch.relaunch(num_processes, sys.argv[1:])
    run = train.open_run(loaded, out, resume=resume, command=["corl", *sys.argv[1:]])
    if train.is_complete(loaded, run):
        typer.echo(f"{run.path} is complete.", err=True)
    elif train.is_main_process():
        done = train.steps_done(run)
        state = f"going on after step {done}" if done else f"from {loaded.model.checkpoint}"
        _say(*([] if done else remarks), f"{loaded.name} in {run.path}, {state}")
        with _screen(loaded, run, done) as screen:
            train.train(loaded, run, screen)
    else:
        train.train(loaded, run, Silent())
    if train.is_main_process():
        report.finish(run, _say)
        outcome.show(run, loaded.tracking.trackers, as_json=as_json)


def _screen(recipe: Recipe, run: RunDir, done: int) -> AbstractContextManager[Display]:
    """A dashboard where there is a terminal for it, and lines elsewhere."""
    from corl_cli.pipelines import plan, report
    from corl_cli.pipelines.summary import cancels

    steps = plan.num_steps(recipe)
    if not dashboard.has_room():
        return nullcontext(Terminal(Lines("training", steps, done, every=10.0)))
    hidden = frozenset(f"reward/{task}/total" for task in recipe.train.tasks if cancels(recipe, task))
    page, history = run.path / report.PAGE, run.read_metrics()
    told = begin(recipe, page, steps, done=done, history=history, hidden=hidden, at=time.monotonic())
    return dashboard.Dashboard(told)


def _read(wanted: list[Kind], command: str, recipe: str | None, changes: list[str], resumed: Path | None) -> Draft:
    """The recipe that was asked for; else the run's own where one is resumed, or the one of the kind."""
    from corl_cli.core.loader import examine

    if recipe is None and resumed and (resumed / "recipe.yaml").exists() and not changes:
        recipe = str(resumed / "recipe.yaml")
    if recipe is None and len(wanted) > 1:
        tasks = ", ".join(kind.command.rpartition(" ")[2] for kind in wanted)
        raise UsageError(f"corl train {command} needs a task: {tasks}.", f"For one: corl train {wanted[0].command}")
    return examine(recipe or wanted[0].recipe, changes)


@app.command(epilog="Example: corl train unified --set train.max_steps=20 --out runs/first")
@with_options(_train)
def unified(**options: Any) -> None:
    """Train drawing and answering together (the paper's stage 1)."""
    _train("unified", **options)


@app.command(epilog="Example: corl train refined --task mcq --from runs/first --out runs/mcq")
@with_options(_train)
def refined(
    task: Annotated[
        Literal["t2i", "mcq", "oe"] | None,
        typer.Option("--task", help="Drawing, multiple-choice or open-ended questions."),
    ] = None,
    **options: Any,
) -> None:
    """Train one ability on, held near the start by a KL term (the paper's stage 2)."""
    _train("refined", task, **options)


@app.command(epilog="Example: corl train separate --task t2i --out runs/t2i")
@with_options(_train)
def separate(
    task: Annotated[Literal["t2i", "mm2t"] | None, typer.Option("--task", help="Drawing or answering.")] = None,
    **options: Any,
) -> None:
    """Train one task alone (the paper's RL-Sep)."""
    _train("separate", task, **options)


@app.command(epilog="Example: corl train cycle --set train.cycle.every=10 --out runs/cycle")
@with_options(_train)
def cycle(**options: Any) -> None:
    """Train drawing and answering by turns (the paper's RL-Cycle)."""
    _train("cycle", **options)


@app.command(epilog="Example: corl train sft --set train.max_steps=50 --out runs/sft")
@with_options(_train)
def sft(**options: Any) -> None:
    """Imitate the data's own images and solutions (the paper's cold SFT)."""
    _train("sft", **options)


class Terminal:
    """Shows a run on stderr where there is no dashboard: its progress, and a line for each held-out reading."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def say(self, line: str) -> None:
        _say(line)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        rewards = [
            f"{task} {metrics[key]:.3f}" for task in ("t2i", "mm2t") if (key := f"reward/{task}/total") in metrics
        ]
        losses = [f"{task} {metrics[key]:.3f}" for task in ("t2i", "mm2t") if (key := f"nll/{task}") in metrics]
        self.bar.advance(note="reward " + ", ".join(rewards) if rewards else "nll " + ", ".join(losses))

    def readings(self, step: int, readings: Sequence[Reading]) -> None:
        words = {"t2i": "draws", "mm2t": "answers"}
        shown = [
            f"{words[r.task]} {r.mean:.3f} ± {r.stderr:.3f} (T = {r.temperature:g})"
            for r in readings
            if not r.answer_type
        ]
        self.say(f"step {step}, held out: " + ", ".join(shown))


class Silent:
    """What the other processes show."""

    def say(self, line: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def readings(self, step: int, readings: Sequence[Reading]) -> None: ...


def _say(*lines: str) -> None:
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)
