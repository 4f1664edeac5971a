"""`corl reward`: what rewards there are, what they say of samples, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corl_cli.cli.common import Json, Set, complete_checkpoint, complete_reward, progress, remedies, table
from corl_cli.cli.common import Recipe as RecipeOption
from corl_cli.core.errors import CorlError, UsageError

if TYPE_CHECKING:
    from corl_cli.core.requirements import Requirement
    from corl_cli.pipelines.catalogue import Entry
    from corl_cli.pipelines.samples import Failure, Given
    from corl_cli.pipelines.score import Panel, Scored

DEFAULT = "world/unified"
SHOWN = 50  # failed samples listed on stderr

app = typer.Typer(help="List, try, explain and audit rewards.", no_args_is_help=True, rich_markup_mode=None)


Rewards = Annotated[
    list[str],
    typer.Option(
        "--reward",
        metavar="NAME|{name: …}",
        help="A reward as in a recipe, a name or a YAML mapping; may be repeated.",
        autocompletion=complete_reward,
    ),
]
Image = Annotated[str | None, typer.Option("--image", metavar="FILE", help="The drawing.")]
Real = Annotated[str | None, typer.Option("--real", metavar="FILE", help="The real image.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="What the drawing was drawn from.")]
Question = Annotated[str | None, typer.Option("--question", help="What was asked, options included.")]
Gold = Annotated[str | None, typer.Option("--gold", help="The right answer.")]
Completion = Annotated[str | None, typer.Option("--completion", help="What was answered.")]
AnswerType = Annotated[
    Literal["mc", "oe"] | None,
    typer.Option("--answer-type", help="Multiple choice or open-ended; told from question and answer if left out."),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="JSONL",
        help="Many samples in place of one, a JSON object on each line with what the rewards need of id, prompt, "
        "image, real, question, gold, answer_type, completion. Image paths are relative to the file's folder; without "
        "an id a sample goes by the number of its line.",
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="RUN|MODEL",
        help="The policy that rewards read, in place of the recipe's model.",
        autocompletion=complete_checkpoint,
    ),
]


@app.callback()
def group() -> None:
    """List, try, explain and audit rewards."""


@app.command(epilog="Example: corl reward ls")
def ls(as_json: Json = False) -> None:
    """List the rewards. What each scores and pays for, what it needs, whether it is ready on this machine."""
    from corl_cli.pipelines.catalogue import entries

    found = entries()
    if as_json:
        table([_listed(entry) for entry in found], as_json=True)
        return
    table([row for entry in found for row in _rows(entry)])
    typer.echo("More on one: corl reward show NAME. What is missing and how to get it: corl doctor", err=True)


@app.command(epilog="Example: corl reward show cycle")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A reward, or your own my_pkg.module:Class.", autocompletion=complete_reward
        ),
    ],
    as_json: Json = False,
) -> None:
    """Print what a reward is. Formula, source, options, the columns and things it needs."""
    from dataclasses import asdict

    from corl_cli.pipelines.catalogue import entry

    found = entry(name)
    if as_json:
        options = [asdict(option) for option in found.options]
        typer.echo(
            json.dumps(_listed(found) | {"docstring": found.docstring, "options": options}, indent=2, default=str)
        )
        return
    typer.echo(f"{found.name} ({found.task})\n\n{found.docstring or 'Its class has no docstring.'}\n")
    if found.options:
        options = [
            {
                "option": o.name,
                "default": "required" if o.required else json.dumps(o.default, default=str),
                "values": o.values,
                "meaning": o.description,
            }
            for o in found.options
        ]
        table(options)
        typer.echo()
    optional = f"; and, where there is one, {', '.join(found.optional)}" if found.optional else ""
    typer.echo(f"A sample holds: {', '.join(found.columns)}{optional}")
    if not any(option.required for option in found.options):
        typer.echo(f"At its defaults it reads {f'the {found.policy}' if found.policy else 'no policy'}")
    needs = [(requirement, "the defaults") for requirement in found.requirements]
    needs += [(requirement, f"{c.option}: {c.value}") for c in found.choices for requirement in c.requirements]
    if needs:
        typer.echo()
        table([{"needs": r.name, "for": purpose, "state": r.state, "found": r.detail} for r, purpose in needs])
        remedies(requirement for requirement, _ in needs)


@app.command(
    epilog='Example: corl reward score --reward accuracy --question "What colour?" --gold red --completion "It is red."'
)
def score(
    rewards: Rewards = [],  # noqa: B006 (typer copies it)
    image: Image = None,
    real: Real = None,
    prompt: Prompt = None,
    question: Question = None,
    gold: Gold = None,
    completion: Completion = None,
    answer_type: AnswerType = None,
    file: File = None,
    recipe: RecipeOption = DEFAULT,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Score samples. One from the options, or many from a file; every reward and each of its parts has a number."""
    panel = _panel(rewards, recipe, overrides, checkpoint)
    values = _columns(image, real, prompt, question, gold, completion, answer_type)
    samples = _samples(panel, values, file)
    outcomes = _scored(panel, samples)
    _print(outcomes, as_json, single=file is None)
    _report(outcomes, single=file is None)


