"""Any file of images, questions and answers: what GPT-VQA offers, LLaVA-like conversations, VQA-like answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from corl_cli.data.items import Dropped, Raw, Unusable
from corl_cli.data.sources import coco, conversations, files
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import (
    INCOMPLETE,
    NO_IMAGE,
    NOT_ANNOTATED,
    answer,
    answer_type,
    majority,
    optional,
    several,
    text,
    texts,
    unlettered,
)
from corl_cli.data.sources.layouts import Listing, ListingOptions


class QuestionsOptions(ListingOptions):
    """The file of questions, the folder that its image names are relative to, and where captions come from.

    With `captions`, a caption file of COCO, an image is found there by `image_id` or by its file name, and lies in
    `images` under the name it has there; without, the record's own `image` and `caption` or `captions` count.
    """

    captions: Place | None = None
    label: str = Field("questions", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


class Questions(Listing):
    """Questions of a JSON array or JSON lines, their licence and origin the user's to know.

    A record has `image` (a file name) or `image_id`, and either `conversations` (LLaVA's: every pair of turns is a
    question) or `question` with `answer` or `answers` (one, several of which the most frequent counts, or VQA's list
    of {"answer": …}). It may have `options` or `choices`, `caption` or `captions`, `rationale`, `answer_type`. Ids are
    `question_id` where there is one, else the place in the file, because `id` often names the image. There is no
    published schema of GPT-VQA to follow; LLaVA's was read in public documentation.
    """

    Options = QuestionsOptions
    options: QuestionsOptions
    id_field, numbered, page = "question_id", True, "where it came from"

    def __init__(self, options: QuestionsOptions, seed: int) -> None:
        super().__init__(options, seed)
        self.label = options.label
        self.album: coco.Album | None = None

    def files(self) -> list[Path]:
        own, captions = super().files(), self.options.captions
        return [*own, files.annotation(captions, coco.PAGE)] if captions else own

    def records(self) -> Iterator[Any]:
        self.album = coco.Album(self.options.captions) if self.options.captions else None
        return super().records()

    def read(self, name: str, record: Record) -> Iterator[Raw | Dropped]:
        if "conversations" not in record:
            yield from self._question(name, record)
            return
        for turn, one in enumerate(conversations.split(record)):
            yield from self.attempt(f"{name}-{turn}", one, self._question)

    def _question(self, name: str, record: Record) -> Iterator[Raw]:
        image, captions = self._picture(record)
        question, told = _asked(record)
        options = next((texts(record, key) for key in ("options", "choices") if record.get(key)), ())
        yield Raw(
            id=name,
            source=self.label,
            image=image,
            captions=captions,
            question=question,
            options=unlettered(options),
            answer=told,
            solution=optional(record, "rationale"),
            answer_type=answer_type(record, "answer_type"),
        )

    def _picture(self, record: Record) -> tuple[Path, tuple[str, ...]]:
        """The image of a record and its captions."""
        named = optional(record, "image")
        if self.album:
            picture = self.album.find(record, named)
            if picture is None:
                raise Unusable(NOT_ANNOTATED)
            return self.options.images / picture.file_name, tuple(picture.captions)
        if not named:
            raise Unusable(NO_IMAGE)
        return self.options.images / named, several(record, "captions") or several(record, "caption")


def _asked(record: Record) -> tuple[str, str]:
    """The question of a record, and its answer."""
    if "conversations" in record:
        return conversations.exchange(record["conversations"])
    if "answers" in record and "answer" not in record:
        return text(record, "question"), majority(_answers(record["answers"]))
    return text(record, "question"), answer(record, "answer")


def _answers(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise Unusable(INCOMPLETE)
    plain = [one.get("answer") if isinstance(one, dict) else one for one in given]
    return texts({"answers": plain}, "answers")
