"""Prompts in GenEval's schema: the benchmark's own 553, or those of a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from corl_cli.core.errors import CorlError
from corl_cli.core.section import Int, Positive, Section
from corl_cli.eval.geneval.rules import RELATIONS

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
TAGS: tuple[Tag, ...] = get_args(Tag)
OWN = Path(__file__).with_name("prompts.jsonl")  # see NOTICE
CLASSES = tuple(Path(__file__).with_name("classes.txt").read_text(encoding="utf-8").splitlines())  # in COCO's order


class Unwanted(Section):
    """An `exclude`: fewer than so many objects of a class."""

    name: str = Field(alias="class")
    count: Positive


class Wanted(Unwanted):
    """An `include`: at least so many objects of a class, in a colour, in a relation to those of an earlier include."""

    color: str | None = None
    position: tuple[str, Int] | None = None


class Prompt(Section):
    """A prompt and what must be true of its drawings."""

    tag: Tag
    prompt: str = Field(min_length=1)
    include: list[Wanted] = Field(min_length=1)
    exclude: list[Unwanted] = Field(default_factory=list)


def read(path: Path, classes: Collection[str], colours: Collection[str]) -> list[dict[str, Any]]:
    """The prompts of a file of JSON lines; CorlError with the line of the first that is wrong.

    `classes` and `colours` are those that the detector can tell: a prompt that asks for another could not be right.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorlError(
            f"The prompts in {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Set prompts to geneval, world, or a file of JSON lines in GenEval's schema.",
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        metadata, fault = _parsed(line)
        if fault := fault or _fault(Prompt.model_validate(metadata), classes, colours):
            raise CorlError(
                f"{path}, line {number}: {fault}.",
                'Write for instance {"tag": "counting", "include": [{"class": "dog", "count": 2}], '
                '"exclude": [{"class": "dog", "count": 3}], "prompt": "a photo of two dogs"}.',
            )
        wanted = [{key: value for key, value in one.items() if value is not None} for one in metadata["include"]]
        found.append({**metadata, "include": wanted})  # a colour that is null is none that is asked for
    if not found:
        raise CorlError(f"{path} holds no prompts.", "Write one JSON object a line, in GenEval's schema.")
    return found


def digest(prompts: Sequence[dict[str, Any]]) -> str:
    """A hash of prompts with their metadata, however they were written: 16 hexadecimal digits."""
    return sha256("\n".join(json.dumps(prompt, sort_keys=True) for prompt in prompts).encode()).hexdigest()[:16]


def _parsed(line: str) -> tuple[dict[str, Any], str]:
    """The metadata of a line, and what is wrong with its form, or nothing."""
    try:
        metadata = json.loads(line)
    except ValueError as error:
        return {}, f"this is not JSON ({error})"
    if not isinstance(metadata, dict):
        return {}, "this is not a JSON object"
    try:
        Prompt.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        return {}, f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return metadata, ""


def _fault(prompt: Prompt, classes: Collection[str], colours: Collection[str]) -> str:
    """What a prompt asks for that can never be found."""
    for thing in (*prompt.include, *prompt.exclude):
        if thing.name not in classes:
            return f"the detector does not know the class '{thing.name}'"
    for index, wanted in enumerate(prompt.include):
        if wanted.color is not None and wanted.color not in colours:
            return f"'{wanted.color}' is none of the colours that are told apart: {', '.join(colours)}"
        if wanted.position is not None and wanted.position[0] not in RELATIONS:
            return f"'{wanted.position[0]}' is none of the relations {', '.join(RELATIONS)}"
        if wanted.position is not None and not 0 <= wanted.position[1] < index:
            return f"include.{index}.position names include {wanted.position[1]}, which is not an earlier one"
    return ""