@app.command(
    epilog='Example: corl reward explain --reward cycle --image a.png --real b.png --prompt "a red circle" --out why'
)
def explain(
    rewards: Rewards = [],  # noqa: B006 (typer copies it)
    image: Image = None,
    real: Real = None,
    prompt: Prompt = None,
    question: Question = None,
    gold: Gold = None,
    completion: Completion = None,
    answer_type: AnswerType = None,
    file: File = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="The first N samples of a file.")] = 16,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder to write to; an earlier page there is replaced.")
    ] = Path("explain"),
    recipe: RecipeOption = DEFAULT,
    overrides: Set = [],  # noqa: B006 (typer copies it)
    checkpoint: Checkpoint = None,
) -> None:
    """Explain scores. Facts as text, pictures as PNG, and all of it on one page; the same samples as score."""
    panel = _panel(rewards, recipe, overrides, checkpoint)
    values = _columns(image, real, prompt, question, gold, completion, answer_type)
    samples = _samples(panel, values, file)
    from corl_cli.pipelines import explain

    explain.check_folder(out)
    _load(panel, samples[:limit])
    explained = []
    for sample in explain.explain(panel, samples[:limit]):
        explained.append(sample)
        typer.echo("\n".join(explain.lines(sample)) + "\n")
    typer.echo(f"page: {explain.write(out, panel, explained)}")
    if len(samples) > limit:
        typer.echo(f"These are the first {limit} of {len(samples)} samples; more with --limit.", err=True)
    _report([sample.outcome for sample in explained], single=file is None)


def _columns(*values: str | None) -> dict[str, str | None]:
    return dict(zip(("image", "real", "prompt", "question", "gold", "completion", "answer_type"), values, strict=True))


def _panel(rewards: Sequence[str], recipe: str, overrides: Sequence[str], checkpoint: str | None) -> Panel:
    if not rewards:
        raise UsageError("No reward is named.", "Add --reward cycle, for one. List them with: corl reward ls")
    from corl_cli.core.loader import load
    from corl_cli.pipelines.score import Panel

    return Panel(load(recipe, overrides), rewards, checkpoint)


