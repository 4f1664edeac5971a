"""From what a source offers to a triplet of the set, or to the reason why it is none. One item at a time, no state."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from corl_cli.core.recipe import Prepare
from corl_cli.data import concepts, filters, images, questions
from corl_cli.data.items import Dropped, Kept, Raw, Unusable

NO_CAPTION = "no caption"

REASONS = (*questions.REASONS, NO_CAPTION, *filters.REASONS, *images.REASONS)  # all that `make` drops an item for


def make(raw: Raw, prepare: Prepare) -> Kept | Dropped:
    """The triplet that an item becomes under a recipe, or the first fault that it has, text before image.

    An item without a question is for drawing only, one without captions for answering only: it keeps an empty prompt,
    its coverage is NaN, and filters of prompts leave it alone.
    """
    raw = replace(raw, id=questions.clean(raw.id))
    try:
        question = questions.normalise(raw)
        prompt, coverage = _prompt(raw, question.matter, prepare)
        picture = images.read(raw.image)
        if fault := filters.size_fault(picture.width, picture.height, prepare.filters):
            raise Unusable(fault)
    except Unusable as fault:
        return Dropped(id=raw.id, source=raw.source, reason=str(fault))
    path = _path(raw.image, absolute=prepare.images == "paths")
    elsewhere = prepare.images == "paths" and path and picture.as_is
    return Kept(
        id=raw.id,
        source=raw.source,
        image=b"" if elsewhere else picture.data,
        path=path,
        prompt=prompt,
        question=question.text,
        answer=question.answer,
        answer_type=question.answer_type,
        coverage=coverage,
        width=picture.width,
        height=picture.height,
        digest=picture.digest,
        phash=picture.phash,
    )


def _prompt(raw: Raw, matter: str, prepare: Prepare) -> tuple[str, float]:
    """The caption that covers the matter best among those that pass the filters, and its coverage."""
    if not raw.captions and matter:
        return "", math.nan
    captions = [caption for text in raw.captions if (caption := " ".join(questions.clean(text).split()))]
    if not captions:
        raise Unusable(NO_CAPTION)
    faults = [filters.prompt_fault(caption, prepare.filters) for caption in captions]
    passed = [caption for caption, fault in zip(captions, faults, strict=True) if not fault]
    if not passed:
        raise Unusable(faults[0])
    index, coverage = concepts.choose(passed, matter, prepare.synonyms)
    if fault := filters.coverage_fault(coverage, prepare.filters):
        raise Unusable(fault)
    return passed[index], coverage


def _path(image: Path | bytes, *, absolute: bool) -> str:
    """Where an image came from, `absolute` where a reader will look for it there, from whatever folder.

    Empty for bytes, and for a name that is no text, whose image is stored instead.
    """
    path = str(image.resolve() if absolute else image) if isinstance(image, Path) else ""
    return path if path.encode(errors="ignore").decode() == path else ""
