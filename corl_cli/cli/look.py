"""`corl generate` and `corl ask`: a checkpoint, or two side by side, tried by hand."""

from __future__ import annotations

import json
import shlex
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corl_cli.cli.common import Json, complete_checkpoint, console, table
from corl_cli.cli.evaluate import CheckpointOption, Screen
from corl_cli.core.errors import UsageError
from corl_cli.core.run_dir import writing

if TYPE_CHECKING:
    from corl_cli.pipelines.hands_on import Made, Trial, Wish

Compare = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="RUN|MODEL",
        help="Another checkpoint beside it, with the same seeds.",
        autocompletion=complete_checkpoint,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the sampling: the same seed draws the same.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", min=0, metavar="T", help="0 is greedy; by itself as in training.")
]


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw, each in quotes.")] = [],  # noqa: B006
    checkpoint: CheckpointOption = None,
    compare: Compare = None,
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="More prompts, one a line.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=64, metavar="N", help="Drawings of each prompt.")] = 4,
    cfg: Annotated[
        float | None,
        typer.Option("--cfg", min=1, help="Classifier-free guidance, 1 is none; by itself as in training."),
    ] = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The picture to write; a new drawings.png by itself.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw prompts with a checkpoint, or with two side by side. On one page, a row for each prompt."""
    from corl_cli.pipelines import hands_on, shown

    place = _place(out)
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        _say(f"{len(prompts)} prompts of one word each; for one prompt: corl generate {shlex.quote(' '.join(prompts))}")
    wish = hands_on.Wish(
        task="t2i",
        texts=[*prompts, *(hands_on.lines(file) if file else [])],
        n=n,
        seed=seed,
        temperature=temperature,
        cfg=cfg,
    )
    trial, made = _try(wish, checkpoint, compare)
    again = place.exists()
    with writing(place, then="try again"):
        shown.page(trial, made).save(place)
    if as_json:
        _json(trial, {"picture": str(place), "drawings": shown.facts(made)})
    elif rows := shown.verdicts(trial, made):
        table(rows)
    _say(f"{place} {'now ' if again else ''}shows {len(made)} drawing{'s' * (len(made) > 1)} ({trial.settings}).")


def ask(
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="What to ask, each in quotes.")],
    image: Annotated[Path, typer.Option("--image", metavar="FILE", help="The picture that is asked about.")],
    checkpoint: CheckpointOption = None,
    compare: Compare = None,
    n: Annotated[int, typer.Option("--n", min=1, max=64, metavar="N", help="Answers to each question.")] = 1,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, metavar="T", help="By itself 0, greedy, or with --n as in training."),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Ask a checkpoint, or two, about a picture. Answers as they are written, and what is taken from them."""
    from corl_cli.pipelines import hands_on, shown

    wish = hands_on.Wish(
        task="mm2t",
        texts=questions,
        n=n,
        seed=seed,
        temperature=temperature,
        picture=hands_on.picture(image),
    )
    trial, made = _try(wish, checkpoint, compare)
    if as_json:
        _json(trial, {"image": str(image), "answers": shown.facts(made)})
    elif len(made) == 1:
        typer.echo(shown.answer(made[0]))
    else:
        table(shown.answers(trial, made))
    _say(f"Asked about {image} ({trial.settings}).")
    if cut := sum(one.truncated for one in made):
        _say(f"{cut} of {len(made)} answers were cut at the limit of new tokens.")


def _try(wish: Wish, checkpoint: str | None, compare: str | None) -> tuple[Trial, list[Made]]:
    from corl_cli.pipelines.hands_on import Trial

    trial = Trial([checkpoint or "world", *([compare] if compare else [])], wish)
    if checkpoint is None:
        _say("No --checkpoint was given: this is the shipped tiny Janus of the embedded world.")
    for remark in trial.remarks:
        _say(remark)
    return trial, trial.run(Screen())


def _place(out: Path | None) -> Path:
    """Where the page goes, its folder made: before minutes of drawing."""
    if out is None:
        names = (Path("drawings.png" if number == 1 else f"drawings-{number}.png") for number in count(1))
        return next(path for path in names if not path.exists())
    if out.suffix.lower() != ".png" or out.is_dir():
        raise UsageError(f"{out}: the picture is a PNG.", f"corl generate --out {out.with_suffix('.png')}")
    with writing(out, then="try again"):
        out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _json(trial: Trial, found: dict[str, Any]) -> None:
    facts = {"checkpoints": [one.name for one in trial.candidates], "settings": trial.facts} | found
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False))


def _say(line: str) -> None:
    console().print(line, markup=False, soft_wrap=True)
