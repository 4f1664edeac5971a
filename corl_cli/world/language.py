"""The world's language: what prompts say and mean, and questions with their reasoned solutions.

Options are written word first, letter second ("red A green B"), so that naming the word leads to its letter by the
look-up that small language models learn first.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from corl_cli.core.errors import CorlError
from corl_cli.world.scenes import CELLS, COLOURS, SHAPES, Kind, Placed, Scene, Thing

NUMBERS = ("one", "two", "three", "four")
LETTERS = ("A", "B", "C", "D")
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
CAPTION_QUESTION = "describe the image"

_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
_THING = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
_COUNT = re.compile(rf"({'|'.join(NUMBERS[1:])}) ({'|'.join(COLOURS)}) ({'|'.join(_SINGULARS)})")
_PLACED = re.compile(rf"({_THING.pattern}) at the ({'|'.join(CELLS)})")
_PAIR = re.compile(rf"({_THING.pattern}) ({'|'.join(CONVERSE)}) ({_THING.pattern})")
_BETWEEN = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+")


@dataclass(frozen=True)
class Spec:
    """What a prompt asks for: exactly these things, and where if it says so.

    `cell` places the only thing; `relation` holds from the first of two things to the second.
    """

    things: tuple[Thing, ...]
    cell: str | None = None
    relation: str | None = None


def specify(kind: Kind, scene: Scene, rng: random.Random) -> Spec:
    """A prompt of this kind that is true of the scene; a pair is told from either side, the rest in reading order."""
    things = tuple(placed.thing for placed in scene)
    if kind == "pair":
        spec = canonical(scene)
        assert spec.relation is not None
        return spec if rng.random() < 0.5 else Spec(spec.things[::-1], relation=CONVERSE[spec.relation])
    return Spec(things, cell=scene[0].cell if kind == "placed" else None)


def canonical(scene: Scene) -> Spec:
    """The one description of a scene that a captioner should give: reading order, with the cell of a lone object."""
    things = tuple(placed.thing for placed in scene)
    if len(scene) == 1:
        return Spec(things, cell=scene[0].cell)
    if len(scene) == 2 and things[0] != things[1]:
        same_row = CELLS.index(scene[0].cell) // 2 == CELLS.index(scene[1].cell) // 2
        return Spec(things, relation="left of" if same_row else "above")
    return Spec(things)


def caption(spec: Spec) -> str:
    """The words of a prompt; `parse_prompt` inverts it."""
    phrases = [f"a {colour} {shape}" for colour, shape in spec.things]
    if spec.relation:
        return f"{phrases[0]} {spec.relation} {phrases[1]}"
    if len(spec.things) == 1:
        return f"{phrases[0]} at the {spec.cell}" if spec.cell else phrases[0]
    if len(set(spec.things)) == 1:
        colour, shape = spec.things[0]
        return f"{NUMBERS[len(spec.things) - 1]} {colour} {PLURALS[shape]}"
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def parse_prompt(text: str) -> Spec:
    """What a prompt in the world's language asks for; CorlError when it is not in that language."""
    text = " ".join(text.split())
    if match := _PLACED.fullmatch(text):
        return Spec((Thing(match[2], match[3]),), cell=match[4])
    if match := _PAIR.fullmatch(text):
        return Spec((Thing(match[2], match[3]), Thing(match[6], match[7])), relation=match[4])
    if match := _COUNT.fullmatch(text):
        return Spec((Thing(match[2], _SINGULARS[match[3]]),) * (NUMBERS.index(match[1]) + 1))
    things = [_THING.fullmatch(phrase) for phrase in _BETWEEN.split(text)]
    if 1 <= len(things) <= len(CELLS) and all(things):
        return Spec(tuple(Thing(match[1], match[2]) for match in things if match))
    raise CorlError(
        f"'{text}' is not a prompt of the embedded world.",
        "Write for instance 'a red circle left of a blue square' or 'three green crosses' (see `corl world show`).",
    )


