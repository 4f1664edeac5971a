"""TabMWP: word problems about tables, of both answer types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Raw
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import chosen, optional, text, texts
from corl_cli.data.sources.layouts import Problems, ProblemsOptions


class TabMwpOptions(ProblemsOptions):
    """The problems, the folder of the tables' images, and which answer type (null: both)."""

    problems: Place = Path("data/raw/tabmwp/problems_train.json")
    images: Place = Path("data/raw/tabmwp/tables")
    answers: AnswerType | None = None


class TabMwp(Problems):
    """TabMWP (CC BY-NC-SA 4.0); it has no captions.

    `problems_{split}.json` is an object by problem id: question, choices (or null), answer, unit (or null), solution,
    ques_type (multi_choice, free_text), ans_type, table_title, table, …; the image is `tables/{id}.png`. Schema read in
    a description of the files and the list of those in the authors' repository; none has been run here. The unit goes
    after the question, which without it may have no single answer. Problems of the type that is not asked for are not
    offered.
    """

    Options = TabMwpOptions
    options: TabMwpOptions
    label, page = "tabmwp", "https://github.com/lupantech/PromptPG/tree/main/data/tabmwp"

    def wanted(self, problem: Record) -> bool:
        return self.options.answers in (None, _type(problem))

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
