"""`corl bench`: how fast corl is on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corl_cli.cli.common import Json, Set, complete_recipe, console, progress, table

SET_SIZES = [1000, 2000, 4000]

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


@app.command(epilog="Example: corl bench step --size janus-pro-1b --steps 10")
def step(
    recipe: Annotated[
        list[str],
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="Settings of the steps; may be repeated. Without: the paper's two stages.",
            autocompletion=complete_recipe,
        ),
    ] = [],  # noqa: B006 (typer copies it)
    size: Annotated[
        Literal["world", "small", "janus-pro-1b"],
        typer.Option("--size", help="The tiny Janus of the world, or random weights of a size."),
    ] = "world",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps that count, after one that does not.")] = 10,
    prompts: Annotated[
        int | None, typer.Option("--prompts", min=1, help="Prompts of a step, in place of the recipe's.")
    ] = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Take real training steps, to see what they cost here: seconds of each phase, tokens per second, peak memory.

    Nothing is downloaded and nothing kept. Images, questions and tokenizer are the embedded world's, rewards those that
    need no weights of their own.
    """
    from dataclasses import asdict

    from corl_cli.pipelines.bench_step import bench_step, side, stages

    recipes = stages(recipe, size, prompts, overrides)
    costs = []
    with progress("Steps", len(recipes) * (steps + 1)) as shown:
        for cost in bench_step(recipes, size, steps, shown):
            costs.append(asdict(cost))
    table(costs, as_json=as_json)
    if not as_json:
        weights = "The shipped tiny Janus" if size == "world" else f"Random weights of the shapes of {size}"
        console().print(
            f"{weights}, with the embedded world's tokenizer and data at {side(size)} pixels; rewards: likeness of "
            "pixels, matching, accuracy, format (what others cost: corl bench rewards). Seconds are means of "
            f"{steps} step{'s' * (steps > 1)}; peak_gib has weights and optimiser in it.",
            soft_wrap=True,
        )


@app.command(epilog="Example: corl bench rewards --reward lpips-vgg --reward lpips-vgg-unshared --image-size 256")
def rewards(
    reward: Annotated[
        list[str], typer.Option("--reward", metavar="NAME", help="A reward or a measure of cycle; may be repeated.")
    ] = [],  # noqa: B006 (typer copies it)
    model: Annotated[str, typer.Option("--model", help="'world', a folder, a run or a hub id.")] = "world",
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="Distinct prompts in the batch.")] = 4,
    group_size: Annotated[int, typer.Option("--group-size", min=1, help="Samples per prompt.")] = 8,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed runs; the median counts.")] = 3,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Random images of this side, in place of the world's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What every reward costs for one batch of samples, and every measure that cycle can be made of.

    LPIPS is run with the real image of a group read once (lpips-vgg) and read for each drawing (lpips-vgg-unshared);
    SPICE with a JVM that stays and with one for each call. What has no weights here runs on random ones.
    """
    from dataclasses import asdict

    from corl_cli.pipelines.bench_rewards import Batch, bench_rewards, parts, readable

    names = parts(reward)
    costs = []
    with Batch(prompts, group_size, image_size, model) as batch, progress("Rewards", len(names)) as shown:
        for cost in bench_rewards(names, batch, repeats):
            costs.append(cost)
            shown.advance(note=cost.part or cost.reward)
    table([asdict(cost) if as_json else readable(cost) for cost in costs], as_json=as_json)
    if not as_json:
        console().print(
            f"One batch of {prompts} prompts x {group_size} samples on {batch.device.type}. memory_mib: the peak above "
            "what was held before, weights and started programs included, the policy not.",
            soft_wrap=True,
        )


@app.command(epilog="Example: corl bench data --items 10000 --items 100000 --num-proc 4")
def data(
    items: Annotated[
        list[int], typer.Option("--items", min=1, metavar="N", help="Size of a set; may be repeated.")
    ] = SET_SIZES,
    num_proc: Annotated[int, typer.Option("--num-proc", min=1, metavar="N", help="Worker processes.")] = 1,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Where files go meanwhile, in place of /tmp.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build sets of several sizes from generated images, to see what an item costs. Memory, and milliseconds.

    The images are JPEGs of 500x400 with captions and questions: some 50 KB each, twice, on the disk meanwhile.
    """
    from dataclasses import asdict

    from corl_cli.pipelines.bench_data import bench_data

    costs = []
    with progress("Builds", len(set(items))) as shown:
        for cost in bench_data(items, num_proc, scratch):
            costs.append(asdict(cost))
            shown.advance(note=f"{cost.items:,} items")
    table(costs, as_json=as_json)
    if not as_json:
        console().print(
            f"{num_proc} worker process{'es' if num_proc > 1 else ''}. ms_per_further_item: beyond those of the row "
            "above, without what starting costs. peak_mib: the largest process of the build.",
            soft_wrap=True,
        )
