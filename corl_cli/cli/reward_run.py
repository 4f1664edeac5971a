"""`corl reward replay | audit`: the rewards of a run, from its recorded rollouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import Json, Set, complete_reward, complete_run, console, progress, table
from corl_cli.cli.reward import app
from corl_cli.core.errors import UsageError
from corl_cli.core.numbers import finite

if TYPE_CHECKING:
    from corl_cli.pipelines.audit import Audit
    from corl_cli.pipelines.replay import Replay

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_run)]
SHOWN = 10  # groups in the table
SAMPLES = 3  # of an alarm, in text


@app.command(epilog="Example: corl reward replay runs/first --set rewards.t2i.cycle.weight=2")
def replay(
    run: Run,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="One recorded step; all by default.")] = None,
    rewards: Annotated[
        list[str],
        typer.Option(
            "--reward",
            metavar="NAME|MAPPING",
            help="In place of its task's rewards; may be repeated.",
            autocompletion=complete_reward,
        ),
    ] = [],  # noqa: B006 (typer copies it)
    overrides: Set = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Reward a run's recorded rollouts again. With other rewards or weights, and what that would have changed.

    Without --reward and --set every score is made again, as a check of the recording.
    """
    from corl_cli.pipelines.recordings import Recordings
    from corl_cli.pipelines.replay import replay

    recordings = Recordings(run, step)
    with progress("replaying", len(recordings.steps)) as bar:
        found = replay(recordings, overrides, rewards, bar)
    if as_json:
        _json(found)
    else:
        _show(found)


@app.command(epilog="Example: corl reward audit runs/first")
def audit(
    run: Run,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page to write; RUN/audit.html by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether a run learns or cheats. Statistics of its groups, and alarms with the samples that raised them.

    Alarms are findings, not failures: the exit code stays 0.
    """
    from corl_cli.pipelines.audit import audit, tables, write
    from corl_cli.pipelines.recordings import Recordings

    page = out or run / "audit.html"
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"{page}: the page is HTML.", f"corl reward audit {run} --out {page}.html")
    recordings = Recordings(run)
    with progress("auditing", len(recordings.steps)) as bar:
        audited = audit(recordings, bar)
    write(audited, page)
    found = audited.found
    if as_json:
        _json(found)
    else:
        for title, rows in tables(found).items():
            if rows:
                typer.echo(title)
                table(rows)
                typer.echo()
        _show_alarms(found)
    console().print(f"With pictures: {page}", markup=False, soft_wrap=True)


def _show_alarms(found: Audit) -> None:
    for alarm in found.alarms:
        typer.echo(f"{alarm.severity}: {alarm.name} ({alarm.task})\n  {alarm.seen}\n  {alarm.remedy}")
        for sample in alarm.samples[:SAMPLES]:
            text = " | ".join(part.replace("\n", " ") for part in (sample.prompt, sample.output, sample.note) if part)
            typer.echo(f"    step {sample.step}, row {sample.row}: {text}")
        if len(alarm.samples) > SAMPLES:
            typer.echo(f"    and {len(alarm.samples) - SAMPLES} more in the page")
    if not found.alarms:
        typer.echo("No alarm in what was checked.")
    typer.echo(found.basis)
    for task, names in found.checked.items():
        if names:
            typer.echo(f"Checked ({task}): {', '.join(names)}.")
    for reason in found.unchecked:
        typer.echo(f"Not checked: {reason}.")
    for remark in found.remarks:
        typer.echo(f"{remark}.")


def _show(found: Replay) -> None:
    from corl_cli.pipelines.recordings import NEGATIVE_SHARE

    table(
        [
            {
                "task": reward.task,
                "reward": reward.reward,
                "weight": _change(reward.weight_before, reward.weight_after),
                "share of variance": _change(reward.share_before, reward.share_after, ".1%"),
                "scores": reward.scores,
                "largest difference": "-" if reward.largest_difference is None else f"{reward.largest_difference:.1e}",
            }
            for reward in found.rewards
        ]
    )
    if any((share or 0) < 0 for reward in found.rewards for share in (reward.share_before, reward.share_after)):
        typer.echo(f"{NEGATIVE_SHARE}.")
    typer.echo()
    table(
        [
            {
                "task": task.task,
                "groups": task.groups,
                "compared": task.compared,
                "rank correlation": _number(task.rank_correlation),
                "best changes": _share(task.best_changed),
                "signs flip": _share(task.signs_flipped),
                "zero variance": f"{_share(task.zero_variance_before)} -> {_share(task.zero_variance_after)}",
                "masked": f"{_share(task.masked_before)} -> {_share(task.masked_after)}",
            }
            for task in found.tasks
        ]
    )
    if moved := [group for group in found.groups if group.rank_correlation < 1][:SHOWN]:
        typer.echo("\nGroups whose order changes most")
        table(
            [
                {
                    "step": group.step,
                    "task": group.task,
                    "group": group.group,
                    "rank correlation": f"{group.rank_correlation:.2f}",
                    "best sample": f"{group.best_before} -> {group.best_after}" if group.best_changed else "the same",
                    "signs flip": group.signs_flipped,
                    "prompt": group.prompt.replace("\n", " "),
                }
                for group in moved
            ]
        )
    for weights in dict.fromkeys(found.weights.values()):
        steps = ", ".join(str(step) for step, given in found.weights.items() if given == weights)
        line = f"Rewards that read the policy were given, at step {steps}: {weights}."
        console().print(line, markup=False, soft_wrap=True)


def _json(found: Any) -> None:
    from dataclasses import asdict

    typer.echo(json.dumps(finite(asdict(found)), indent=2, ensure_ascii=False, allow_nan=False))


def _change(before: float | None, after: float | None, style: str = ".3g") -> str:
    same = before is not None and after is not None and math.isclose(before, after, abs_tol=5e-4)
    return _number(after, style) if same else f"{_number(before, style)} -> {_number(after, style)}"


def _number(value: float | None, style: str = ".3g") -> str:
    return "-" if value is None or math.isnan(value) else format(value, style)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
