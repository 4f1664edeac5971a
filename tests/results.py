"""Results of evaluations on disk, as `corl eval` leaves them, with values that a test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from corl_cli.core.section import Section
from corl_cli.eval.base import Benchmark, Item, Score, Setting, Work
from corl_cli.eval.store import Store
from corl_cli.eval.summary import summarise


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a result is made of. `values` are {item: values of its samples}, None for a sample that failed."""

    values: Mapping[str, Sequence[float | None]]
    groups: Mapping[str, str] = field(default_factory=dict)  # of items; else all in one
    benchmark: str = "geneval"
    title: str = "GenEval"
    variant: str = ""
    checkpoint: str = "tiny-janus"
    weights: Mapping[str, float] | None = None
    scale: float = 1.0
    comparable: bool = True
    prompts: Mapping[str, Any] = field(default_factory=lambda: {"file": "prompts.jsonl"})
    scorer: Mapping[str, Any] = field(default_factory=lambda: {"detector": "a tiny one"})
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"seed": 0, "t2i": {"cfg_weight": 5.0}})
    headline: Mapping[str, float] = field(default_factory=dict)
    allow_partial: bool = False
    item: Callable[[Item], Item] = lambda item: item  # changes what an item asks
    reason: str = "no reason"
    image_size: int = 64
    limit: int | None = None
    items_of: int | None = None  # else as many as there are

    def write(self, folder: Path) -> Store:
        """The result in a folder, with everything of it but the recipe."""
        items = [self._item(name) for name in self.values]
        store = Store(folder)
        named = {"name": self.checkpoint, "weights": f"sha256:{self.checkpoint}"}
        facts = {"benchmark": self.benchmark, "variant": self.variant, "checkpoint": named}
        protocol = {"prompts": dict(self.prompts), "scorer": dict(self.scorer), "sampling": dict(self.sampling)}
        store.create(facts | protocol | {"limit": self.limit, "items_of": self.items_of or len(items)}, items, "")
        for item in items:
            self._answer(store, item)
        with store.scoring(0) as append:
            for name, values in self.values.items():
                for sample, value in enumerate(values):
                    reason = "the detector broke" if value is None else self.reason
                    append(Score(item=name, sample=sample, value=value, reason=reason))
        store.settle()
        store.timed("generate", 0, 8, 2.0)
        store.timed("score", 0, 8, 1.0)
        store.summarised(summarise(_Given(self), store, allow_partial=self.allow_partial))
        return store

    def _item(self, name: str) -> Item:
        group, samples = self.groups.get(name, "all"), len(self.values[name])
        return self.item(Item(id=name, task="t2i", prompt=f"a photo of {name}", group=group, samples=samples))

    def _answer(self, store: Store, item: Item) -> None:
        if item.image:
            (store.folder / item.image).parent.mkdir(parents=True, exist_ok=True)
            _picture(item.id, self.image_size).save(store.folder / item.image)
        for sample in range(item.samples):
            if item.task == "t2i":
                store.save_image(item, sample, _picture(f"{item.id}{sample}", self.image_size))
            else:
                line = {"item": item.id, "sample": sample, "text": f"answer to {item.id}", "truncated": False}
                with store.answering(0) as append:
                    append(line)


class _Given(Benchmark):
    tasks = ("t2i", "mm2t")
    measure = "the mean of what a test chose"
    Options = Section

    def __init__(self, given: Result) -> None:
        super().__init__(given.benchmark, Section(), Setting())
        self.given, self.title, self.scale = given, given.title, given.scale

    @property
    def comparable(self) -> bool:
        return self.given.comparable

    def items(self, folder: Path) -> list[Item]:
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        raise NotImplementedError

    def scorer(self) -> dict[str, Any]:
        raise NotImplementedError

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        raise NotImplementedError

    def weights(self, groups: Sequence[str]) -> dict[str, float] | None:
        return dict(self.given.weights) if self.given.weights else None

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        return dict(self.given.headline)


def question(item: Item) -> Item:
    """The item as a question about an image."""
    return replace(item, task="mm2t", prompt=f"What is {item.id}?", image=f"inputs/{item.id}.png")


def _picture(name: str, size: int) -> Image.Image:
    colour = tuple(hash_byte(name, place) for place in range(3))
    return Image.new("RGB", (size, size), colour)


def hash_byte(name: str, place: int) -> int:
    """The same in every process."""
    return sum((place + 1) * (index + 3) * ord(letter) for index, letter in enumerate(name)) * 37 % 256
