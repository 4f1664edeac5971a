"""Names in a recipe: from a registered name, or the user's own `my_pkg.module:Class`, to a class with valid options."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from corl_cli.core.errors import UsageError

Validated = TypeVar("Validated", bound=BaseModel)


@dataclass(frozen=True)
class Kind:
    """What a family of names stands for: `noun` in messages, `base` (`module:Class`) that a class derives from.

    `attributes` are what a class must define besides the abstract methods of the base.
    """

    noun: str
    base: str
    registered: Mapping[str, str]
    attributes: Sequence[str] = ()

    def resolve(self, name: str) -> type[Any]:
        """The class of a registered name, or the user's own; UsageError when there is none."""
        if name not in self.registered and ":" not in name:
            hint = suggest(name, list(self.registered), f"{self.noun}s").capitalize()
            raise UsageError(f"There is no {self.noun} '{name}'.", hint)
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # the console script, unlike python -m, does not look beside the user
        try:
            found = _import(self.registered.get(name, name))
        except Exception as error:  # a user's module may raise anything
            reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
            raise UsageError(
                f"{self.noun.capitalize()} '{name}' cannot be imported: {reason}.",
                "Give it as my_pkg.module:Class, with my_pkg installed or in the current folder.",
            ) from error
        return self._checked(name, found)

    def _checked(self, name: str, found: Any) -> type[Any]:
        if not (inspect.isclass(found) and issubclass(found, _import(self.base))):
            raise UsageError(f"'{name}' is not a {self.noun}.", f"Derive its class from {self.base.replace(':', '.')}.")
        lacking = sorted(getattr(found, "__abstractmethods__", ())) + [
            part for part in self.attributes if not hasattr(found, part)
        ]
        if lacking:
            raise UsageError(
                f"{self.noun.capitalize()} '{name}' does not define {', '.join(lacking)}.", "Add it to the class."
            )
        return found


def validate(
    model: type[Validated], options: Mapping[str, Any], where: str, name: str, shared: Sequence[str] = ()
) -> Validated:
    """The options of `name`, found at the key `where`, validated; UsageError with every fault at once.

    `shared` are keys that stand beside the options, for suggestions.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        known = list(model.model_fields)
        faults = [_fault(where, details, [*known, *shared]) for details in error.errors()]
        listing = f"Options of {name}: {', '.join(known)}." if known else f"{name} has no options of its own."
        raise UsageError("\n".join(faults), listing) from error


def suggest(name: str, known: list[str], what: str) -> str:
    """The known name that this one resembles, or else all of them."""
    nearest = get_close_matches(name, known, 1)
    return f"did you mean {nearest[0]}?" if nearest else f"{what}: {', '.join(known) or 'none'}"


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _fault(where: str, details: ErrorDetails, known: list[str]) -> str:
    key = ".".join((where, *map(str, details["loc"])))
    match details["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; {suggest(str(details['loc'][0]), known, 'known here')}"
        case "missing":
            return f"{key}: missing; it has no default"
    message = details["msg"].removeprefix("Value error, ")
    found = f", not {details['input']!r}" if details["loc"] else ""  # a fault between options is none of one value
    return f"{key}: {message[:1].lower()}{message[1:]}{found}"
