"""COCO captions, alone and as the captions of questions about COCO images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Options, Place, Source
from corl_cli.data.sources.fields import INCOMPLETE, LISTED_TWICE, UNREADABLE

PAGE = "https://cocodataset.org/#download"
ANNOTATIONS = Path("data/raw/coco/annotations/captions_train2017.json")
IMAGES = Path("data/raw/coco/train2017")


class CocoOptions(Options):
    """The caption file of a split and the folder of its images."""

    captions: Place = ANNOTATIONS
    images: Place = IMAGES


@dataclass(frozen=True)
class Picture:
    """An image of COCO with its captions, five of them most often."""

    file_name: str
    captions: list[str] = field(default_factory=list)


class Coco(Source):
    """COCO captions: the drawing task alone, no question. Annotations CC BY 4.0; images under Flickr's terms.

    `captions_{split}.json` holds `images` (id, file_name) and `annotations` (image_id, caption). Schema read in public
    loaders and on the cards of copies; the file itself has not been run here.
    """

    Options = CocoOptions
    options: CocoOptions
    label = "coco"

    def files(self) -> list[Path]:
        files.folder(self.options.images, PAGE)
        return [files.annotation(self.options.captions, PAGE)]

    def items(self) -> Iterator[Raw | Dropped]:
        pictures, faults = read(self.options.captions)
        for key, picture in pictures.items():
            image = self.options.images / picture.file_name
            yield Raw(id=f"{self.label}-{key}", source=self.label, image=image, captions=tuple(picture.captions))
        for place, reason in faults:
            yield Dropped(id=f"{self.label}-{place}", source=self.label, reason=reason)


def read(path: Path) -> tuple[dict[int, Picture], list[tuple[str, str]]]:
    """The pictures of a caption file by image id, in its order; and the entries that are no picture, with a reason.

    The file is read whole (90 MB for train2017); what is kept of it is the names and the captions. A caption of an
    image that the file does not list is left out: it belongs to nothing.
    """
    content = files.mapping(path, PAGE)
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise CorlError(f"{path} has no lists `images` and `annotations`, as COCO's caption files do.", f"See {PAGE}")
    pictures: dict[int, Picture] = {}
    faults: list[tuple[str, str]] = []
    for number, image in enumerate(images):
        match image:
            case {"id": int(key), "file_name": str(name)} if name and key not in pictures:
                pictures[key] = Picture(name)
            case {"id": int(key), "file_name": str()} if key in pictures:
                faults.append((f"images-{number}", LISTED_TWICE))
            case _:
                faults.append((f"images-{number}", INCOMPLETE if isinstance(image, dict) else UNREADABLE))
    for annotation in annotations:
        match annotation:
            case {"image_id": int(key), "caption": str(caption)} if key in pictures:
                pictures[key].captions.append(caption)
    return pictures, faults


class Album:
    """The pictures of a caption file, found by image id or by the name of an image file."""

    def __init__(self, path: Path) -> None:
        self.by_id, _ = read(path)
        self.by_name = {picture.file_name: picture for picture in self.by_id.values()}

    def find(self, record: Mapping[str, Any], name: str) -> Picture | None:
        """The picture of a record's `image_id`, else the one of this file name, its folders aside."""
        key = record.get("image_id")
        if isinstance(key, str) and key.isdecimal():
            key = int(key)
        return self.by_id.get(key) if isinstance(key, int) else self.by_name.get(Path(name).name)
