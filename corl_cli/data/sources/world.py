"""The embedded world: as many scenes as wanted, of any seed and either split."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

from pydantic import Field

from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources.base import Options, Source
from corl_cli.world.drawing import draw
from corl_cli.world.items import Item, world_item
from corl_cli.world.language import caption
from corl_cli.world.scenes import Split

EXHAUSTED = "no further scene"
PATIENCE = 1000  # repeats in a row, after which the world has given what it has


class WorldOptions(Options):
    """How many items, and which; `seed` null is the recipe's."""

    size: int = Field(10_000, ge=1)
    split: Split = "train"
    seed: int | None = None


class World(Source):
    """Scenes drawn by corl itself (Apache-2.0 like corl), each with its prompt and a question. Needs no file.

    Questions keep the world's own form of options ("red A green B"), which the tiny Janus was warmed up on. A scene may
    come again with another question; one that comes with the same question and options is passed over, so that there
    are `size` different items. Where the world has no more of them, the last item says so, dropped.
    """

    Options = WorldOptions
    options: WorldOptions
    label = "world"

    def files(self) -> list[Path]:
        return []

    def items(self) -> Iterator[Raw | Dropped]:
        seed = self.seed if self.options.seed is None else self.options.seed
        met: set[bytes] = set()
        index, latest = 0, 0  # the number of the next scene, and of the last that was new
        while len(met) < self.options.size:
            item = world_item(self.options.split, seed, index)
            if index - latest > PATIENCE:
                yield Dropped(id=item.id, source=self.label, reason=EXHAUSTED)
                return
            index += 1
            if (key := _key(item)) not in met:
                met.add(key)
                latest = index
                yield _raw(item)


def _key(item: Item) -> bytes:
    """The same for the same question, its options in any order, about the same scene: 8 bytes, to remember millions."""
    asked = (item.scene, item.question.words, sorted(item.question.options))
    return blake2b(repr(asked).encode(), digest_size=8).digest()


def _raw(item: Item) -> Raw:
    image = BytesIO()
    draw(item.scene).save(image, format="PNG")
    return Raw(
        id=item.id,
        source="world",
        image=image.getvalue(),
        captions=(caption(item.spec),),
        question=item.question.text,
        answer=item.question.gold,
        answer_type=item.answer_type,
    )
