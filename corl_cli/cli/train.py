"""`corl train`: reinforcement learning from a recipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from corl_cli.cli.common import DryRun, Json, Out, Recipe, Resume, Seed, Set, console, progress, table

if TYPE_CHECKING:
    from corl_cli.core.run_dir import RunDir
    from corl_cli.trainer.probes import Reading

DEFAULT = "world/unified"

app = typer.Typer(help="Train a policy by reinforcement learning.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Train a policy by reinforcement learning."""


@app.command(epilog="Example: corl train unified --set train.max_steps=20 --out runs/first")
def unified(
    recipe: Recipe = DEFAULT,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train drawing and answering together (the paper's stage 1)."""
    from corl_cli.core.loader import load

    if seed is not None:
        overrides = [*overrides, f"seed={seed}"]
    if resume and out and (out / "recipe.yaml").exists() and recipe == DEFAULT and not overrides:
        recipe = str(out / "recipe.yaml")  # nothing else was asked for: go on with the run's own
    loaded = load(recipe, overrides)
    if dry_run:
        from corl_cli.pipelines.plan import describe

        rows = describe(loaded)
        table([rows] if as_json else [{"plan": key, "": value} for key, value in rows.items()], as_json=as_json)
        return
    from corl_cli.pipelines import build, plan, train
    from corl_cli.pipelines.report import draw_curves, summarise

    build.check(loaded)
    run = train.open_run(loaded, out, resume=resume, command=["corl", *sys.argv[1:]])
    if train.is_complete(loaded, run):
        typer.echo(f"{run.path} is complete.", err=True)
    elif train.is_main_process():
        done = train.steps_done(run)
        nothing = "nothing to resume yet, so from the start" if resume else "from the start"
        state = f"going on after step {done}" if done else nothing
        console().print(f"{loaded.name} in {run.path}, {state}", markup=False, soft_wrap=True)
        with progress("training", plan.num_steps(loaded), done=done) as bar:
            train.train(loaded, run, Terminal(bar))
    else:
        train.train(loaded, run, Silent())
    if train.is_main_process():
        draw_curves(run)
        _finish(run, summarise(run), as_json)


class Terminal:
    """Shows a run on stderr: one bar, and a line for each held-out reading."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def say(self, line: str) -> None:
        console().print(line, markup=False, soft_wrap=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        rewards = [
            f"{task} {metrics[key]:.3f}" for task in ("t2i", "mm2t") if (key := f"reward/{task}/total") in metrics
        ]
        self.bar.advance(note="reward " + ", ".join(rewards))

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


def _finish(run: RunDir, summary: Any, as_json: bool) -> None:
    from dataclasses import asdict

    rows = [asdict(change) | {"change": change.after - change.before} for change in summary.changes]
    if as_json:
        fields = {"run": str(run.path), "step": summary.step, "seconds": summary.seconds, "peak_gib": summary.peak_gib}
        table([fields | {"changes": rows}], as_json=True)
        return
    table(
        [
            {
                "held out": f"{'drawing' if row['task'] == 't2i' else 'answering'}: {row['score']}",
                "T": row["temperature"],
                "items": row["items"],
                "before": f"{row['before']:.3f}",
                "after": f"{row['after']:.3f}",
                "change": f"{row['change']:+.3f} ± {row['stderr']:.3f}",
            }
            for row in rows
        ]
    )
    typer.echo(f"{summary.step} steps in {summary.seconds:.0f} s, {summary.peak_gib:.2f} GiB at most.", err=True)
    typer.echo(f"Curves: {run.path / 'curves.png'}. Drawings and answers through time: {run.samples}.", err=True)
    typer.echo(f"The model: {run.checkpoints}, to go on from it: --set model.checkpoint={run.path}", err=True)
