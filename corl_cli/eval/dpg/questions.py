"""DPG-Bench's questions and what answers to them come to (arXiv 2403.05135).

A question may depend on others: whether the apple is red is worth nothing without an apple. In the order in which the
questions stand, one whose parent is worth 0 by then is worth 0 itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError

COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")

_MEND = "Mend the row, or copy dpg_bench.csv again from github.com/TencentQQGYLab/ELLA."
_FORGIVE = f"{_MEND} compatible: true leaves out what the original scorer cannot score."


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question whose answer should be yes; `parents` are the ids of those that it depends on.

    `about` is what it asks for, as in "attribute - color (apple, red)".
    """

    id: int
    parents: tuple[int, ...]
    about: str
    text: str

    @property
    def detailed(self) -> str:
        """The category of the second level: "attribute - color"; only the first where there is no second."""
        return self.about.partition("(")[0].strip().removesuffix("-").strip()

    @property
    def broad(self) -> str:
        """The category of the first level: entity, attribute, relation, global or other."""
        return self.about.partition("(")[0].partition("-")[0].strip()

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return asdict(self) | {"parents": list(self.parents)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Question:
        """See to_json."""
        return cls(**{**found, "parents": tuple(found["parents"])})


def worth(questions: Sequence[Question], right: Mapping[int, bool]) -> dict[int, bool]:
    """Which questions count, by id: those answered with yes, without those that have a parent which does not count.

    Parents are looked up in the order of the questions: one that stands later counts as it was answered.
    """
    counts = dict(right)
    for question in questions:
        counts[question.id] = counts[question.id] and all(counts[parent] for parent in question.parents)
    return counts


def read(path: Path, *, compatible: bool) -> dict[str, list[Question]]:
    """The questions of each item of dpg_bench.csv, both in the file's order; CorlError, one line, for a damaged file.

    `compatible` reads as the original scorer does: without the first row, and without the items that it then drops,
    because a question of theirs depends on one that is not there.
    """
    items: dict[str, dict[int, Question]] = {}
    for number, (item, question) in enumerate(_rows(path)):
        if compatible and number == 0:
            continue
        questions = items.setdefault(item, {})
        if question.id in questions and not compatible:
            raise CorlError(f"{path}: {item} has two questions {question.id}.", _MEND)
        questions[question.id] = question
    if compatible:
        return {item: list(questions.values()) for item, questions in items.items() if not _strangers(questions)}
    for item, questions in items.items():
        _check(f"{path}: {item}", questions)
    return {item: list(questions.values()) for item, questions in items.items()}


def _rows(path: Path) -> Iterator[tuple[str, Question]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if lacking := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
                raise CorlError(f"{path} has no column {', '.join(lacking)}.", _MEND)
            for row in rows:
                yield _row(f"{path}, line {rows.line_num}", row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorlError(f"{path} cannot be read: {str(error).splitlines()[0]}", _MEND) from error


def _row(where: str, row: Mapping[str, str | None]) -> tuple[str, Question]:
    values = {column: (row[column] or "").strip() for column in COLUMNS}
    if empty := [column for column, value in values.items() if not value]:
        raise CorlError(f"{where}: {', '.join(empty)} is empty.", _MEND)
    if Path(values["item_id"]).name != values["item_id"] or "\\" in values["item_id"]:
        raise CorlError(f"{where}: item_id {values['item_id']!r} cannot be a file's name.", _MEND)
    try:
        number = int(values["proposition_id"])
        parents = tuple(int(part) for part in values["dependency"].split(","))
    except ValueError as error:
        raise CorlError(f"{where}: proposition_id and dependency must be whole numbers.", _MEND) from error
    return values["item_id"], Question(
        id=number,
        parents=tuple(parent for parent in parents if parent),  # 0 is none
        about=values["tuple"],
        text=values["question_natural_language"],
    )


def _strangers(questions: Mapping[int, Question]) -> list[tuple[int, int]]:
    """Questions that depend on one that is not there, and on which."""
    return [(q.id, parent) for q in questions.values() for parent in q.parents if parent not in questions]


def _check(where: str, questions: Mapping[int, Question]) -> None:
    if strangers := _strangers(questions):
        child, parent = strangers[0]
        raise CorlError(f"{where}: question {child} depends on {parent}, which is not there.", _FORGIVE)
    try:
        TopologicalSorter({question.id: question.parents for question in questions.values()}).prepare()
    except CycleError as error:
        circle = " -> ".join(map(str, error.args[1]))
        raise CorlError(f"{where}: questions depend on each other in a circle: {circle}.", _FORGIVE) from error
