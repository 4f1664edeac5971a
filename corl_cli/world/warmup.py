"""Supervised warm-up of the tiny Janus: copying first, then drawing, answering and captioning together.

What differs from the textbook: before any task, the language model repeats random word sequences. That teaches it to
look a word up among words it has read, without which it answers multiple choice by chance for a long time: it sees
and concludes rightly, and then names a letter at random. Training ends by a criterion, not by a number of steps,
because seeds differ in speed and because a start that is too sure of its answers leaves GRPO nothing to compare.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corl_cli.core.types import Rollout, Sampling, Task, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.world.checker import check
from corl_cli.world.items import Item, world_item
from corl_cli.world.language import CELLS, COLOURS, LETTERS, NUMBERS, SHAPES
from corl_cli.world.scenes import Split, percentile
from corl_cli.world.tiny import ASSISTANT, BOS, USER
from corl_cli.world.vq import Report

COPY_ROWS = 96
COPY_LEARNING_RATE = 1e-3
COPY_TARGET = 0.95  # share of words copied rightly

ROWS = {"t2i": 48, "mm2t": 24, "caption": 16, "copy": 24, "look-up": 16}
LEARNING_RATE = 1.5e-3
DECAY = (600, 1500)  # steps between which the learning rate falls to its tenth
RESTING_WEIGHT = 0.1  # of a task that is good enough; left out, it would be forgotten within 50 steps
CONCLUSION_WEIGHT = 5.0  # of what follows "is" in a solution: few tokens, and they decide
LETTER_WEIGHT = 20.0  # of option letters, the last thing that is learnt
CAPTION_DROPOUT = 0.1  # prompts emptied for classifier-free guidance
UNSEEN_PERCENTILE = 25  # scenes below are not trained on: 15 % are the test split, the rest decides when to stop

_FORMAT = re.compile(r"<think>.*</think>\s*<answer>([^<]*)</answer>")


@dataclass(frozen=True)
class Ability:
    """Shares of right drawings, answers (open-ended, multiple choice) and greedy captions."""

    draw: float
    oe: float
    mc: float
    caption: float

    def reached(self, target: Ability) -> set[str]:
        """The tasks that are as good as the target."""
        questions = self.oe >= target.oe and self.mc >= target.mc
        reached = {"t2i": self.draw >= target.draw, "mm2t": questions, "caption": self.caption >= target.caption}
        return {task for task, done in reached.items() if done}

    def __str__(self) -> str:
        return f"draws {self.draw:.2f}, open {self.oe:.2f}, choice {self.mc:.2f}, captions {self.caption:.2f}"


def initialise(policy: JanusPolicy) -> None:
    """Widen transformers' initial weights of the language model: 0.02 is too small at this width."""
    for name, weight in policy.model.model.language_model.named_parameters():
        if weight.dim() == 2 and "layers" in name:
            gain = 1.0 if "q_proj" in name or "k_proj" in name else 0.7
            nn.init.normal_(weight, std=gain / weight.shape[1] ** 0.5)


