"""GeomVerse: synthetic geometry problems with a number as the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corl_cli.data.items import Raw
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import image, optional, text
from corl_cli.data.sources.layouts import Listing, ListingOptions


class GeomVerseOptions(ListingOptions):
    """The problems, and the folder that their image paths are relative to: where the archive was unpacked."""

    path: Place = Path("data/raw/geomverse/GeomVerse/TRAIN/TRAIN_MIX/data.jsonl")
    images: Place = Path("data/raw/geomverse")


class GeomVerse(Listing):
    """GeomVerse (licence: see its paper, arXiv 2312.12241), open-ended; it has no captions.

    `data.jsonl`: question, cot, label (the number), image_path, tikz. Schema read in the scripts that made The
    Cauldron and in a public GRPO converter; the file itself has not been run here.
    """

    Options = GeomVerseOptions
    options: GeomVerseOptions
    label, numbered = "geomverse", True
    page = "https://storage.googleapis.com/gresearch/GeomVerseV0/GeomVerse.zip"

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "image_path", self.options.images),
            question=text(record, "question"),
            answer=text(record, "label"),
            solution=optional(record, "cot"),
            answer_type="oe",
        )
