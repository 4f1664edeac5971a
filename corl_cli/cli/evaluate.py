"""corl eval: benchmarks of a checkpoint, compared and reported."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from corl_cli.cli.common import (
    DryRun,
    Json,
    Limit,
    NumProcesses,
    Out,
    OwnRecipe,
    Resume,
    Set,
    complete_checkpoint,
    complete_result,
    console,
    progress,
    remedies,
    table,
    with_options,
)
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.numbers import finite
from corl_cli.eval import BENCHMARKS

if TYPE_CHECKING:
    from corl_cli.core.progress import Progress
    from corl_cli.pipelines.evaluate import Order

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN|MODEL",
        help="A run, RUN@best, a folder or a hub id; by itself the tiny Janus.",
        autocompletion=complete_checkpoint,
    ),
]
Only = Annotated[
    Literal["generate", "score", "summarise"] | None,
    typer.Option("--only", help="One step, from the files of the steps before it."),
]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Tell the mean of what could be scored where something could not.")
]
SelfTest = Annotated[
    bool, typer.Option("--self-test", help="Try the scorer on what has a known score, and do nothing else.")
]


class Benchmarks(TyperGroup):
    """The commands, with one for each benchmark: a registered name, or the user's own `my_pkg.module:Class`."""

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        found = super().get_command(ctx, cmd_name)
        if found or cmd_name.startswith("-") or ctx.resilient_parsing:  # a shell asks, for completion
            return found
        if ":" not in cmd_name:
            from corl_cli.core.names import suggest

            hint = suggest(cmd_name, [*BENCHMARKS, "ls", "suite", "compare", "report"], "Benchmarks")
            raise UsageError(f"There is no benchmark '{cmd_name}'.", f"{hint[:1].upper()}{hint[1:]}")
        own = typer.Typer(rich_markup_mode=None, add_completion=False)
        own.command(cmd_name, help=f"Run the benchmark {cmd_name}.")(_command(cmd_name))
        return typer.main.get_command(own)