def learn_copying(policy: JanusPolicy, *, seed: int, max_steps: int, report: Report) -> int:
    """Train the language model to repeat random words until it does; returns the steps it took."""
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    weights = [*policy.model.model.language_model.parameters(), *policy.model.lm_head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=COPY_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    words = _words(policy)
    right = 0.0
    for step in range(max_steps):
        _set_rate(optimiser, COPY_LEARNING_RATE, step)
        loss, accuracy = _copying(policy, _repeats(words, COPY_ROWS, rng, generator))
        _descend(optimiser, weights, loss)
        right = 0.95 * right + 0.05 * accuracy
        report(step + 1, max_steps, f"copies {right:.2f} of {COPY_TARGET:.2f}")
        if right >= COPY_TARGET:
            break
    return step + 1


class WarmUp:
    """Drawing, answering and captioning by next-token prediction on encoded items of the train split."""

    def __init__(self, policy: JanusPolicy, *, seed: int, pool_size: int, probe_items: int) -> None:
        self.policy = policy
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        policy.model.requires_grad_(True)
        policy.model.model.vqmodel.requires_grad_(False)
        self.weights = policy.trainable()
        self.optimiser = torch.optim.AdamW(self.weights, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.pools = encode_pools(policy, seen_items(seed, pool_size))
        self.probes = unseen_items(seed, probe_items)
        self.words = _words(policy)
        self.conclusion = policy.tokenizer.convert_tokens_to_ids("is")
        self.resting: set[str] = set()  # tasks that are good enough and wait for the others
        self.steps = 0

    def measure(self, target: Ability) -> Ability:
        """What the policy can do on unseen items; tasks that reach the target count less until they fall behind."""
        ability = measure(self.policy, self.probes)
        self.resting = ability.reached(target)
        return ability

    @property
    def done(self) -> bool:
        """Whether all tasks had reached the target at the last measurement."""
        return self.resting == {"t2i", "mm2t", "caption"}

    def step(self) -> float:
        """One optimiser step; returns the loss."""
        decayed = (self.steps - DECAY[0]) / (DECAY[1] - DECAY[0])
        _set_rate(self.optimiser, LEARNING_RATE * (1 - 0.9 * min(1, max(0, decayed))), self.steps)
        self.policy.train()
        losses = {
            "t2i": self._draw_loss(),
            "mm2t": self._text_loss("mm2t"),
            "caption": self._text_loss("caption"),
            "copy": 0.5 * _copying(self.policy, _repeats(self.words, ROWS["copy"], self.rng, self.generator))[0],
            "look-up": 0.5 * self._look_up_loss(),
        }
        weights = [RESTING_WEIGHT if task in self.resting else 1.0 for task in losses]
        loss = torch.stack(list(losses.values())) @ torch.tensor(weights)
        _descend(self.optimiser, self.weights, loss)
        self.steps += 1
        return float(loss.detach())

    def _rows(self, name: str) -> Rollout:
        pool = self.pools[name]
        return pool.select(torch.randint(len(pool), (ROWS[name],), generator=self.generator).tolist())

    def _draw_loss(self) -> Tensor:
        rows = self._rows("t2i")
        dropped = torch.rand(len(rows), 1, generator=self.generator) < CAPTION_DROPOUT
        prompts = torch.where(dropped, self.policy.prompts.unconditional(rows.prompt_ids), rows.prompt_ids)
        return -self.policy(replace(rows, prompt_ids=prompts)).logps.mean()

    def _text_loss(self, name: str) -> Tensor:
        rows = self._rows(name)
        concludes = (rows.completion_ids == self.conclusion).cumsum(1) - (rows.completion_ids == self.conclusion).long()
        weight = rows.completion_mask * (1 + (CONCLUSION_WEIGHT - 1) * (concludes > 0))
        weight = weight.where(~torch.isin(rows.completion_ids, self.words[-len(LETTERS) :]), LETTER_WEIGHT)
        return -(self.policy(rows).logps * weight).sum() / weight.sum()

    def _look_up_loss(self) -> Tensor:
        """Letters of options, asked without an image: options, words in a random order, "is", a word, its letter."""
        rows, length = ROWS["look-up"], self.rng.randint(4, 14)
        words, letters = self.words[: -len(LETTERS)], self.words[-len(LETTERS) :]
        order = torch.rand(rows, len(words), generator=self.generator).argsort(1)[:, :8]
        drawn = words[order]  # [rows, 8]: four options and four other words
        options = torch.stack([drawn[:, :4], letters.expand(rows, 4)], -1)  # [rows, 4, 2]
        between = drawn.gather(1, torch.randint(8, (rows, length), generator=self.generator))
        asked = options[torch.arange(rows), torch.randint(4, (rows,), generator=self.generator)]
        question, thought, conclusion = (
            torch.tensor(self.policy.tokenizer.convert_tokens_to_ids(marks)).expand(rows, -1)
            for marks in ([BOS, USER], [ASSISTANT, "<think>"], ["is"])
        )
        ids = torch.cat([question, options.flatten(1), thought, between, conclusion, asked], 1)
        hidden = self.policy.model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
        return F.cross_entropy(self.policy.model.lm_head(hidden[:, -2]), ids[:, -1])


def seen_items(seed: int, number: int) -> list[Item]:
    """Items of the train split that the warm-up learns from."""
    return _items("train", seed, number, lambda item: percentile(item.scene) >= UNSEEN_PERCENTILE)


def unseen_items(seed: int, number: int) -> list[Item]:
    """Items of the train split that the warm-up does not learn from: as new to it as the test split, and like it.

    Prompts that name no cell are left out, because the test split has none.
    """

    def keep(item: Item) -> bool:
        return percentile(item.scene) < UNSEEN_PERCENTILE and (len(item.scene) > 1 or item.spec.cell is not None)

    return _items("train", seed, number, keep)


def encode_pools(policy: JanusPolicy, items: Sequence[Item]) -> dict[str, Rollout]:
    """The items as rows to learn from: prompts with drawings, questions with solutions, scenes with captions."""
    triplets, captioning = [item.triplet for item in items], [item.captioning for item in items]
    return {
        "t2i": policy.encode("t2i", triplets, [triplet.image for triplet in triplets]),
        "mm2t": policy.encode("mm2t", triplets, [item.solution for item in items]),
        "caption": policy.encode("mm2t", captioning, [triplet.answer for triplet in captioning]),
    }


def measure(policy: JanusPolicy, items: Sequence[Item], *, temperature: float = 1.0, key: str = "measure") -> Ability:
    """What the policy can do on these items, without classifier-free guidance; captions are greedy."""
    sampling = Sampling(temperature=temperature, max_new_tokens=32)
    triplets = [item.triplet for item in items]
    drawings = _sample(policy, "t2i", triplets, sampling, key)
    answers = _sample(policy, "mm2t", triplets, sampling, key)
    captioning = [item.captioning for item in items]
    captions = _sample(policy, "mm2t", captioning, replace(sampling, temperature=0.0), key)
    right = [answered(text, triplet.answer) for text, triplet in zip(answers, triplets, strict=True)]
    by_type = {
        kind: _share([r for r, triplet in zip(right, triplets, strict=True) if triplet.answer_type == kind])
        for kind in ("oe", "mc")
    }
    return Ability(
        draw=_share([check(t.prompt, image).correct for t, image in zip(triplets, drawings, strict=True)]),
        caption=_share([text == t.answer for text, t in zip(captions, captioning, strict=True)]),
        **by_type,
    )


def answered(text: str, gold: str) -> bool:
    """Whether a completion keeps the format and its answer is the gold one."""
    match = _FORMAT.fullmatch(text.strip())
    return match is not None and match[1].strip() == gold


def _items(split: Split, seed: int, number: int, keep: Callable[[Item], bool]) -> list[Item]:
    stream = (world_item(split, seed, index) for index in count())
    return list(islice(filter(keep, stream), number))


def _sample(policy: JanusPolicy, task: Task, triplets: Sequence[Triplet], sampling: Sampling, key: str) -> list[Any]:
    chunks = (triplets[start : start + 100] for start in range(0, len(triplets), 100))
    return [output for chunk in chunks for output in policy.sample(task, chunk, sampling, key=key).outputs]


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights) if rights else 0.0


def _words(policy: JanusPolicy) -> Tensor:
    words = [*COLOURS, *SHAPES, *CELLS, *NUMBERS, *LETTERS]
    return torch.tensor(policy.tokenizer.convert_tokens_to_ids(words))


def _repeats(words: Tensor, rows: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Rows [rows, 3 L] of L different random words, three times over; L is 4..14."""
    length = rng.randint(4, 14)
    order = torch.rand(rows, len(words), generator=generator).argsort(1)[:, :length]
    return words[order].repeat(1, 3)


def _copying(policy: JanusPolicy, ids: Tensor) -> tuple[Tensor, float]:
    """Loss and accuracy of the second and third repetition, their first word left out: it cannot be known."""
    length = ids.shape[1] // 3
    hidden = policy.model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    logits, targets = policy.model.lm_head(hidden[:, length:-1]), ids[:, length + 1 :]
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss, float((logits.argmax(-1) == targets).float().mean())


def _set_rate(optimiser: torch.optim.Optimizer, rate: float, step: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1, (step + 1) / 30)


def _descend(optimiser: torch.optim.Optimizer, weights: Sequence[nn.Parameter], loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
