"""The embedded world: as many scenes as wanted, of any seed and either split."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydantic import Field

from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources.base import Options, Source
from corl_cli.world.drawing import draw
from corl_cli.world.items import Item, world_item
from corl_cli.world.language import caption
from corl_cli.world.scenes import Split


class WorldOptions(Options):
    """How many scenes, and which; `seed` null is the recipe's."""

    size: int = Field(10_000, ge=1)
    split: Split = "train"
    seed: int | None = None


class World(Source):
    """Scenes drawn by corl itself (Apache-2.0 like corl), each with its prompt and a question. Needs no file.

    Questions keep the world's own form of options ("red A green B"), which the tiny Janus was warmed up on.
    """

    Options = WorldOptions
    options: WorldOptions
    label = "world"

    def files(self) -> list[Path]:
        return []

    def items(self) -> Iterator[Raw | Dropped]:
        seed = self.seed if self.options.seed is None else self.options.seed
        for index in range(self.options.size):
            yield _raw(world_item(self.options.split, seed, index))


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
