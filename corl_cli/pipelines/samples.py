"""Samples as a user gives them to `corl reward`: the options of one command, or the lines of a JSONL file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from PIL import Image, UnidentifiedImageError

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.types import AnswerType, Task, Triplet
from corl_cli.scoring import answers

KEYS = ("id", "prompt", "image", "real", "question", "gold", "answer_type", "completion")
PICTURES = {"image": "drawing", "real": "real image"}  # the columns that hold paths, and of what
OUTPUT: dict[Task, str] = {"t2i": "image", "mm2t": "completion"}  # the column that holds what was sampled
Needs = Mapping[str, Sequence[str]]  # the columns that each reward needs, by its name; the output's is the first


@dataclass(frozen=True, kw_only=True)
class Given:
    """One sample, its values by column as text; `place` says where it stands, such as "line 3: "."""

    id: str
    place: str
    values: Mapping[str, str]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A sample without a score, and why; `given` is what could be read of it."""

    id: str
    error: str
    given: Given | None = None


class GivenTriplet(Triplet):
    """A triplet of which only some fields were given: nothing stands in for the others, reading one is an error."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in Triplet.__dataclass_fields__:
            raise AttributeError(name)
        column = {"image": "real", "answer": "gold"}.get(name, name)
        raise CorlError(
            f"the reward reads the triplet's {name}, but '{column}' is not among its `columns`; "
            "name it there, and give it with each sample"
        )


def single(values: Mapping[str, str | None], needs: Needs) -> Given | Failure:
    """The sample that a command's options give, a Failure when one is empty; UsageError when a reward lacks one."""
    given = {name: value for name, value in values.items() if value is not None}
    for reward, columns in needs.items():
        if absent := [f"--{column}" for column in columns if column not in given]:
            raise UsageError(
                f"Reward '{reward}' needs {' and '.join(absent)}.", f"See what it reads with: corl reward show {reward}"
            )
    sample = Given(id="1", place="", values=given, folder=Path())
    try:
        _check_text(given)
        _check(sample, needs)
    except CorlError as fault:
        return Failure(id="1", error=fault.message, given=sample)
    return sample


def read(file: Path, needs: Needs) -> list[Given | Failure]:
    """The samples of a JSONL file in order, a Failure for each line that is wrong; blank lines are passed over.

    An id is the line's number where none is given, image paths are relative to the file's folder. CorlError when the
    file cannot be read or holds no line.
    """
    lines_of: dict[str, int] = {}
    samples: list[Given | Failure] = []
    for number, text in enumerate(_text(file).split("\n"), 1):
        if not text.strip():
            continue
        name, place, sample = str(number), f"line {number}: ", None
        try:
            line = _line(text)
            name = str(line.pop("id", name))
            sample = Given(id=name, place=place, values=_texts(line), folder=file.parent)
            if name in lines_of:
                raise CorlError(f"the id '{name}' stands for line {lines_of[name]} already; give each line its own")
            lines_of[name] = number
            _check_keys(line)
            _check(sample, needs)
            samples.append(sample)
        except CorlError as fault:
            samples.append(Failure(id=name, error=place + fault.message, given=sample))
    if not samples:
        raise CorlError(f"{file} is empty.", 'Give a line for each sample, such as {"prompt": "…", "image": "a.png"}')
    return samples


def triplet(sample: Given, real: Image.Image | None, optional: Sequence[str] = ()) -> Triplet:
    """The sample as a triplet that holds what was given, and the answer's type where that can be told.

    A question that was not given is empty where it is `optional`, and absent elsewhere.
    """
    values = sample.values
    fields: dict[str, Any] = {"id": sample.id, "source": "given"}
    if "question" in values or "question" in optional:
        fields["question"] = values.get("question", "")
    if real is not None:
        fields["image"] = real
    if "prompt" in values:
        fields["prompt"] = values["prompt"]
    if gold := values.get("gold"):
        fields["answer"] = gold
        fields["answer_type"] = values.get("answer_type") or answers.infer_type(values.get("question", ""), gold)
    return GivenTriplet(**fields)


def picture(path: Path) -> Image.Image:
    """The picture in a file, as RGB; CorlError when there is none or it cannot be read."""
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise CorlError(f"there is no image {path}") from error
    except Exception as error:  # a damaged file may raise anything
        reason = "this is no picture that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CorlError(f"the image {path} cannot be read: {reason}; save it again as PNG or JPEG") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CorlError(f"There is no file {file}.", "Give a JSONL file, a sample on each line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorlError(f"{file} cannot be read: {error}", "Give a JSONL file in UTF-8.") from error


def _line(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorlError(f"this is not JSON: {error}") from error
    if not isinstance(line, dict):
        raise CorlError('a line is a JSON object, such as {"prompt": "…", "image": "a.png"}')
    _check_text(line)
    return {key: value for key, value in line.items() if value is not None}


def _texts(line: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in line.items() if key in KEYS and isinstance(value, str)}


def _check_text(line: Mapping[str, Any]) -> None:
    """CorlError for text with half of a surrogate pair, as "\\ud800" is: it can be neither printed nor written."""
    for key, value in line.items():
        try:
            f"{key}{value}".encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise CorlError(f"{key!a}: {half!a} is half a character and no text; write the whole one") from error


def _check_keys(line: Mapping[str, Any]) -> None:
    for key, value in line.items():
        if key not in KEYS:
            near = get_close_matches(key, KEYS, 1)
            advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            raise CorlError(f"unknown key '{key}'; {advice}")
        if not isinstance(value, str):
            raise CorlError(f"{key}: text in quotes is needed, not {json.dumps(value)[:60]}")
    if line.get("answer_type", "mc") not in get_args(AnswerType):
        raise CorlError(f"answer_type: '{line['answer_type']}' is neither mc (multiple choice) nor oe (open-ended)")


def _check(sample: Given, needs: Needs) -> None:
    """CorlError when a column that a reward needs is missing or blank, or names no file where it should.

    A reward whose task's output is not there leaves the sample to the others, so that one file may hold drawings and
    answers; where no output is there at all, the first reward says what it needs.
    """
    values = sample.values
    applying = {reward: columns for reward, columns in needs.items() if columns[0] in values} or needs
    for reward, columns in applying.items():
        for column in columns:
            if column not in values:
                raise CorlError(f"reward '{reward}' needs the column '{column}', which is missing")
            if not values[column].strip():
                raise CorlError(f"the {column} is empty; reward '{reward}' has nothing to score")
            if column in PICTURES:
                _check_file(sample.folder / values[column])


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        raise CorlError(f"the image {path} is a folder; name a file in it")
    if not os.path.exists(path):
        raise CorlError(f"there is no image {path}")
