"""GeoMM, the geometry problems of R-CoT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corl_cli.data.items import Dropped, Raw, Unusable
from corl_cli.data.sources import conversations, files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import NO_IMAGE

PAGE = "https://huggingface.co/datasets/dle666/R-CoT"


class RCotOptions(Options):
    """`GeoMM.json` and the folder that `GeoMM.zip` unpacks to."""

    path: Place = Path("data/raw/rcot/GeoMM.json")
    images: Place = Path("data/raw/rcot/GeoMM")


class RCot(Records):
    """GeoMM of R-CoT (Apache-2.0); it has no captions.

    `GeoMM.json` is an array: image (a list of one path, "Your_path/R-CoT-main/GeoMM/…", of which what follows GeoMM
    counts), conversations (user and assistant, the image as <ImageHere>). Schema read in public converters. How replies
    end was not found anywhere: the answer is read after the last "Answer:" or "the answer is", and a reply without
    either is dropped. The file itself has not been run here.
    """

    Options = RCotOptions
    options: RCotOptions
    label, numbered = "rcot", True

    def files(self) -> list[Path]:
        files.folder(self.options.images, PAGE)
        return [files.listing(self.options.path, PAGE)]

    def records(self) -> Iterator[Any]:
        return files.records(self.options.path, PAGE)

    def name(self, number: int, record: Any) -> str:
        return f"{self.label}-{number}"

    def read(self, name: str, record: Record) -> Iterator[Raw | Dropped]:
        for turn, one in enumerate(conversations.split(record)):
            yield from self.attempt(f"{name}-{turn}", one, self._exchange)

    def _exchange(self, name: str, record: Record) -> Iterator[Raw]:
        asked, reply = conversations.exchange(record["conversations"])
        question, options = conversations.bare(asked)
        reasoning, answer = conversations.final(reply)
        yield Raw(
            id=name,
            source=self.label,
            image=self.options.images / _below(record.get("image")),
            question=question,
            options=options,
            answer=answer,
            solution=reasoning,
            answer_type="mc" if options else None,
        )


def _below(image: Any) -> str:
    """The path of an image below the folder GeoMM."""
    first = image[0] if isinstance(image, list) and image else image
    if not isinstance(first, str) or not first:
        raise Unusable(NO_IMAGE)
    return first.rpartition("GeoMM/")[2]
