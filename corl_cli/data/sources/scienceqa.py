"""ScienceQA: multiple-choice questions of school science, those that have an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corl_cli.data.items import Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import image, letter, optional, text, texts, titled

PAGE = "https://scienceqa.github.io/#download"


class ScienceQaOptions(Options):
    """The problems, the folder of images (with the folders train, val, test in it), and which split."""

    problems: Place = Path("data/raw/scienceqa/problems.json")
    images: Place = Path("data/raw/scienceqa/images")
    split: str = "train"


class ScienceQa(Records):
    """ScienceQA (CC BY-NC-SA 4.0), multiple choice; it has no captions.

    `problems.json` is an object by problem id: question, choices, answer (a number from 0), hint, image ("image.png" or
    null), lecture, solution, split, and subjects; the image is `images/{split}/{id}/image.png`. Schema read in the
    loading scripts and cards on the Hub and in public converters; the file itself has not been run here. The hint,
    which many questions need, goes before the question. Problems without an image are dropped.
    """

    Options = ScienceQaOptions
    options: ScienceQaOptions
    label = "scienceqa"

    def files(self) -> list[Path]:
        files.folder(self.options.images, PAGE)
        return [files.annotation(self.options.problems, PAGE)]

    def records(self) -> Iterator[Any]:
        for key, problem in files.mapping(self.options.problems, PAGE).items():
            if not isinstance(problem, dict):
                yield problem
            elif problem.get("split") == self.options.split:
                yield {**problem, "id": key}

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
