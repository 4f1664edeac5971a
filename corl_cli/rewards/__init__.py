"""The names of rewards, and what they are bound to. Importing this costs no torch; resolving a name does."""

from __future__ import annotations

import inspect
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import Task

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
    if name not in REWARDS and ":" not in name:
        raise UsageError(f"There is no reward '{name}'.", _suggest(name, list(REWARDS), "rewards").capitalize())
    module, _, attribute = REWARDS.get(name, name).partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # the console script, unlike python -m, does not look beside the user
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
        raise UsageError(
            f"Reward '{name}' cannot be imported: {reason}.",
            "Give it as my_pkg.module:Class, with my_pkg installed or in the current folder.",
        ) from error
    return _checked(name, found)


def bind(spec: RewardSpec, task: Task) -> Reward:
    """The reward that a recipe names under a task, its options validated; UsageError with every fault at once."""
    cls = resolve(spec.name)
    where = f"rewards.{task}.{spec.name}"
    if cls.task != task:
        raise UsageError(f"{where}: this reward scores {cls.task}.", f"Move it to rewards.{cls.task}.")
    try:
        options = cls.Options.model_validate(spec.options)
    except ValidationError as error:
        faults = [_fault(where, details, list(cls.Options.model_fields)) for details in error.errors()]
        raise UsageError("\n".join(faults), _listing(spec.name, cls)) from error
    return cls(options)


def _checked(name: str, found: Any) -> type[Reward]:
    from corl_cli.rewards.base import Reward

    if not (inspect.isclass(found) and issubclass(found, Reward)):
        raise UsageError(f"'{name}' is not a reward.", "Derive its class from corl_cli.rewards.base.Reward.")
    lacking = sorted(found.__abstractmethods__) + ([] if hasattr(found, "task") else ["task"])
    if lacking:
        raise UsageError(f"Reward '{name}' does not define {', '.join(lacking)}.", "Add it to the class.")
    return found


def _fault(where: str, details: ErrorDetails, known: list[str]) -> str:
    key = ".".join((where, *map(str, details["loc"])))
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_suggest(str(details['loc'][0]), known, 'known here')}"
    return f"{key}: {details['msg'][:1].lower()}{details['msg'][1:]}, not {details['input']!r}"


def _listing(name: str, cls: type[Reward]) -> str:
    fields = cls.Options.model_fields
    return f"Options of {name}: {', '.join(fields)}." if fields else f"{name} has no options of its own."


def _suggest(name: str, known: list[str], what: str) -> str:
    nearest = get_close_matches(name, known, 1)
    return f"did you mean {nearest[0]}?" if nearest else f"{what}: {', '.join(known) or 'none'}"
