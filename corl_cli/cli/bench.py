"""`corl bench`: how fast corl is on this machine."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import (
    Json,
    Set,
    complete_checkpoint,
    complete_recipe,
    complete_reward,
    console,
    progress,
    table,
)
from corl_cli.core.numbers import finite

if TYPE_CHECKING:
    from corl_cli.pipelines.bench import Bench
    from corl_cli.pipelines.bench_models import Subject

BEYOND = (
    "warning: A share is above 100 %: this machine was busy when its rates were measured, or caches hold the weights. "
    "Measure again."
)
SET_SIZES = [1000, 2000, 4000]

Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="'world'; random weights of a size: small, tiny, janus-pro-1b, janus-pro-7b; a folder, a run or a hub id.",
        autocompletion=complete_checkpoint,
    ),
]
Prompts = Annotated[
    int | None,
    typer.Option("--prompts", min=1, help="Distinct prompts at once; without, 12 for the world's and else 1."),
]
StepPrompts = Annotated[
    int | None, typer.Option("--prompts", min=1, help="Prompts of a step, in place of the recipe's.")
]
GroupSize = Annotated[int, typer.Option("--group-size", min=1, help="Samples per prompt.")]
UpdateGroupSize = Annotated[int, typer.Option("--group-size", min=2, help="Samples per prompt.")]
StepGroupSize = Annotated[
    int | None, typer.Option("--group-size", min=2, help="Samples per prompt, in place of the recipe's.")
]
MicroBatchSize = Annotated[
    int | None, typer.Option("--micro-batch-size", min=1, help="Prompts per backward pass, in place of the recipe's.")
]
NewTokens = Annotated[
    int | None, typer.Option("--new-tokens", min=1, help="Longest answer, in place of the model's default.")
]
Repeats = Annotated[int | None, typer.Option("--repeats", min=1, help="Timed runs after a warm-up; the median counts.")]
Recipes = Annotated[
    list[str],
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Settings of the steps; may be repeated. Without: the paper's two stages.",
        autocompletion=complete_recipe,
    ),
]

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Measure speed on this machine."""


@app.command(epilog="Example: corl bench rollout --model tiny --prompts 1 --json")
def rollout(
    model: Model = "world",
    prompts: Prompts = None,
    group_size: GroupSize = 8,
    new_tokens: NewTokens = None,
    repeats: Repeats = None,
    as_json: Json = False,
) -> None:
    """Sample images and answers, next to transformers' own generate on the same weights in the same run."""
    from corl_cli.pipelines.bench_models import opened
    from corl_cli.pipelines.bench_rollout import CFG_WEIGHTS, bench_rollout, readable

    with opened(model) as subject:
        number = prompts or subject.prompts
        with _bench(repeats or subject.repeats, "Rollouts", len(CFG_WEIGHTS) + 1) as bench:
            rows = _dicts(bench_rollout(subject, bench, number, group_size, new_tokens))
    _report("rollout", subject, bench, rows, map(readable, rows), as_json)
    ends = "random weights end no answer before its limit" if subject.shape else "answers end where the model ends them"
    _say(
        f"{number} prompts x {group_size} samples; images with guidance (CFG 5) and without; {ends}. Turning tokens "
        "into pictures is left out on both sides. GiB: corl's peak, above the weights.",
        as_json,
    )


