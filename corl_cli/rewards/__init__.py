"""The names of rewards, and what they are bound to. Importing this costs no torch; resolving a name does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corl_cli.core.errors import UsageError
from corl_cli.core.names import Kind, validate
from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import TASKS, Task

if TYPE_CHECKING:
    from corl_cli.rewards.base import Reward

REWARDS: dict[str, str] = {
    "accuracy": "corl_cli.rewards.accuracy:Accuracy",
    "checker": "corl_cli.rewards.checker:Checker",
    "clip": "corl_cli.rewards.clip:ClipScore",
    "cycle": "corl_cli.rewards.cycle:Cycle",
    "format": "corl_cli.rewards.format:Format",
    "matching": "corl_cli.rewards.matching:Matching",
}


def resolve(name: str) -> type[Reward]:
    """The class of a registered reward, or of the user's own `my_pkg.module:Class`; UsageError when there is none."""
    cls: type[Reward] = Kind("reward", "corl_cli.rewards.base:Reward", REWARDS, attributes=("task",)).resolve(name)
    if cls.task not in TASKS:
        raise UsageError(f"Reward '{name}' scores the task {cls.task!r}.", f"Its task is one of {', '.join(TASKS)}.")
    if taken := sorted(cls.Options.model_fields.keys() & RewardSpec.model_fields.keys()):
        raise UsageError(
            f"Reward '{name}' has options called {', '.join(taken)}, which every reward has in a recipe.",
            "Call them something else.",
        )
    return cls


def bind(spec: RewardSpec, task: Task) -> Reward:
    """The reward that a recipe names under a task, its options validated; UsageError with every fault at once."""
    cls = resolve(spec.name)
    where = f"rewards.{task}.{spec.name}"
    if cls.task != task:
        raise UsageError(f"{where}: this reward scores {cls.task}.", f"Move it to rewards.{cls.task}.")
    options = validate(cls.Options, spec.options, where, spec.name, shared=list(RewardSpec.model_fields))
    try:
        return cls(options)
    except Exception as error:  # a user's class may raise anything
        raise UsageError(
            f"{where}: the reward cannot be made: {type(error).__name__}: {error}".rstrip(": ") + ".",
            "Mend its __init__, which is given the options; models belong into `load`.",
        ) from error