def is_true(spec: Spec, scene: Sequence[Placed]) -> bool:
    """Whether the scene holds exactly the things of the spec, where the spec says."""
    if Counter(spec.things) != Counter(placed.thing for placed in scene):
        return False
    if spec.cell:
        return scene[0].cell == spec.cell
    if spec.relation:
        first, second = (CELLS.index(next(p.cell for p in scene if p.thing == thing)) for thing in spec.things)
        return holds(spec.relation, first, second)
    return True


def holds(relation: str, first: int, second: int) -> bool:
    """Whether a thing in cell `first` stands in the relation to one in cell `second` (indices into CELLS)."""
    (row, column), (other_row, other_column) = divmod(first, 2), divmod(second, 2)
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[relation]


@dataclass(frozen=True)
class Question:
    """A question about a scene; `options` is empty for open-ended ones, `answer` is always in words."""

    topic: Literal["count", "where", "colour", "shape"]
    words: str
    key: str  # what the conclusion repeats before the answer, so that a small model can look the answer up
    answer: str
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The question with its options."""
        options = (f"{word} {letter}" for word, letter in zip(self.options, LETTERS, strict=False))
        return " ".join((self.words, *options))

    @property
    def gold(self) -> str:
        """What belongs between the answer tags: a letter, or words."""
        return LETTERS[self.options.index(self.answer)] if self.options else self.answer


def ask(scene: Scene, rng: random.Random, multiple_choice: bool) -> Question:
    """A random question with one right answer; colour and shape are asked only of things that the question singles out.

    Counting is asked half as often as the rest, because it is all that can be asked of several of a kind.
    """
    questions = _questions(scene)
    topics = sorted({question.topic for question in questions})
    topic = rng.choices(topics, [1 if topic == "count" else 2 for topic in topics])[0]
    question = rng.choice([question for question in questions if question.topic == topic])
    if not multiple_choice:
        return question
    pool: tuple[str, ...] = {"count": NUMBERS, "where": CELLS, "colour": COLOURS, "shape": SHAPES}[topic]
    options = [question.answer, *rng.sample([word for word in pool if word != question.answer], 3)]
    rng.shuffle(options)
    return Question(question.topic, question.words, question.key, question.answer, tuple(options))


def _questions(scene: Scene) -> list[Question]:
    things = [placed.thing for placed in scene]
    questions = [Question("count", "how many objects are there?", "", NUMBERS[len(scene) - 1])]
    for (colour, shape), cell in scene:
        if things.count(Thing(colour, shape)) == 1:
            key = f"{colour} {shape}"
            questions.append(Question("where", f"where is the {key}?", key, cell))
        if sum(thing.shape == shape for thing in things) == 1:
            questions.append(Question("colour", f"what colour is the {shape}?", shape, colour))
        if sum(thing.colour == colour for thing in things) == 1:
            questions.append(Question("shape", f"what shape is the {colour} object?", "", shape))
    return questions


def solve(scene: Scene, question: Question) -> str:
    """The solution: what is seen, what follows from it, and the answer in its tags."""
    seen = ", ".join(f"{colour} {shape} {cell}" for (colour, shape), cell in scene)
    conclusion = " ".join(filter(None, ("is", question.key, question.answer)))
    if question.options:
        conclusion += f" {question.gold}"
    return f"<think> {seen} {conclusion} </think> <answer> {question.gold} </answer>"


def vocabulary() -> list[str]:
    """Every word and mark that prompts, questions and solutions use, in a fixed order."""
    grammar = "a and at the left right of above below how many objects are there where is what colour shape object"
    words = [*grammar.split(), *CAPTION_QUESTION.split(), *NUMBERS, *COLOURS, *SHAPES, *PLURALS.values()]
    return list(dict.fromkeys([*words, *CELLS, *LETTERS, ",", "?", "."]))
