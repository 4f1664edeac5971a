"""Items of the embedded world: a scene with its drawing, its prompt and a question about it, from a seed."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from corl_cli.core.types import AnswerType, LazyTriplets, Triplet
from corl_cli.world.drawing import draw
from corl_cli.world.language import CAPTION_QUESTION, Question, Spec, ask, canonical, caption, solve, specify
from corl_cli.world.scenes import Scene, Split, sample_from

TYPES: tuple[AnswerType, ...] = ("mc", "oe")  # of questions, by turns


@dataclass(frozen=True, kw_only=True)
class Item:
    """One scene, the prompt that describes it, and a question about it."""

    id: str
    scene: Scene
    spec: Spec
    question: Question

    @property
    def answer_type(self) -> AnswerType:
        """Multiple choice or open-ended."""
        return "mc" if self.question.options else "oe"

    @property
    def solution(self) -> str:
        """The reasoned answer in the format that the rewards ask for."""
        return solve(self.scene, self.question)

    @property
    def triplet(self) -> Triplet:
        """The item as <image, prompt, question>."""
        return Triplet(
            id=self.id,
            image=draw(self.scene),
            prompt=caption(self.spec),
            question=self.question.text,
            answer=self.question.gold,
            answer_type=self.answer_type,
            source="world",
            solution=self.solution,
        )

    @property
    def captioning(self) -> Triplet:
        """The item with "describe the image" as its question and the canonical caption as its answer."""
        words = caption(canonical(self.scene))
        return Triplet(
            id=f"{self.id}-caption",
            image=draw(self.scene),
            prompt=caption(self.spec),
            question=CAPTION_QUESTION,
            answer=words,
            answer_type="oe",
            source="world",
        )


def world_item(split: Split, seed: int, index: int) -> Item:
    """The item number `index` of a split under a seed; even ones are multiple choice, odd ones open-ended."""
    rng = random.Random(f"{split}/{seed}/{index}")
    kind, scene = sample_from(rng, split)
    spec = specify(kind, scene, rng)
    question = ask(scene, rng, multiple_choice=TYPES[index % 2] == "mc")
    return Item(id=f"world-{split}-{seed}-{index}", scene=scene, spec=spec, question=question)


def world_triplet(split: Split, seed: int, index: int) -> Triplet:
    """The triplet number `index` of a split under a seed."""
    return world_item(split, seed, index).triplet


class WorldTriplets(LazyTriplets):
    """`size` triplets of a split under a seed, of the types asked for, made when they are asked for."""

    def __init__(self, split: Split, size: int, seed: int = 0, answer_types: Collection[AnswerType] = TYPES) -> None:
        self.split, self.size, self.seed = split, size, seed
        self.step = len(TYPES) // len(set(answer_types))
        self.first = min(map(TYPES.index, answer_types))

    def __len__(self) -> int:
        return self.size

    def at(self, index: int) -> Triplet:
        return world_triplet(self.split, self.seed, self.first + self.step * index)
