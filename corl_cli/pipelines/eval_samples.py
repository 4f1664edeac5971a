"""What a page shows of one result's samples: drawings and answers, what each is worth and why, and what failed."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from corl_cli.core import pages
from corl_cli.eval.base import Item, Score
from corl_cli.eval.store import Store

T = TypeVar("T")
SIDE = 256  # pixels of a picture, at most
CRISP = 128  # pixels up to which a picture is kept exactly
PROMPTS = 3  # of a group, at most
ANSWERS = 12  # of a result, at most
EXAMPLES = 3  # of a reason to fail
ENDING = 24  # characters that all questions must end with to have them told once


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a sample is worth, in a word and a colour of the page's style."""

    word: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample on the page: `picture` is a data: address, None where there is none to show."""

    picture: str | None
    small: bool
    mark: Mark
    why: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An item with those of its samples that are shown."""

    id: str
    group: str
    prompt: str
    samples: list[Shown]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A reason why samples have no value, how often it came up, and for example where."""

    reason: str
    samples: int
    examples: str


class Samples:
    """The samples of one result, with at most `pictures` pictures among those that are shown."""

    def __init__(self, store: Store, pictures: int) -> None:
        self.store = store
        self.pictures = pictures
        self.items = store.items()
        self.scores = store.scores()
        self.answers = store.answers()
        self.ending = common_ending([item.prompt for item in self.items if item.task == "mm2t"])

    @property
    def cut(self) -> int:
        """How many answers ended at the limit on their length."""
        return sum(bool(line.get("truncated")) for line in self.answers.values())

    @property
    def drawn(self) -> dict[str, list[Asked]]:
        """Drawings of some prompts of each group, evenly spaced and not chosen by score."""
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            if item.task == "t2i":
                groups.setdefault(item.group, []).append(item)
        each = max((item.samples for items in groups.values() for item in items), default=1)
        number = min(PROMPTS, self.pictures // (each * max(1, len(groups))))
        chosen = [item for items in groups.values() for item in spread(items, max(1, number))]
        shown: dict[str, list[Asked]] = {}
        for item in spread(chosen, max(1, self.pictures // each)):
            shown.setdefault(item.group, []).append(self._asked(item, range(item.samples)))
        return shown

    @property
    def wrong(self) -> list[Asked]:
        """Answers worth less than 1, evenly spaced among them."""
        found = [
            (item, sample)
            for item in self.items
            if item.task == "mm2t"
            for sample in range(item.samples)
            if (value := self._score(item, sample).value) is not None and value < 1
        ]
        return [self._asked(item, [sample]) for item, sample in spread(found, min(ANSWERS, self.pictures))]

    @property
    def failures(self) -> list[Failure]:
        """Reasons, the most frequent first."""
        failed: dict[str, list[Item]] = {}
        for item in self.items:
            for sample in range(item.samples):
                score = self._score(item, sample)
                if score.value is None:
                    failed.setdefault(score.reason, []).append(item)
        return [
            Failure(reason=reason, samples=len(items), examples=_examples(items))
            for reason, items in sorted(failed.items(), key=lambda pair: -len(pair[1]))
        ]

    def _score(self, item: Item, sample: int) -> Score:
        missing = Score(item=item.id, sample=sample, value=None, reason="not scored yet")
        return self.scores.get((item.id, sample), missing)

    def _asked(self, item: Item, samples: Sequence[int]) -> Asked:
        prompt = item.prompt.removesuffix(self.ending) if item.task == "mm2t" else item.prompt
        shown = [self._shown(item, sample) for sample in samples]
        return Asked(id=item.id, group=item.group, prompt=prompt.strip(), samples=shown)

    def _shown(self, item: Item, sample: int) -> Shown:
        score, line = self._score(item, sample), self.answers.get((item.id, sample), {})
        path = self.store.image(item.id, sample) if item.task == "t2i" else self.store.folder / item.image
        image = _thumbnail(path)
        return Shown(
            picture=_uri(image) if image else None,
            small=image is not None and max(image.size) <= CRISP,
            mark=mark(score.value),
            why=score.reason,
            answer=line.get("text", "") + (" … (cut off)" if line.get("truncated") else ""),
        )


def mark(value: float | None) -> Mark:
    """What a sample's value, 0 to 1, is called."""
    if value is None:
        return Mark(word="failed", colour="faint")
    if value >= 1:
        return Mark(word="right", colour="good")
    return Mark(word="wrong", colour="alarm") if value <= 0 else Mark(word=f"{value:.2f}", colour="warning")


def spread(things: Sequence[T], number: int) -> list[T]:
    """At most so many of them, evenly spaced."""
    number = min(number, len(things))
    return [things[place * len(things) // number] for place in range(number)]


def short(text: str, width: int) -> str:
    """The text on one line, its end cut off where it is longer."""
    return textwrap.shorten(text, width, placeholder=" …")


def common_ending(prompts: Sequence[str]) -> str:
    """The words that all questions end with, as an instruction does; empty where these are few, or all they say."""
    distinct = set(prompts)
    if len(distinct) < 2:
        return ""
    ending = min(distinct, key=len)
    while ending and not all(prompt.endswith(ending) and prompt != ending for prompt in distinct):
        ending = re.sub(r"\A\S*\s*", "", ending)  # a word less
    return ending if len(ending) >= ENDING else ""


def _examples(items: Sequence[Item]) -> str:
    prompts = {item.id: item.prompt for item in items}
    return "; ".join(f"{name}: {short(prompt, 80)}" for name, prompt in list(prompts.items())[:EXAMPLES])


def _thumbnail(path: Path) -> Image.Image | None:
    """The picture, made smaller where it is large; None where there is none, or it cannot be read."""
    try:
        with Image.open(path) as image:
            image.thumbnail((SIDE, SIDE))
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError):  # Pillow's, of damaged files
        return None


def _uri(image: Image.Image) -> str:
    """Small pictures exactly; large ones, which PNG would make ten times as long, as WebP."""
    if max(image.size) <= CRISP:
        return pages.data_uri(image)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
