"""One triplet of a set as the model will see it: the chat text of both tasks and its tokens. No weights are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import TASKS, Task, Triplet
from corl_cli.data import triplets
from corl_cli.models.prompts import ChatPrompts, Frame
from corl_cli.pipelines import build


@dataclass(frozen=True, kw_only=True)
class View:
    """The prompt of one task: `text` is what its tokens say, `new` how many tokens may follow, `room` the context."""

    task: Task
    text: str
    text_tokens: int
    image_tokens: int
    new: int
    room: int

    @property
    def total(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return self.text_tokens + self.image_tokens + self.new

    @property
    def fits(self) -> bool:
        """Whether the model's context holds them; training stops at a triplet that does not fit."""
        return self.total <= self.room


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A triplet, its number among the `rows` of its split, and its prompts in the tasks that it has texts for."""

    triplet: Triplet
    index: int
    rows: int
    views: list[View]


def see(recipe: Recipe, index: int, split: str | None = None) -> Seen:
    """Triplet `index` (from the end if negative) of the recipe's data, in the format of the recipe's checkpoint.

    UsageError for an index that is not there, CorlError for data or a tokenizer that cannot be read.
    """
    items = triplets.load(recipe.data, recipe.seed, split=split)
    if not -len(items) <= index < len(items):
        raise UsageError(
            f"There is no triplet {index}: {recipe.data.path} has {len(items)} in {split or recipe.data.split}.",
            f"Give --index 0 to {len(items) - 1}." if items else "Choose another --split.",
        )
    triplet = items[index]
    build.policy_class(recipe.model.family)
    frame = Frame.load(build.locate(recipe.model.checkpoint))
    texts: dict[Task, str] = {"t2i": triplet.prompt, "mm2t": triplet.question}
    limits: dict[Task, int] = {"t2i": frame.num_drawing_tokens, "mm2t": recipe.sampling.mm2t.max_new_tokens}
    views = [_view(frame, task, texts[task], limits[task]) for task in TASKS if texts[task].strip()]
    return Seen(triplet=triplet, index=index % len(items), rows=len(items), views=views)


def _view(frame: Frame, task: Task, text: str, new: int) -> View:
    prompts = frame.prompts
    ids = (prompts.draw([text]) if task == "t2i" else prompts.ask([text]))[0][0]
    images = int((ids == frame.image_token_id).sum())
    return View(
        task=task,
        text=_abbreviated(prompts, ids.tolist()),
        text_tokens=len(ids) - images,
        image_tokens=images,
        new=new,
        room=frame.room,
    )


def _abbreviated(prompts: ChatPrompts, ids: list[int]) -> str:
    """The text of tokens, unknown words as the tokenizer reads them; a run of placeholders stands there once."""
    token = prompts.tokenizer.image_token
    text = prompts.tokenizer.decode(ids, skip_special_tokens=False)
    run = re.compile(rf"{re.escape(token)}(?:\s*{re.escape(token)})*")
    return run.sub(lambda match: f"{token} x {match[0].count(token)}", text)
