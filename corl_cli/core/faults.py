"""What is wrong with a recipe, in words: one line per fault, with the dotted key and the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from corl_cli.core.recipe import Recipe


def explain(error: ValidationError, raw: Any) -> list[str]:
    """The faults that pydantic found in the mapping `raw`, keys written as `--set` writes them."""
    return [line for details in error.errors() for line in _explain(details, raw)]


def _explain(details: ErrorDetails, raw: Any) -> Iterator[str]:
    """One line (or several, for faults between sections) on what pydantic found."""
    location, message = details["loc"], details["msg"].removeprefix("Value error, ")
    if not location:
        yield from message.splitlines()
        return
    key = _dotted(location, raw)
    match details["type"]:
        case "extra_forbidden":
            yield f"{key}: unknown key{_nearest(location, key)}"
        case "missing":
            yield f"{key}: missing; it has no default"
        case "model_type" | "dict_type" | "model_attributes_type":
            yield f"{key}: a section of keys is needed, not {_short(details['input'])}"
        case "value_error":
            yield f"{key}: {message}"
        case "literal_error":
            yield f"{key}: {_short(details['input'])} is not one of {details['ctx']['expected']}{_choice(details)}"
        case _:
            yield f"{key}: {message.partition(',')[0].replace('Input', 'this', 1)}, not {_short(details['input'])}"


def _dotted(location: Iterable[int | str], raw: Any) -> str:
    """The key of a fault as `--set` writes it: items of lists by name where they have one."""
    parts = []
    for part in location:
        try:
            raw = raw[part]
        except (LookupError, TypeError):
            raw = None
        named = isinstance(part, int) and isinstance(raw, dict) and isinstance(raw.get("name"), str)
        parts.append(raw["name"] if named else str(part))
    return ".".join(parts)


def _nearest(location: Sequence[int | str], key: str) -> str:
    """The known key that an unknown one resembles: a sibling first, then the same name in another section."""
    prefix, _, last = key.rpartition(".")
    siblings = _fields_at(location[:-1])
    near = difflib.get_close_matches(last, siblings, n=1)
    if near:
        return f"; did you mean {prefix}.{near[0]}?" if prefix else f"; did you mean {near[0]}?"
    elsewhere = [path for path in _paths(Recipe, "") if path.rpartition(".")[2] == last]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _choice(details: ErrorDetails) -> str:
    choices = re.findall(r"'([^']*)'", str(details["ctx"]["expected"]))
    near = difflib.get_close_matches(str(details["input"]), choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _fields_at(location: Iterable[int | str]) -> list[str]:
    section: type[BaseModel] | None = Recipe
    for part in location:
        if isinstance(part, str) and section is not None:
            field = section.model_fields.get(part)
            section = _section(field.annotation) if field else None
    return list(section.model_fields) if section else []


def _paths(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        inner = _section(field.annotation)
        if inner is not None and get_origin(field.annotation) is not list:
            yield from _paths(inner, f"{prefix}{name}.")


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as `Probes | None` or `list[RewardSpec]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list, Annotated):
        return next((found for inner in get_args(annotation) if (found := _section(inner))), None)
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
