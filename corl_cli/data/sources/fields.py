"""Fields of a record, read with their type; what is not there or of another type makes the record unusable."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Unusable
from corl_cli.data.questions import SEVERAL_ANSWERS
from corl_cli.scoring.choices import LETTERS

UNREADABLE = "entry unreadable"
INCOMPLETE = "entry lacks a field"
NO_IMAGE = "no image"
LISTED_TWICE = "image listed twice"
NOT_ANNOTATED = "image not in the annotations"
DISAGREEMENT = "answers disagree"
NO_FINAL_ANSWER = "no final answer"
UNKNOWN_TYPE = "unknown answer type"

REASONS = (
    UNREADABLE,
    INCOMPLETE,
    NO_IMAGE,
    LISTED_TWICE,
    NOT_ANNOTATED,
    DISAGREEMENT,
    NO_FINAL_ANSWER,
    UNKNOWN_TYPE,
    SEVERAL_ANSWERS,
)

_LETTERED = re.compile(r"\(?([A-J])[).:]\s*")


def text(record: Mapping[str, Any], key: str) -> str:
    """The text, or the number as text, of a field that must be there."""
    found = optional(record, key)
    if not found:
        raise Unusable(INCOMPLETE)
    return found


def optional(record: Mapping[str, Any], key: str) -> str:
    """The same of a field that may be missing, null or empty: then the empty text."""
    value = record.get(key)
    return "" if _is_nothing(value) else _text(value).strip()


def texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The list of texts, or of numbers as texts, of a field that must be there."""
    value = record.get(key)
    if isinstance(value, str):  # a cell of a CSV
        value = _cell(value)
    if not isinstance(value, list | tuple) or not value:
        raise Unusable(INCOMPLETE)
    return tuple(map(_text, value))


def _cell(text: str) -> list[Any]:
    """The list that a cell holds: as JSON ["a", "b"], or with bars a | b."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, list) else [part.strip() for part in text.split("|")] if "|" in text else []


def several(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The text, or the list of texts, of a field that may be missing or null; an empty text is one."""
    value = record.get(key)
    if _is_nothing(value):
        return ()
    return texts(record, key) if isinstance(value, list) else (_text(value),)


def answer(record: Mapping[str, Any], key: str) -> str:
    """The answer of a field that may be missing, in a list of its own or not; Unusable when there are several."""
    value = record.get(key)
    if not isinstance(value, list | tuple) or not value:
        return optional(record, key)
    if len(value) > 1:
        raise Unusable(SEVERAL_ANSWERS)
    return _text(value[0]).strip()


def number(record: Mapping[str, Any], key: str) -> int:
    """The whole number of a field that must be there."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unusable(INCOMPLETE)
    return value


def letter(record: Mapping[str, Any], key: str, options: Sequence[str]) -> str:
    """The letter that a field gives as the number of an option, from 0, in brackets."""
    index = number(record, key)
    if not 0 <= index < min(len(options), len(LETTERS)):
        raise Unusable(INCOMPLETE)
    return bracketed(LETTERS[index])


def chosen(answer: str, options: Sequence[str]) -> str:
    """The letter, in brackets, of the one option whose text an answer is; any other answer as it is."""
    same = [letter for letter, option in zip(LETTERS, options, strict=False) if option.strip() == answer]
    return bracketed(same[0]) if len(same) == 1 else answer


def bracketed(answer: str) -> str:
    """A lone letter as "(A)": a letter also where the text of another option is "A"; any other answer as it is."""
    return f"({answer})" if len(answer) == 1 and answer in LETTERS else answer


def image(record: Mapping[str, Any], key: str, folder: Path) -> Path | bytes:
    """The image of a field: bytes, a path below `folder`, or the struct of both that `datasets` stores."""
    value = record.get(key)
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value.strip():
        return folder / value.strip()
    raise Unusable(NO_IMAGE)


def answer_type(record: Mapping[str, Any], key: str) -> AnswerType | None:
    """`mc` or `oe` in any case; None where the record does not say."""
    kind = optional(record, key).lower()
    if kind and kind not in get_args(AnswerType):
        raise Unusable(UNKNOWN_TYPE)
    return kind or None  # type: ignore[return-value]


def majority(answers: Sequence[str]) -> str:
    """The answer that most people gave, told apart without case; of several, the one that was given first."""
    counts = Counter(answer.strip().lower() for answer in answers)
    return counts.most_common(1)[0][0]


def unlettered(options: Sequence[str]) -> tuple[str, ...]:
    """Options without the letters that some sets write before all of them: "A) red", "B. green", "C: blue"."""
    bare = [option.strip() for option in options]
    found = [_LETTERED.match(option) for option in bare]
    if [match and match[1] for match in found] != list(LETTERS[: len(bare)]):
        return tuple(bare)
    return tuple(option[match.end() :] for option, match in zip(bare, found, strict=True) if match)


def titled(*parts: str) -> str:
    """A question with what goes before it, each on its own line."""
    return "\n".join(filter(None, parts))


def _is_nothing(value: Any) -> bool:
    """Whether a field is missing, null or an empty list; pandas writes null as NaN."""
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    """A text, or a number as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or _is_nothing(value):
        raise Unusable(INCOMPLETE)
    return str(value)
