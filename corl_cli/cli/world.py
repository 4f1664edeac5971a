"""`corl world`: look at the embedded world, and make its tiny model again."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corl_cli.cli.common import Resume, console, progress, table
from corl_cli.core.errors import UsageError

app = typer.Typer(
    help="The embedded world: look at it, make its model again.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(epilog="Example: corl world build --out my-janus && corl train unified --set model.checkpoint=my-janus")
def build(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")] = Path("tiny-janus"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything.")] = 0,
    resume: Resume = False,
) -> None:
    """Make the tiny Janus from nothing. Image tokenizer, copying, supervised warm-up; minutes on two cores."""
    from corl_cli.world.build import build

    with _Phases() as report:
        record = build(out, seed=seed, resume=resume, report=report)
    readings = {name: shares for name, shares in record["test"].items() if name != "items"}
    table([{"held-out, sampled at": name, **shares} for name, shares in readings.items()])
    console().print(f"{out} holds the model. Train it with --set model.checkpoint={out}", markup=False)


@app.command(epilog="Example: corl world show --split test --n 8 --out world.png")
def show(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture to write.")] = Path("world.png"),
    split: Annotated[Literal["train", "test"], typer.Option("--split", help="Which scenes.")] = "train",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the scenes.")] = 0,
    n: Annotated[int, typer.Option("--n", min=1, max=200, metavar="N", help="How many.")] = 12,
) -> None:
    """Draw a sheet of scenes. Each with its prompt, a question and the answer."""
    from corl_cli.core.pictures import Tile, sheet
    from corl_cli.world.items import WorldTriplets

    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: the picture is a PNG.", f"corl world show --out {out.with_suffix('.png')}")
    tiles = [Tile(t.image, f"{t.prompt}\n{t.question}\n> {t.answer}") for t in WorldTriplets(split, n, seed)]
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(tiles, columns=min(4, n)).image.save(out)
    console().print(f"{out} shows {n} scenes of the {split} split.", markup=False)


class _Phases:
    """One progress bar after another, as the phases of a build report themselves."""

    def __enter__(self) -> "_Phases":
        from contextlib import ExitStack

        self.bars, self.phase, self.done = ExitStack(), "", 0
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.close()

    def __call__(self, phase: str, done: int, total: int, note: str) -> None:
        if phase != self.phase:
            self.bars.close()
            self.phase, self.done = phase, 0
            self.bar = self.bars.enter_context(progress(phase, total))
        self.bar.advance(done - self.done, note)
        self.done = done
