"""A-OKVQA: questions about COCO 2017 images that need knowledge of the world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from corl_cli.data.items import Raw, Unusable
from corl_cli.data.sources import coco, files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import DISAGREEMENT, NOT_ANNOTATED, letter, majority, number, text, texts

PAGE = "https://allenai.org/project/a-okvqa"


class AokvqaOptions(Options):
    """The questions, COCO's captions and images of the same split, and how they are to be answered."""

    annotations: Place = Path("data/raw/aokvqa/aokvqa_v1p0_train.json")
    captions: Place = coco.ANNOTATIONS
    images: Place = coco.IMAGES
    answers: Literal["mc", "oe"] = "mc"


class Aokvqa(Records):
    """A-OKVQA v1.0 (Apache-2.0), its captions from COCO 2017: train for train, val for val.

    `aokvqa_v1p0_{split}.json` is an array of: question_id, image_id, question, choices (4), correct_choice_idx,
    direct_answers (10), difficult_direct_answer, rationales (3). Schema read in public loaders (LAVIS's among them) and
    a printed entry; the file itself has not been run here. Open-ended answers are the most frequent of the direct ones;
    questions that the authors mark as having no agreed direct answer are then dropped, as in their evaluation. The
    rationales are left out: the paper chooses captions by problem and solution, and its solutions are the answers.
    """

    Options = AokvqaOptions
    options: AokvqaOptions
    label, id_field = "aokvqa", "question_id"

    def files(self) -> list[Path]:
        files.folder(self.options.images, coco.PAGE)
        return [files.listing(self.options.annotations, PAGE), files.annotation(self.options.captions, coco.PAGE)]

    def records(self) -> Iterator[Any]:
        self.album = coco.Album(self.options.captions)
        return files.records(self.options.annotations, PAGE)

    def name(self, number: int, record: Any) -> str:
        return f"{super().name(number, record)}-{self.options.answers}"

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        picture = self.album.by_id.get(number(record, "image_id"))
        if picture is None:
            raise Unusable(NOT_ANNOTATED)
        mc = self.options.answers == "mc"
        choices = texts(record, "choices") if mc else ()
        yield Raw(
            id=name,
            source=self.label,
            image=self.options.images / picture.file_name,
            captions=tuple(picture.captions),
            question=text(record, "question"),
            options=choices,
            answer=letter(record, "correct_choice_idx", choices) if mc else _agreed(record),
            answer_type=self.options.answers,
        )


def _agreed(record: Record) -> str:
    if record.get("difficult_direct_answer") is True:
        raise Unusable(DISAGREEMENT)
    return majority(texts(record, "direct_answers"))
