"""The kinds of training that `corl train` names, and which recipes are of which kind."""

from __future__ import annotations

from dataclasses import dataclass, replace

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import TASKS, AnswerType, Task


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind: the command that trains it, the recipe that it takes by itself, and what makes a recipe of this kind.

    Tasks and answer types that are empty may be any; `kl` asks for a KL to the start.
    """

    command: str
    recipe: str
    method: str = "rl"
    tasks: tuple[Task, ...] = ()
    cycle: bool = False
    answer_types: tuple[AnswerType, ...] = ()
    kl: bool = False

    def fits(self, recipe: Recipe) -> bool:
        """Whether a recipe is of this kind."""
        train, types = recipe.train, recipe.data.answer_types
        return (
            train.method == self.method
            and (train.cycle is not None) == self.cycle
            and (not self.tasks or set(train.tasks) == set(self.tasks))
            and (not self.answer_types or set(types) == set(self.answer_types))
            and (not self.kl or recipe.algo.beta > 0)
        )


KINDS = [
    Kind(command="unified", recipe="world/unified", tasks=TASKS),
    Kind(command="refined --task t2i", recipe="world/refined-t2i", tasks=("t2i",), kl=True),
    Kind(command="refined --task mcq", recipe="world/refined-mcq", tasks=("mm2t",), answer_types=("mc",), kl=True),
    Kind(command="refined --task oe", recipe="world/refined-oe", tasks=("mm2t",), answer_types=("oe",), kl=True),
    Kind(command="separate --task t2i", recipe="world/separate-t2i", tasks=("t2i",)),
    Kind(command="separate --task mm2t", recipe="world/separate-mm2t", tasks=("mm2t",)),
    Kind(command="cycle", recipe="world/cycle", tasks=TASKS, cycle=True),
    Kind(command="sft", recipe="world/sft", method="sft"),
]


def named(command: str, task: str | None = None) -> list[Kind]:
    """The kinds that a command trains: one, or one for each task where none is chosen; UsageError for other tasks."""
    kinds = [kind for kind in KINDS if kind.command.partition(" ")[0] == command]
    if task is None:
        return kinds
    chosen = [kind for kind in kinds if kind.command == f"{command} --task {task}"]
    if not chosen:
        known = ", ".join(kind.command.rpartition(" ")[2] for kind in kinds)
        raise UsageError(f"corl train {command} has no task '{task}'.", f"Choose one of {known}.")
    return chosen


def kind_of(recipe: Recipe) -> Kind | None:
    """The first kind that a recipe is of; None for what no command trains, such as imitation by turns."""
    return next((kind for kind in KINDS if kind.fits(recipe)), None)


def check(recipe: Recipe, kinds: list[Kind]) -> Kind:
    """The one of these kinds that a recipe is of; UsageError that names the command that fits, where none is."""
    fitting = next((kind for kind in kinds if kind.fits(recipe)), None)
    if fitting:
        return fitting
    asked = kinds[0].command if len(kinds) == 1 else kinds[0].command.partition(" ")[0]
    other = kind_of(recipe)
    free = any(replace(kind, kl=False).fits(recipe) for kind in kinds)  # the KL is all that it lacks
    remedy = "set algo.beta, which is 0.02 in the paper" if free else "leave --recipe out"
    raise UsageError(
        f"The recipe {recipe.name} is not one for corl train {asked}: it {_what(recipe)}{' without a KL' * free}.",
        f"Use corl train {other.command} --recipe …, or {remedy}." if other else f"See {kinds[0].recipe}.",
    )


def _what(recipe: Recipe) -> str:
    """What a recipe trains, in words."""
    types = {"mc": "multiple-choice questions", "oe": "open-ended questions"}
    asked = [types[name] for name in dict.fromkeys(recipe.data.answer_types)]
    answers = f"answering {asked[0]}" if len(asked) == 1 else "answering"
    words = " and ".join({"t2i": "drawing", "mm2t": answers}[task] for task in recipe.train.tasks)
    verb = "imitates" if recipe.train.method == "sft" else "trains"
    return f"{verb} {words}{' by turns' if recipe.train.cycle else ''}"