app = typer.Typer(
    cls=Benchmarks,
    help="Evaluate a checkpoint on public benchmarks and the embedded world's.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def group() -> None:
    """Evaluate a checkpoint on public benchmarks and the embedded world's."""


def _evaluate(
    name: str,
    *,
    recipe: OwnRecipe = None,
    checkpoint: CheckpointOption = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    limit: Limit = None,
    only: Only = None,
    num_processes: NumProcesses = None,
    resume: Resume = False,
    allow_partial: AllowPartial = False,
    self_test: SelfTest = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """The body of the command of every benchmark; the options are theirs too."""
    from corl_cli.pipelines import evaluate, launch, orders

    asked = orders.Asked(
        recipe=recipe,
        overrides=overrides,
        checkpoint=checkpoint,
        out=out,
        limit=limit,
        only=only,
        resume=resume,
        allow_partial=allow_partial,
    )
    [order] = orders.take(asked, [name])
    if self_test:
        _self_test(order, as_json)
        return
    if dry_run:
        rows = orders.describe(order, num_processes or 1)
        table([rows] if as_json else [{"plan": key, "": value} for key, value in rows.items()], as_json=as_json)
        if not as_json:
            remedies(evaluate.needs(order))
        return
    if not launch.started():  # else the first process does, while the others wait
        evaluate.check(order)
    launch.relaunch(num_processes, sys.argv[1:])
    _say(*orders.remarks(order, asked))
    result = evaluate.evaluate(order, Screen())
    if result is not None:
        _finish(order, result, as_json)
    elif only and evaluate.is_main_process():
        typer.echo(f"{only} is done: {order.store.folder}", err=True)


def _command(name: str) -> Any:
    @with_options(_evaluate)
    def command(**options: Any) -> None:
        _evaluate(name, **options)

    return command


for _name in BENCHMARKS:
    app.command(_name, help=f"Run the benchmark {_name}.", epilog=f"Example: corl eval {_name} --limit 8")(
        _command(_name)
    )


@app.command(epilog="Example: corl eval ls")
def ls(as_json: Json = False) -> None:
    """Every benchmark: what it measures, and whether it can run here as it is."""
    from corl_cli.pipelines import orders

    table(orders.catalogue(), as_json=as_json)


@app.command(epilog="Example: corl eval suite --limit 16 --out runs/eval/first")
def suite(
    recipe: OwnRecipe = None,
    checkpoint: CheckpointOption = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    out: Out = None,
    limit: Limit = None,
    num_processes: NumProcesses = None,
    resume: Resume = False,
    allow_partial: AllowPartial = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """All benchmarks of a recipe, one after the other; --out is the folder of their folders."""
    from corl_cli.pipelines import evaluate, launch, orders

    asked = orders.Asked(
        recipe=recipe,
        overrides=overrides,
        checkpoint=checkpoint,
        out=out,
        limit=limit,
        resume=resume,
        allow_partial=allow_partial,
    )
    wanted = orders.take(asked, None)
    if dry_run:
        plans = [orders.describe(order, num_processes or 1) for order in wanted]
        table(plans if as_json else [orders.outlook(plan) for plan in plans], as_json=as_json)
        if not as_json:
            remedies(need for order in wanted for need in evaluate.needs(order))
        return
    if not launch.started():
        orders.check_all(wanted)
    launch.relaunch(num_processes, sys.argv[1:])
    results, faults = [], []
    for order in wanted:
        _say(*orders.remarks(order, asked))
        try:
            result = evaluate.evaluate(order, Screen())
        except UsageError:
            raise
        except CorlError as fault:  # the others go on
            if launch.started() > 1:  # but for several processes, which a failure parts
                raise
            faults.append(f"{order.benchmark.name}: {fault.message}")
            _say(f"{order.benchmark.name} failed: {fault.message}")
            continue
        if result is not None:
            results.append(result)
    if evaluate.is_main_process():
        rows = [orders.overview(result) for result in results]
        table(results if as_json else rows, as_json=as_json)
        _refuse_failed(results)
    if faults:
        raise CorlError("\n".join(faults), "Go on with them: the same command with --resume")


@app.command(epilog="Example: corl eval compare runs/eval/world/world runs/first/eval/step-000020/world")
def compare(
    before: Annotated[
        Path,
        typer.Argument(metavar="A", help="A result, or a folder of results.", autocompletion=complete_result),
    ],
    after: Annotated[
        Path,
        typer.Argument(metavar="B", help="Another, of the same benchmarks.", autocompletion=complete_result),
    ],
    as_json: Json = False,
) -> None:
    """The differences B - A, item by item, with bootstrap confidence intervals."""
    from corl_cli.eval import compare as comparing

    found = comparing.compare_all(before, after)
    table([row for comparison in found for row in comparing.rows(comparison)], as_json=as_json)
    for comparison in found:
        _say(*comparing.remarks(comparison))


@app.command(epilog="Example: corl eval report runs/eval/world")
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A result, or a folder of results.", autocompletion=complete_result),
    ],
    as_json: Json = False,
) -> None:
    """A page with the numbers beside the paper's, the drawings and what failed: DIR/report.html."""
    from corl_cli.pipelines import eval_report

    path = eval_report.write(folder)
    table(eval_report.rows(folder), as_json=as_json)
    typer.echo(f"Open {path}", err=True)


class Screen:
    """Shows an evaluation on stderr; of several processes the first one speaks."""

    def say(self, line: str) -> None:
        _say(line)

    def bar(self, what: str, total: int) -> AbstractContextManager[Progress]:
        return progress(what, total)


def _finish(order: Order, result: dict[str, Any], as_json: bool) -> None:
    rates = order.store.rates()
    if as_json:
        typer.echo(json.dumps(finite(result | {"throughput": rates}), indent=2, allow_nan=False))
    else:
        from corl_cli.pipelines import orders

        table(orders.breakdown(result))
        speed = ", ".join(f"{step} {rate:.2f} samples/s" for step, rate in rates.items())
        _say(
            *orders.protocol(result),
            f"{speed}. Results: {order.store.folder}",
            f"See it: corl eval report {order.store.folder}",
        )
    _refuse_failed([result])


def _refuse_failed(results: list[dict[str, Any]]) -> None:
    """End with 1 where samples without a score leave an overall number out."""
    broken = [result for result in results if result["failed"] and not result["partial"]]
    if broken:
        lines = [
            f"{result['benchmark']}: {result['failed']} of {result['samples']} samples have no score, so there is no "
            f"overall: {next(iter(result['failures']))}"
            for result in broken
        ]
        raise CorlError(
            "\n".join(lines), "Try these again with --resume, or tell the mean of the others: --allow-partial"
        )


def _self_test(order: Order, as_json: bool) -> None:
    from corl_cli.pipelines import orders

    rows = orders.self_test(order)
    table(rows, as_json=as_json)
    if not all(row["passed"] == "yes" for row in rows):
        raise CorlError(f"The scorer of {order.benchmark.name} does not work as it should.", "See the remedies above.")


def _say(*lines: str) -> None:
    for line in lines:
        console().print(line, markup=False, soft_wrap=True)
