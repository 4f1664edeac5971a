"""`corl recipe`: look at recipes, copy them, check them, compare them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from corl_cli.cli.common import Json, RecipeArgument, Set, complete_recipe, table
from corl_cli.core.errors import UsageError

app = typer.Typer(help="List, show, copy, validate and compare recipes.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog="Example: corl recipe ls")
def ls(as_json: Json = False) -> None:
    """List the shipped recipes."""
    from corl_cli.core.loader import load, names

    recipes = {name: load(name) for name in names()}
    rows: list[dict[str, Any]] = [
        {
            "recipe": name,
            "tasks": "+".join(recipe.train.tasks),
            "model": recipe.model.checkpoint,
            "data": recipe.data.path,
            "notes": recipe.notes if as_json else recipe.notes.partition(". ")[0].rstrip("."),
        }
        for name, recipe in recipes.items()
    ]
    table(rows, as_json=as_json)


@app.command(epilog="Example: corl recipe show world/unified --set rewards.t2i.cycle.weight=2")
def show(recipe: RecipeArgument, overrides: Set = [], as_json: Json = False) -> None:  # noqa: B006 (typer copies it)
    """Print a recipe in full. Its bases, the overrides and the defaults are applied."""
    from corl_cli.core.loader import dump, load

    resolved = load(recipe, overrides)
    typer.echo(resolved.model_dump_json(indent=2) if as_json else dump(resolved).rstrip())


@app.command(epilog="Example: corl recipe copy world/unified mine.yaml && corl train unified --recipe mine.yaml")
def copy(recipe: RecipeArgument, file: Annotated[Path, typer.Argument(help="The new file, ending in .yaml.")]) -> None:
    """Copy a recipe to a file. Comments and the base line come along."""
    from corl_cli.core.loader import locate
    from corl_cli.core.run_dir import write_atomic

    source = locate(recipe)
    if file.suffix not in {".yaml", ".yml"}:
        raise UsageError(f"{file}: a recipe's file ends in .yaml.", f"corl recipe copy {recipe} {file}.yaml")
    if file.exists():
        raise UsageError(f"{file} exists.", "Choose another name.")
    write_atomic(file, source.read_bytes())
    typer.echo(f"{file} is yours to edit. Use it with --recipe {file}", err=True)


@app.command(epilog="Example: corl recipe validate mine.yaml world/unified")
def validate(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="NAME|FILE...", help="Shipped recipes or files.", autocompletion=complete_recipe),
    ],
) -> None:
    """Check recipes. Every fault is reported, rewards' options included; exits 2 when there is one."""
    from corl_cli.core.loader import load
    from corl_cli.pipelines.build import check

    faults: list[UsageError] = []
    for recipe in recipes:
        try:
            check(load(recipe))
            typer.echo(f"{recipe}: ok")
        except UsageError as fault:
            faults.append(fault)
    if faults:
        hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
        raise UsageError("\n".join(fault.message for fault in faults), " ".join(hints))


@app.command(epilog="Example: corl recipe diff world/unified world/checker")
def diff(left: RecipeArgument, right: RecipeArgument, as_json: Json = False) -> None:
    """Print where two recipes differ. Exits 1 when they do."""
    from corl_cli.core import loader

    changes = loader.diff(loader.load(left), loader.load(right))
    rows = [{"key": key, left: ours, right: theirs} for key, (ours, theirs) in changes.items()]
    if as_json or rows:
        table(rows, as_json=as_json)
    if rows:
        raise typer.Exit(1)


@app.command(epilog="Example: corl recipe schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema. Every key of a recipe file, its type, default and meaning, for editors."""
    from corl_cli.core.loader import schema

    typer.echo(json.dumps(schema(), indent=2))