def _samples(panel: Panel, values: dict[str, str | None], file: Path | None) -> Sequence[Given | Failure]:
    from corl_cli.pipelines import samples

    given = [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
    if file is None:
        return [samples.single(values, panel.needs)]
    if given:
        raise UsageError(
            f"--file and {', '.join(given)} exclude each other.", "Put the sample into the file, or leave --file out."
        )
    return samples.read(file, panel.needs)


def _load(panel: Panel, samples: Sequence[Given | Failure]) -> None:
    """Bring the models, unless no sample can be scored anyway; say which policy runs, and each reward's options."""
    from corl_cli.pipelines.samples import Given

    if not any(isinstance(sample, Given) for sample in samples):
        return
    panel.load()
    if panel.policy_name:
        shipped = " (the shipped tiny Janus)" if panel.policy_name == "world" else ""
        typer.echo(f"policy: {panel.policy_name}{shipped}", err=True)
    for name, reward in panel.rewards.items():
        if options := reward.options.model_dump(exclude_none=True):
            typer.echo(f"options of {name}: {', '.join(f'{key} {value}' for key, value in options.items())}", err=True)


def _scored(panel: Panel, samples: Sequence[Given | Failure]) -> list[Scored | Failure]:
    _load(panel, samples)
    if len(samples) == 1:
        return list(panel.score(samples))
    outcomes = []
    with progress("scoring", len(samples)) as bar:
        for outcome in panel.score(samples):
            outcomes.append(outcome)
            bar.advance()
    return outcomes


def _print(outcomes: Sequence[Scored | Failure], as_json: bool, *, single: bool) -> None:
    from corl_cli.pipelines.samples import Failure

    scored = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    if as_json:
        found = {
            "samples": [{"id": one.id, "scores": one.scores, "notes": one.notes} for one in scored],
            "failed": [{"id": one.id, "error": one.error} for one in outcomes if one.error],
        }
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    elif single and scored:
        table(
            [
                {"score": name, "value": value, "note": one.notes.get(name, "")}
                for one in scored
                for name, value in one.scores.items()
            ]
        )
    elif scored:
        names = dict.fromkeys(name for one in scored for name in one.scores)
        table(
            [{"id": one.id} | {name: one.scores.get(name) for name in names} | {"notes": _notes(one)} for one in scored]
        )


def _notes(scored: Scored) -> str:
    if len(scored.notes) == 1:
        return next(iter(scored.notes.values()))
    return "; ".join(f"{name}: {note}" for name, note in scored.notes.items())


def _report(outcomes: Sequence[Scored | Failure], *, single: bool) -> None:
    """CorlError that names the samples that lack a score, when there are any."""
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors and single:
        raise CorlError(errors[0])
    if errors:
        shown = [f"  {error}" for error in errors[:SHOWN]]
        rest = [f"  and {len(errors) - SHOWN} more; --json lists them all"] if len(errors) > SHOWN else []
        raise CorlError("\n".join([f"{len(errors)} of {len(outcomes)} samples failed:", *shown, *rest]))


def _listed(entry: Entry) -> dict[str, Any]:
    from corl_cli.pipelines.catalogue import state

    return {
        "name": entry.name,
        "task": entry.task,
        "pays_for": entry.pays_for,
        "columns": entry.columns,
        "policy": entry.policy,
        "state": state(entry.requirements),
        "needs": [_need(requirement) for requirement in entry.requirements],
        "choices": [
            {
                "option": choice.option,
                "value": choice.value,
                "state": state(choice.requirements),
                "needs": [_need(requirement) for requirement in choice.requirements],
            }
            for choice in entry.choices
        ],
    }


def _need(requirement: Requirement) -> dict[str, str]:
    return {key: getattr(requirement, key) for key in ("name", "state", "detail", "remedy")}


def _rows(entry: Entry) -> list[dict[str, str]]:
    """A line for a reward, and one for each choice on which its needs depend."""
    policy = [f"the {entry.policy}"] if entry.policy else []
    first = {
        "reward": entry.name,
        "task": entry.task or "-",
        "pays for": entry.pays_for,
        "needs": ", ".join([*policy, *(requirement.name for requirement in entry.requirements)]) or "nothing",
        "ready": _ready(entry.requirements),
    }
    choices = [
        {
            "reward": f"  {choice.option}: {choice.value}",
            "task": "",
            "pays for": "",
            "needs": ", ".join(requirement.name for requirement in choice.requirements) or "nothing more",
            "ready": _ready(choice.requirements),
        }
        for choice in entry.choices
    ]
    return [first, *choices]


def _ready(requirements: list[Requirement]) -> str:
    from corl_cli.pipelines.catalogue import state

    worst = state(requirements)
    names = ", ".join(requirement.name for requirement in requirements if requirement.state == worst)
    return {"ok": "yes", "download": f"yes, after a download of {names}"}.get(worst, f"no, {worst}: {names}")
