"""GeoMM, the geometry problems of R-CoT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corl_cli.data.items import Unusable
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import NO_IMAGE
from corl_cli.data.sources.layouts import Dialogues, Listing, ListingOptions


class RCotOptions(ListingOptions):
    """`GeoMM.json` and the folder that `GeoMM.zip` unpacks to."""

    path: Place = Path("data/raw/rcot/GeoMM.json")
    images: Place = Path("data/raw/rcot/GeoMM")


class RCot(Listing, Dialogues):
    """GeoMM of R-CoT (Apache-2.0); it has no captions.

    `GeoMM.json` is an array: image (a list of one path, "Your_path/R-CoT-main/GeoMM/…", of which what follows GeoMM
    counts), conversations (user and assistant, the image as <ImageHere>). Schema read in public converters. How replies
    end was not found anywhere: the answer is read after the last "Answer:" or "the answer is", and a reply without
    either is dropped. The file itself has not been run here.
    """

    Options = RCotOptions
    options: RCotOptions
    label, numbered, page = "rcot", True, "https://huggingface.co/datasets/dle666/R-CoT"

    def name(self, number: int, record: Any) -> str:
        return f"{self.label}-{number}"

    def picture(self, record: Record) -> Path:
        return self.options.images / _below(record.get("image"))


def _below(image: Any) -> str:
    """The path of an image below the folder GeoMM."""
    first = image[0] if isinstance(image, list) and image else image
    if not isinstance(first, str) or not first:
        raise Unusable(NO_IMAGE)
    return first.rpartition("GeoMM/")[2]
