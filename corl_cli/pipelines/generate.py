"""Drawing and answering what a benchmark asks, in batches that are the same whoever makes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.eval.base import Item
from corl_cli.eval.store import Store
from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.prompts import Frame
from corl_cli.pipelines import build
from corl_cli.pipelines.evaluated import Checkpoint

SHORTEST = 16  # tokens of an answer: a question that leaves less room is not asked
NOTHING = Image.new("RGB", (1, 1))  # a request to draw has no image


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Items sampled at once: of one task, with as many samples each and as many new tokens at most."""

    task: Task
    items: list[Item]
    samples: int
    max_new_tokens: int


class Generator:
    """One process' share of what a checkpoint draws and answers.

    The noise is keyed by seed, item and sample, and batches are cut from the items in their order, whatever is there
    already and however many processes there are: each makes every n-th batch, a batch that a kill left unfinished is
    made again as it was.
    """

    def __init__(
        self, recipe: Recipe, benchmark: str, checkpoint: Checkpoint, store: Store, accelerator: Accelerator
    ) -> None:
        self.recipe, self.benchmark, self.checkpoint = recipe, benchmark, checkpoint
        self.store, self.accelerator = store, accelerator
        self.items, self.answers = store.items(), store.answers()
        self.frame = Frame.load(checkpoint.path)
        self.limits = {item.id: self._limit(item) for item in self.items}

    def missing(self) -> list[Batch]:
        """The batches of this process that are not all there."""
        batches = list(self._batches())
        mine = batches[self.accelerator.process_index :: self.accelerator.num_processes]
        return [batch for batch in mine if not all(self._made(item) for item in batch.items)]

    def run(self, batches: Sequence[Batch], progress: Progress) -> None:
        """Make these batches; each is on disk before the next is begun."""
        path, device = self.checkpoint.path, self.accelerator.device
        policy = build.build_policy(self.recipe.model, path).to(device).eval()
        start, process = time.perf_counter(), self.accelerator.process_index
        with self.store.answering(process) as append:
            for batch in batches:
                self._make(policy, batch, append)
                progress.advance(len(batch.items) * batch.samples)
        made = sum(len(batch.items) * batch.samples for batch in batches)
        self.store.timed("generate", process, made, time.perf_counter() - start)

    def refuse(self) -> None:
        """Note the questions that leave no room for an answer in the model's context."""
        long = [item for item in self.items if item.task == "mm2t" and self.limits[item.id] < SHORTEST]
        long = [item for item in long if not self._made(item)]
        if not long:
            return
        with self.store.answering(self.accelerator.process_index) as append:
            for item in long:
                reason = f"the question is too long for the model's context of {self.frame.room} tokens"
                for sample in range(item.samples):
                    append({"item": item.id, "sample": sample, "failed": reason})

    def _make(self, policy: UnifiedPolicy, batch: Batch, append: Callable[[dict[str, Any]], None]) -> None:
        triplets = [self._triplet(item) for item in batch.items]
        with enough_memory(self.recipe.eval.batch_size):
            rollout = policy.sample(batch.task, triplets, self._sampling(batch), key=f"eval/{self.recipe.seed}")
        rows = [(item, sample) for item in batch.items for sample in range(batch.samples)]
        for (item, sample), output, cut in zip(rows, rollout.outputs, rollout.truncated.tolist(), strict=True):
            if isinstance(output, Image.Image):
                if self.store.drawn(item.id, sample):
                    continue  # it may have been scored
                self.store.save_image(item, sample, output)
            else:
                append({"item": item.id, "sample": sample, "text": output, "truncated": bool(cut)})

    def _made(self, item: Item) -> bool:
        if item.task == "t2i":
            return all(self.store.drawn(item.id, sample) for sample in range(item.samples))
        return all((item.id, sample) in self.answers for sample in range(item.samples))

    def _batches(self) -> Iterator[Batch]:
        kinds: dict[tuple[Task, int, int], list[Item]] = {}
        for item in self.items:
            limit = self.limits[item.id]
            if item.task == "t2i" or limit >= SHORTEST:
                kinds.setdefault((item.task, item.samples, limit), []).append(item)
        for (task, samples, limit), alike in kinds.items():
            size = max(1, self.recipe.eval.batch_size // samples)
            for start in range(0, len(alike), size):
                chosen = alike[start : start + size]
                yield Batch(task=task, items=chosen, samples=samples, max_new_tokens=limit)

    def _limit(self, item: Item) -> int:
        """How many tokens an answer may have: what recipe and item allow, and what the model's context leaves."""
        if item.task == "t2i":
            return 0
        asked = self.frame.prompts.ask([item.prompt])[0].shape[1]
        allowed = [self.recipe.eval.mm2t.max_new_tokens, self.frame.room - asked]
        return min(allowed if item.max_new_tokens is None else [*allowed, item.max_new_tokens])

    def _triplet(self, item: Item) -> Triplet:
        return Triplet(
            id=f"{self.benchmark}/{item.id}",
            image=_image(self.store.folder / item.image) if item.image else NOTHING,
            prompt=item.prompt,
            question=item.prompt,
            answer="",
            answer_type="oe",
            source=self.benchmark,
        )

    def _sampling(self, batch: Batch) -> Sampling:
        section = self.recipe.eval
        if batch.task == "t2i":
            return Sampling(group_size=batch.samples, **section.t2i.model_dump(exclude={"images"}))
        settings = section.mm2t.model_dump() | {"max_new_tokens": batch.max_new_tokens}
        return Sampling(group_size=batch.samples, **settings)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn a GPU that is too small for the batch into a CorlError that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CorlError(
            f"eval.batch_size {batch_size} does not fit this GPU's memory.",
            f"Go on with --resume --set eval.batch_size={max(1, batch_size // 2)}",
        ) from error


def _image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise CorlError(
            f"{path}, an image that is asked about, cannot be read: {error}.", "Start anew with another --out."
        ) from error
