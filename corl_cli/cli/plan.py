"""`corl plan`: what a recipe takes on a GPU, before there is one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import Json, RecipeArgument, Set, console, table
from corl_cli.cli.train import From
from corl_cli.core.numbers import finite

if TYPE_CHECKING:
    from corl_cli.pipelines.forecast import Forecast
    from corl_cli.pipelines.machine import Machine


def plan(
    recipe: RecipeArgument,
    start: From = None,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="h100, h200, a100-80gb, a100-40gb, l40s or rtx4090; else the one here.")
    ] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=1, metavar="GIB", help="Of the GPU.")] = None,
    bandwidth: Annotated[
        float | None, typer.Option("--bandwidth", min=0.001, metavar="TB/S", help="Of the GPU's memory.")
    ] = None,
    arithmetic: Annotated[
        float | None, typer.Option("--arithmetic", min=0.01, metavar="TFLOP/S", help="In the recipe's precision.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="So many of them, one process on each.")] = 1,
    bench: Annotated[
        list[Path],
        typer.Option(
            "--bench", metavar="FILE", help="What corl bench rollout, update or step --json printed; may be repeated."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    as_json: Json = False,
) -> None:
    """Estimate memory, seconds and hours. Exits 1 when it does not fit, and says what to change."""
    from corl_cli.core.loader import load
    from corl_cli.pipelines.efficiency import Efficiency
    from corl_cli.pipelines.forecast import forecast

    own = [*overrides, *([f"model.checkpoint={json.dumps(start)}"] if start is not None else [])]
    dtype = load(recipe, own).model.dtype
    given = {"memory": memory, "bandwidth": bandwidth, "arithmetic": arithmetic}
    efficiency = Efficiency.read(bench)
    efficiency.check(gpu, [f"--{name}" for name in ("bandwidth", "arithmetic") if given[name] is not None])
    machine, told = _machine(gpu, given, dtype, efficiency.machine)
    found = forecast(lambda adds: load(recipe, [*own, *adds]), machine, gpus, efficiency)
    _show(recipe, found, told, as_json)
    if not found.fits:
        raise typer.Exit(1)


def _machine(
    name: str | None, given: dict[str, float | None], dtype: str, measured: Machine | None
) -> tuple[Machine, str]:
    """What a bench has measured, else the GPU that was named, else the one here, else an assumed one; and its story."""
    from dataclasses import replace

    import torch

    from corl_cli.pipelines import gpus, machine
    from corl_cli.pipelines.machine import GIB

    own = [key for key, value in given.items() if value is not None]
    if measured:
        found, story = measured, "measured by the bench"
    elif name is None and torch.cuda.is_available():
        found, story = machine.measure(machine.this_device()), "measured here"
    elif name is None and own:
        found, story = gpus.named("h100"), f"the rest as of an {gpus.named('h100').name}, data sheet"
        found = replace(found, name="a GPU of these figures")
    else:
        found, story = gpus.named(name or "h100"), "data sheet" if name else "assumed, there is no GPU here; data sheet"
    if given["memory"] is not None:
        found = replace(found, memory=int(given["memory"] * GIB))
    if given["bandwidth"] is not None:
        found = replace(found, bandwidth=given["bandwidth"] * 1e12)
    if given["arithmetic"] is not None:
        found = replace(found, arithmetic=found.arithmetic | {dtype: given["arithmetic"] * 1e12})
    parts = [f"{', '.join(own)} as given"] if own else []
    return found, "; ".join(parts if len(own) == len(given) else [*parts, story])


def _show(recipe: str, found: Forecast, told: str, as_json: bool) -> None:
    from corl_cli.pipelines.machine import GIB

    peak, hours = found.peak, found.hours
    total = sum(found.seconds.values())
    if as_json:
        report = {
            "recipe": recipe,
            "gpu": asdict(found.machine) | {"source": told},
            "gpus": found.gpus,
            "micro_batch_size": found.micro_batch_size,
            "memory": asdict(peak) | {"total": peak.total},
            "fits": found.fits,
            "seconds": found.seconds | {"step": total},
            "steps": found.steps,
            "hours": hours,
            "gpu_hours": None if hours is None else hours * found.gpus,
            "changes": [asdict(change) for change in found.changes],
            "basis": found.basis,
        }
        typer.echo(json.dumps(finite(report), indent=2, allow_nan=False))
        return
    words = {
        "weights": "weights",
        "optimiser": "optimiser's moments",
        "sampler": "sampler's copy",
        "reference": "frozen reference",
        "gradients": "gradients of all tasks, while updating",
        "activations": f"activations of {found.micro_batch_size} triplets, while updating",
        "sampling": "keys, values and logits, while sampling",
    }
    rows: list[dict[str, Any]] = [
        {"memory": word, "GiB": f"{getattr(peak, name) / GIB:.2f}"} for name, word in words.items()
    ]
    verdict = "fits" if found.fits else "does not fit"
    room = found.machine.memory / GIB
    table(
        [
            *rows,
            {"memory": f"at most (sampling or updating): {verdict} into {room:.1f}", "GiB": f"{peak.total / GIB:.2f}"},
        ]
    )
    typer.echo()
    table(
        [{"step": phase, "seconds": f"{value:.3g}"} for phase, value in found.seconds.items()]
        + [{"step": "all, without rewards", "seconds": f"{total:.3g}"}]
    )
    count = f"{found.gpus} x {found.machine.name}"
    if hours is not None:
        typer.echo(
            f"\n{found.steps:,} step{'s' * (found.steps != 1)} on {count}: "
            f"{_figures(hours)} hours, {_figures(hours * found.gpus)} GPU-hours"
        )
    if found.changes:
        typer.echo("\nWhat would need less, the least harmful first (corl train calls --gpus --num-processes):")
        table(
            [
                {"add": change.add, "GiB": f"{change.needed / GIB:.1f}", "fits": "yes" if change.fits else "no"}
                for change in found.changes
            ]
        )
    for line in [f"Planned for {found.machine.name} ({told}).", *found.basis]:
        console().print(line, soft_wrap=True)


def _figures(value: float) -> str:
    """Two of them at least."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
