"""ArxivQA: multiple-choice questions about figures of scientific papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corl_cli.data.items import Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import bracketed, image, optional, text, texts, unlettered
from corl_cli.data.sources.layouts import Listing, ListingOptions


class ArxivQaOptions(ListingOptions):
    """The questions, and the folder that holds the unpacked folder `images`."""

    path: Place = Path("data/raw/arxivqa/arxivqa.jsonl")
    images: Place = Path("data/raw/arxivqa")


class ArxivQa(Listing):
    """ArxivQA (CC BY-SA 4.0), multiple choice, written by GPT-4V; it has no captions.

    `arxivqa.jsonl`: id, image ("images/2211.02201_2.jpg"), question, options ("A) …"), label, rationale. Schema read
    on the set's card and in public converters; the file itself has not been run here. Some labels are a letter, some
    a letter with the option's text; a label that is none of the options is dropped when items are made.
    """

    Options = ArxivQaOptions
    options: ArxivQaOptions
    label, page = "arxivqa", "https://huggingface.co/datasets/MMInstruction/ArxivQA"

    def files(self) -> list[Path]:
        files.folder(self.options.images / "images", self.page)
        return super().files()

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "image", self.options.images),
            question=text(record, "question"),
            options=unlettered(texts(record, "options")),
            answer=bracketed(text(record, "label")),
            solution=optional(record, "rationale"),
            answer_type="mc",
        )
