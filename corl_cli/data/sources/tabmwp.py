"""TabMWP: word problems about tables, of both answer types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import chosen, optional, text, texts

PAGE = "https://github.com/lupantech/PromptPG/tree/main/data/tabmwp"


class TabMwpOptions(Options):
    """The problems, the folder of the tables' images, and which answer type (null: both)."""

    problems: Place = Path("data/raw/tabmwp/problems_train.json")
    images: Place = Path("data/raw/tabmwp/tables")
    answers: AnswerType | None = None


class TabMwp(Records):
    """TabMWP (CC BY-NC-SA 4.0); it has no captions.

    `problems_{split}.json` is an object by problem id: question, choices (or null), answer, unit (or null), solution,
    ques_type (multi_choice, free_text), ans_type, table_title, table, …; the image is `tables/{id}.png`. Schema read in
    a description of the files and the list of those in the authors' repository; none has been run here. The unit goes
    after the question, which without it may have no single answer. Problems of the type that is not asked for are not
    offered.
    """

    Options = TabMwpOptions
    options: TabMwpOptions
    label = "tabmwp"

    def files(self) -> list[Path]:
        files.folder(self.options.images, PAGE)
        return [files.annotation(self.options.problems, PAGE)]

    def records(self) -> Iterator[Any]:
        for key, problem in files.mapping(self.options.problems, PAGE).items():
            if not isinstance(problem, dict):
                yield problem
            elif self.options.answers in (None, _type(problem)):
                yield {**problem, "id": key}

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        unit = optional(record, "unit")
        choices = texts(record, "choices") if _type(record) == "mc" else ()
        yield Raw(
            id=name,
            source=self.label,
            image=self.options.images / f"{record['id']}.png",
            question=text(record, "question") + (f" (Unit: {unit})" if unit else ""),
            options=choices,
            answer=chosen(text(record, "answer"), choices),
            solution=optional(record, "solution"),
            answer_type=_type(record),
        )


def _type(record: Record) -> AnswerType:
    return "mc" if record.get("ques_type") == "multi_choice" else "oe"