@app.command(epilog="Example: corl bench update --model tiny --prompts 1 --json")
def update(
    model: Model = "world",
    prompts: Prompts = None,
    group_size: UpdateGroupSize = 8,
    new_tokens: NewTokens = None,
    micro_batch_size: MicroBatchSize = None,
    repeats: Repeats = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Make the gradients of one stage-1 update, next to a plain update of the same weights in the same run.

    The plain one runs transformers' own forward passes over padded rows, each completion with a prompt and an image of
    its own, and takes the logits of all completion tokens at once. Its micro-batches are the same.
    """
    from corl_cli.pipelines.bench_models import opened, settings, stages
    from corl_cli.pipelines.bench_update import bench_update, readable

    with opened(model) as subject:
        given = settings(
            prompts=prompts or subject.prompts,
            group_size=group_size,
            micro_batch_size=micro_batch_size,
            new_tokens=new_tokens,
        )
        recipe = stages(subject, [], [*given, *overrides])[0]
        with _bench(repeats or subject.repeats, "Updates", len(recipe.train.tasks)) as bench:
            rows = _dicts(bench_update(subject, recipe, bench))
    _report("update", subject, bench, rows, map(readable, rows), as_json)
    _say(
        f"{rows[0]['prompts']} prompts x {rows[0]['group_size']} samples, forward and backward passes without an "
        "optimiser step. plain: transformers' forward passes, a prompt and an image for each completion, the logits of "
        "all completion tokens at once. d logps, d gradient: how far the two ways are apart. GiB: corl's peak, above "
        "the weights.",
        as_json,
    )


@app.command(epilog="Example: corl bench step --model janus-pro-1b --steps 20 --json")
def step(
    recipe: Recipes = [],  # noqa: B006 (typer copies it)
    model: Model = "world",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps that count, after one that does not.")] = 10,
    prompts: StepPrompts = None,
    group_size: StepGroupSize = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Take real training steps, to see what they cost here: seconds of each phase, tokens per second, peak memory.

    Random weights need no download, and nothing is kept. Images and questions are the embedded world's,
    rewards those that need no weights of their own.
    """
    from corl_cli.pipelines.bench_models import opened, settings, stages
    from corl_cli.pipelines.bench_step import bench_step, readable, remarks

    with opened(model) as subject:
        recipes = stages(subject, recipe, [*settings(prompts=prompts, group_size=group_size), *overrides])
        with _bench(steps, "Steps", len(recipes) * (steps + 1)) as bench:
            rows = _dicts(bench_step(subject, recipes, bench))
        data = f"with the embedded world's data at {subject.side} pixels"
    _report("step", subject, bench, rows, (line for row in rows for line in readable(row)), as_json)
    _say(
        f"Steps {data}; rewards: likeness of pixels, matching, accuracy, format (what others cost: corl bench "
        f"rewards). Seconds are means of {steps} step{'s' * (steps > 1)}; peak_gib has weights and optimiser in it.",
        as_json,
    )
    for row in rows:
        for line in remarks(row):
            _say(line, as_json)


@app.command(epilog="Example: corl bench memory --model janus-pro-1b --prompts 1 --set model.lora={}")
def memory(
    recipe: Recipes = [],  # noqa: B006 (typer copies it)
    model: Model = "world",
    prompts: StepPrompts = None,
    group_size: StepGroupSize = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Take two training steps one phase at a time: the peak of memory in each, next to what was estimated."""
    from corl_cli.pipelines.bench_memory import ROUNDS, bench_memory, readable
    from corl_cli.pipelines.bench_models import opened, settings, stages

    with opened(model) as subject:
        recipes = stages(subject, recipe, [*settings(prompts=prompts, group_size=group_size), *overrides])
        with _bench(ROUNDS, "Steps", ROUNDS * len(recipes)) as bench:
            rows = _dicts(bench_memory(subject, recipes, bench))
    _report("memory", subject, bench, rows, map(readable, rows), as_json)
    held = "tensors on the GPU" if bench.device.type == "cuda" else "the process"
    _say(f"Peaks of {held}, above what was held before the model was made; weights and optimiser are in them.", as_json)


@app.command(epilog="Example: corl bench rewards --reward lpips-vgg --reward lpips-vgg-unshared --image-size 256")
def rewards(
    reward: Annotated[
        list[str],
        typer.Option(
            "--reward",
            metavar="NAME",
            help="A reward or a measure of cycle; may be repeated.",
            autocompletion=complete_reward,
        ),
    ] = [],  # noqa: B006 (typer copies it)
    model: Annotated[
        str,
        typer.Option("--model", help="'world', a folder, a run or a hub id.", autocompletion=complete_checkpoint),
    ] = "world",
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


@contextmanager
def _bench(repeats: int, what: str, total: int) -> Iterator["Bench"]:
    """This machine, measured, and a bar for so many pieces of work."""
    from corl_cli.pipelines.bench import Bench
    from corl_cli.pipelines.machine import measure, this_device

    device = this_device()
    machine = measure(device)
    with progress(what, total) as shown:
        yield Bench(machine=machine, device=device, repeats=repeats, shown=shown)


def _dicts(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _report(
    command: str,
    subject: "Subject",
    bench: "Bench",
    rows: Sequence[Mapping[str, Any]],
    shown: Iterable[Mapping[str, Any]],
    as_json: bool,
) -> None:
    """Print a table of what is shown of the rows; with --json the rows, and what they were measured on."""
    from corl_cli.pipelines.bench import beyond
    from corl_cli.pipelines.machine import versions

    if beyond(rows):
        console().print(BEYOND, soft_wrap=True)
    if not as_json:
        table(list(shown))
        _say(f"Measured: {subject.weights}, on {bench.machine}.", as_json)
        for row in rows:
            if row.get("note"):
                _say(f"{_named(row)}: {row['note']}.", as_json)
        return
    report = {
        "command": command,
        "model": subject.name,
        "weights": subject.weights,
        "device": bench.device.type,
        "machine": asdict(bench.machine),
        "versions": versions(),
        "rows": rows,
    }
    typer.echo(json.dumps(finite(report), indent=2, allow_nan=False))


def _named(row: Mapping[str, Any]) -> str:
    return row["task"] + (f" with CFG {row['cfg_weight']:g}" if row.get("cfg_weight") else "")


def _say(line: str, as_json: bool) -> None:
    if not as_json:
        console().print(line, soft_wrap=True)
