"""ScienceQA: multiple-choice questions of school science, those that have an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corl_cli.data.items import Raw
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import image, letter, optional, text, texts, titled
from corl_cli.data.sources.layouts import Problems, ProblemsOptions


class ScienceQaOptions(ProblemsOptions):
    """The problems, the folder of images (with the folders train, val, test in it), and which split."""

    problems: Place = Path("data/raw/scienceqa/problems.json")
    images: Place = Path("data/raw/scienceqa/images")
    split: str = "train"


class ScienceQa(Problems):
    """ScienceQA (CC BY-NC-SA 4.0), multiple choice; it has no captions.

    `problems.json` is an object by problem id: question, choices, answer (a number from 0), hint, image ("image.png" or
    null), lecture, solution, split, and subjects; the image is `images/{split}/{id}/image.png`. Schema read in the
    loading scripts and cards on the Hub and in public converters; the file itself has not been run here. The hint,
    which many questions need, goes before the question. Problems without an image are dropped.
    """

    Options = ScienceQaOptions
    options: ScienceQaOptions
    label, page = "scienceqa", "https://scienceqa.github.io/#download"

    def wanted(self, problem: Record) -> bool:
        return problem.get("split") == self.options.split

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        choices = texts(record, "choices")
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "image", self.options.images / self.options.split / record["id"]),
            question=titled(optional(record, "hint"), text(record, "question")),
            options=choices,
            answer=letter(record, "answer", choices),
            solution=optional(record, "solution"),
            answer_type="mc",
        )
