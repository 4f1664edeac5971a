"""`corl bench`: how fast corl is on this machine."""

from typing import Annotated

import typer

from corl_cli.cli.common import Json, console, table

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Measure speed on this machine."""


@app.command(epilog="Example: corl bench rollout --model world --json")
def rollout(
    model: Annotated[str, typer.Option("--model", help="'world', a folder, a run or a hub id.")] = "world",
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Distinct prompts at once.")] = 12,
    group_size: Annotated[int, typer.Option("--group-size", min=1, help="Samples per prompt.")] = 8,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed runs; the median counts.")] = 5,
    as_json: Json = False,
) -> None:
    """Sample images and answers, next to transformers' own generate on the same weights in the same run."""
    from dataclasses import asdict

    from corl_cli.pipelines.bench import bench_rollout

    speeds = bench_rollout(model, prompts, group_size, repeats)
    table([asdict(speed) for speed in speeds], as_json=as_json)
    if not as_json:
        console().print(
            f"Tokens per second, {prompts} prompts x {group_size} samples; images with guidance (CFG 5) and without. "
            "Turning tokens into pictures is left out on both sides.",
            soft_wrap=True,
        )
