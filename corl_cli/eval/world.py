"""The embedded world's own benchmark of both abilities, judged exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from corl_cli.core.section import Int, Positive, Section
from corl_cli.core.types import Task
from corl_cli.eval import drawings, summary
from corl_cli.eval.base import Benchmark, Check, Item, Score, Work
from corl_cli.scoring.answers import judge
from corl_cli.world import items as world
from corl_cli.world.checker import Seen, check
from corl_cli.world.drawing import draw
from corl_cli.world.language import Spec, caption, holds, parse_prompt
from corl_cli.world.scenes import CELLS, Placed, Thing

ABILITIES: dict[Task, str] = {"t2i": "drawing", "mm2t": "answering"}
TYPES = {"mc": "answered multiple choice", "oe": "answered open-ended"}
ATTRIBUTES = {name: f"drawn {name}" for name in ("colour", "shape", "count", "position", "relation")}

Pair = tuple[Thing, Seen | None]  # what is wanted, and what stands for it


class WorldOptions(Section):
    """Which of the endless held-out items."""

    items: Positive = Field(400, description="prompts to draw, and as many questions to answer")
    seed: Int = Field(0, description="of the items; results of different seeds do not compare item by item")


class World(Benchmark):
    """Prompts and questions of held-out scenes, by turns of the world's own mix; some prompts stand several times.

    A drawing is right when it shows exactly what its prompt says, an answer by the rule of the accuracy reward. A
    prompt is drawn once: with the same number of drawings, more prompts tell more about a model than more of each.

    Every number is a mean over items, of each the mean over its samples:
      overall                     mean of drawing and answering; none where one of them has no item with a score
      drawing, answering          right drawings, right answers
      answered multiple choice,   right answers to questions of one type
      answered open-ended
      drawn colour, drawn shape   drawings in which that of every thing is right and clear; not those of nothing
      drawn count                 drawings of as many things as the prompt says
      drawn position              drawings of a lone thing in its cell, over the prompts that name one
      drawn relation              drawings of two things that stand as asked, over the prompts that ask for it
    But for the count, wanted and drawn things are paired so that most is right, those too many or too few left aside.
    """

    title = "Embedded world"
    tasks: ClassVar[Sequence[Task]] = ("t2i", "mm2t")
    measure = "mean of the shares of right drawings and of right answers on held-out items, checked exactly (corl)"
    Options = WorldOptions
    options: WorldOptions

    @property
    def comparable(self) -> bool:
        """No paper reports it."""
        return False

    def items(self, folder: Path) -> list[Item]:
        """See Benchmark: all drawings, then all answers."""
        found = [self._world_item(index) for index in range(self.options.items)]
        return [
            *(self._drawing(index, item) for index, item in enumerate(found)),
            *(self._answer(index, item) for index, item in enumerate(found)),
        ]

    def prepare(self, items: Sequence[Item], folder: Path) -> None:
        """See Benchmark."""
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        for item in items:
            if item.image:
                self._world_item(int(item.id.removeprefix("answer-"))).triplet.image.save(folder / item.image)

    def protocol(self) -> dict[str, Any]:
        """See Benchmark."""
        return {
            "source": "held-out prompts and questions of corl's embedded world",
            "seed": self.options.seed,
            "items of each ability": self.options.items,
            "drawings of each prompt": self._drawings,
            "instructions": dict(self.setting.instructions),
        }

    def scorer(self) -> dict[str, Any]:
        """See Benchmark."""
        return {
            "drawings": "exact checker of corl's embedded world",
            "answers": "what the answer tags hold, by the rule of corl's accuracy reward",
        }

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """See Benchmark; details of drawings say which attributes are right, of those that the prompt names."""
        for piece in work:
            yield _drawn(piece) if piece.item.task == "t2i" else _answered(piece)

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        """The numbers named above, without those that no item has a score for."""
        known = {item.id: item for item in items}
        found: dict[str, dict[str, list[float]]] = {}  # by number and item
        for score in scores:
            if score.value is None:
                continue
            item = known[score.item]
            rights = {ABILITIES[item.task]: score.value}
            if item.task == "mm2t":
                rights[TYPES[item.data["answer_type"]]] = score.value
            rights |= {ATTRIBUTES[name]: float(right) for name, right in score.details.get("attributes", {}).items()}
            for name, value in rights.items():
                found.setdefault(name, {}).setdefault(item.id, []).append(value)
        items_means = {name: [fmean(own) for own in values.values()] for name, values in found.items()}
        means = {name: fmean(values) for name, values in items_means.items()}
        order = (*ABILITIES.values(), *TYPES.values(), *ATTRIBUTES.values())
        overall = fmean(means.get(ability, math.nan) for ability in ABILITIES.values())
        errors = (summary.spread_of(items_means.get(ability, [])) for ability in ABILITIES.values())
        stderr = math.hypot(*errors) / len(ABILITIES)
        return {"overall": overall, "stderr": stderr} | {name: means[name] for name in order if name in means}

    def self_test(self) -> list[Check]:
        """See Benchmark."""
        image = draw((Placed(Thing("red", "circle"), "top-left"),))
        right, wrong = "a red circle at the top-left", "a red circle at the top-right"
        verdicts = [check(right, image).correct, check(wrong, image).correct]
        question = "what colour is the circle? red A green B"
        answers = [judge(question, "A", f"<think> </think> <answer> {said} </answer>", "mc").correct for said in "AB"]
        return [
            Check(name="a known drawing", passed=verdicts == [True, False], found=f"{right}: right, {wrong}: wrong"),
            Check(name="a known answer", passed=answers == [True, False], found="A: right, B: wrong"),
        ]

    @property
    def _drawings(self) -> int:
        return self.setting.drawing.images or 1

    def _world_item(self, index: int) -> world.Item:
        return world.world_item("test", self.options.seed, index)

    def _drawing(self, index: int, item: world.Item) -> Item:
        return Item(
            id=f"draw-{index:04d}",
            task="t2i",
            prompt=caption(item.spec),
            group=_drawing_group(item.spec),
            samples=self._drawings,
        )

    def _answer(self, index: int, item: world.Item) -> Item:
        triplet = item.triplet
        name = f"answer-{index:04d}"
        instruction = self.setting.instructions[triplet.answer_type]
        return Item(
            id=name,
            task="mm2t",
            prompt="\n".join(filter(None, (triplet.question, instruction))),
            group=_answer_group(item),
            image=f"inputs/{name}.png",
            data={"question": triplet.question, "answer": triplet.answer, "answer_type": triplet.answer_type},
        )


def attributes(prompt: str, found: Sequence[Seen]) -> dict[str, bool]:
    """Which attributes of a drawing are right, of those that its prompt names; see World.

    All are right exactly when the checker calls the drawing right. CorlError for a prompt that is not of the world.
    """
    spec = parse_prompt(prompt)
    places: list[Seen | None] = [*found, *[None] * (len(spec.things) - len(found))]
    orders = (tuple(zip(spec.things, order, strict=True)) for order in permutations(places, len(spec.things)))
    pairs = max(orders, key=lambda order: _likeness(spec, order))
    drawn = [(thing, seen) for thing, seen in pairs if seen]
    right = {
        "count": len(found) == len(spec.things),
        "colour": bool(drawn) and all(_colour(thing, seen) for thing, seen in drawn),
        "shape": bool(drawn) and all(_shape(thing, seen) for thing, seen in drawn),
    }
    if spec.cell:
        right["position"] = _in_place(spec, pairs)
    if spec.relation:
        right["relation"] = _in_place(spec, pairs)
    return right


def _likeness(spec: Spec, pairs: Sequence[Pair]) -> tuple[int, bool]:
    """How many colours and shapes are right, and where that is the same whether all is in its place."""
    return sum(_colour(thing, seen) + _shape(thing, seen) for thing, seen in pairs if seen), _in_place(spec, pairs)


def _colour(wanted: Thing, seen: Seen) -> bool:
    return seen.thing.colour == wanted.colour and replace(seen, fit=1.0).clear  # an unclear shape is the shape's fault


def _shape(wanted: Thing, seen: Seen) -> bool:
    return seen.thing.shape == wanted.shape and replace(seen, purity=1.0).clear


def _in_place(spec: Spec, pairs: Sequence[Pair]) -> bool:
    """Whether the only thing is in its cell, or both things stand as the prompt says; True where it says nothing."""
    cells = [seen.cell if seen else None for _, seen in pairs]
    if spec.cell:
        return cells[0] == spec.cell
    if spec.relation:
        first, second = (CELLS.index(cell) if cell else None for cell in cells)
        return first is not None and second is not None and holds(spec.relation, first, second)
    return True


def _drawing_group(spec: Spec) -> str:
    if spec.cell:
        return "draw: placed"
    if spec.relation:
        return "draw: pair"
    return "draw: count" if len(set(spec.things)) == 1 else "draw: list"


def _answer_group(item: world.Item) -> str:
    return f"answer: {item.question.topic} ({item.answer_type})"


def _drawn(work: Work) -> Score:
    item, sample = work.item, work.sample
    try:
        verdict = check(item.prompt, drawings.read(Path(work.output)))
    except ValueError as error:
        return Score(item=item.id, sample=sample, value=None, reason=str(error))
    details = {"attributes": attributes(item.prompt, verdict.found), "partial": round(verdict.partial, 4)}
    return Score(item=item.id, sample=sample, value=float(verdict.correct), reason=verdict.reason, details=details)


def _answered(work: Work) -> Score:
    item, sample, data = work.item, work.sample, work.item.data
    judgement = judge(data["question"], data["answer"], str(work.output), data["answer_type"])
    value = None if judgement.correct is None else float(judgement.correct)
    details = {"extracted": judgement.extracted, "rule": judgement.rule}
    return Score(item=item.id, sample=sample, value=value, reason=judgement.note, details=details)
