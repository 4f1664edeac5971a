"""Through time: what one run or several draw and answer for the same held-out items, look by look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.types import AnswerType
from corl_cli.pipelines.summary import Story
from corl_cli.scoring.answers import extract, judge
from corl_cli.scoring.choices import read_options
from corl_cli.trainer import album
from corl_cli.trainer.album import Entry, Look

LOOKS, FEWEST = 8, 3  # shown of one run, and of each of many
JUDGED = (
    "✓ and ✗ are the verdicts of corl's own accuracy rules on the final answer, made for this page; ? is an answer "
    "that they could not judge."
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer: its final answer, empty where it gives none; whether that is right, None where nothing can tell."""

    text: str
    final: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One item at one step of a run."""

    step: int
    drawings: list[Image.Image]
    answers: list[Answer]

    @property
    def right(self) -> int:
        """How many of the answers are right."""
        return sum(answer.right is True for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One held-out item with the cells of each run that was asked it, by the run's label."""

    real: Image.Image
    prompt: str
    question: str
    answer: str
    runs: dict[str, list[Cell]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Album:
    """The looks of some runs: by item for the page, the thinned looks of each run, and what could not be read."""

    items: list[Item]
    looks: dict[str, list[Look]]
    damaged: list[str]

    @property
    def drawn(self) -> list[Item]:
        """The items that were drawn."""
        return [item for item in self.items if item.prompt]

    @property
    def answered(self) -> list[Item]:
        """The items whose question was answered."""
        return [item for item in self.items if item.question]


def read(stories: Sequence[Story]) -> Album:
    """The samples of some runs, a few looks of each; damaged ones are named and left out."""
    items: dict[tuple[str, str], Item] = {}
    looks: dict[str, list[Look]] = {}
    damaged = []
    most = max(FEWEST, 2 * LOOKS // (len(stories) + 1))
    for story in stories:
        own = looks[story.label] = []
        for step in thinned(album.steps(story.run.samples), most):
            try:
                look = album.read(story.run.samples, step)
            except CorlError as error:
                damaged.append(error.message)
                continue
            own.append(look)
            for place, entry in enumerate(look.entries):
                item = items.setdefault(_key(place, entry), _item(entry))
                item.runs.setdefault(story.label, []).append(_cell(look.step, entry))
    return Album(items=list(items.values()), looks=looks, damaged=damaged)


def thinned(steps: Sequence[int], most: int) -> list[int]:
    """At most so many steps (two or more), evenly spaced; always the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def _key(place: int, entry: Entry) -> tuple[str, str]:
    """What tells items apart; where one run draws and another answers, they are two."""
    return f"{place} {entry.prompt}", entry.question


def _item(entry: Entry) -> Item:
    return Item(real=entry.real, prompt=entry.prompt, question=entry.question, answer=entry.answer)


def _cell(step: int, entry: Entry) -> Cell:
    answers = [_answer(entry, text) for text in entry.answers]
    return Cell(step=step, drawings=entry.drawings, answers=answers)


def _answer(entry: Entry, text: str) -> Answer:
    options = read_options(entry.question)
    kind: AnswerType = "mc" if entry.answer in options else "oe"  # looks do not say, but a letter that is shown does
    verdict = judge(entry.question, entry.answer, text, kind)
    return Answer(text=text, final=extract(text) or "", right=verdict.correct)
