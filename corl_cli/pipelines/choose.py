"""Rewards named on a command line, as specs of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from corl_cli.core.errors import UsageError
from corl_cli.core.faults import explain
from corl_cli.core.recipe import Recipe, RewardSpec, Rubrics
from corl_cli.core.types import TASKS, Task
from corl_cli.rewards import bind, resolve

EXAMPLE = "--reward cycle, or --reward '{name: cycle, text: spice}'"
OF_A_SUM = ("weight", "normalise", "on_error")  # keys that say how a reward joins the total of its group


def chosen(recipe: Recipe | None, rewards: Sequence[str], *, summed: bool = True) -> Rubrics:
    """The rewards that `--reward` asks for, each under the task that its class scores, their options checked.

    Each is written as in a recipe: a name, whose spec is the recipe's where it trains on that reward and the defaults
    elsewhere; or a YAML mapping, which stands alone. UsageError for one that cannot be read, bound, or is given twice;
    and, where rewards are not `summed`, for one that writes what matters to the sum only.
    """
    specs: dict[Task, list[RewardSpec]] = {task: [] for task in TASKS}
    for text in rewards:
        written = _read(text)
        if not summed:
            _refuse_terms(written)
        spec = _known(recipe, written["name"]) if written.keys() == {"name"} else None
        spec = spec or _spec(text, written)
        task = resolve(spec.name).task
        bind(spec, task)
        if any(spec.name == other.name for other in specs[task]):
            raise UsageError(f"--reward {spec.name} is given twice; scores are told apart by name.", "Leave one out.")
        specs[task].append(spec)
    return Rubrics(t2i=specs["t2i"], mm2t=specs["mm2t"])


def _read(text: str) -> dict[str, object]:
    """A name, which may hold a colon (my_pkg.module:Class), or a mapping."""
    if not text.lstrip().startswith("{") and ": " not in text:
        return {"name": text.strip()}
    try:
        written = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UsageError(f"--reward {text}: this is not YAML.", f"Write {EXAMPLE}") from error
    if not isinstance(written, Mapping) or not isinstance(written.get("name"), str):
        raise UsageError(f"--reward {text}: a reward has a name.", f"Write {EXAMPLE}")
    return dict(written)


def _refuse_terms(written: Mapping[str, object]) -> None:
    idle = [key for key in OF_A_SUM if key in written]
    if idle:
        raise UsageError(
            f"--reward {written['name']}: {', '.join(idle)} would do nothing here, where rewards are not summed.",
            "Leave it out. What another weight does to a run: corl reward replay RUN --reward '{name: …, weight: …}'",
        )


def _known(recipe: Recipe | None, name: object) -> RewardSpec | None:
    specs = [spec for task in TASKS for spec in getattr(recipe.rewards, task)] if recipe else []
    return next((spec for spec in specs if spec.name == name), None)


def _spec(text: str, written: dict[str, object]) -> RewardSpec:
    try:
        return RewardSpec.model_validate(written)
    except ValidationError as error:
        raise UsageError(f"--reward {text}: {'; '.join(explain(error, written))}.", f"Write {EXAMPLE}") from error
