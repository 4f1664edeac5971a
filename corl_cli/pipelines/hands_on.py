"""Checkpoints tried by hand: what they draw for a prompt, and what they answer to a question about a picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.data import images, templates
from corl_cli.data.items import Unusable
from corl_cli.pipelines.candidates import Candidate
from corl_cli.pipelines.generate import NOTHING, SHORTEST
from corl_cli.scoring import answers, choices

if TYPE_CHECKING:
    from corl_cli.core.progress import Progress
    from corl_cli.models.base import UnifiedPolicy
    from corl_cli.pipelines.evaluate import Display

MOST = 2000  # drawings or answers of one command
NOUNS: dict[Task, str] = {"t2i": "prompt", "mm2t": "question"}
DOING: dict[Task, str] = {"t2i": "drawing", "mm2t": "answering"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What every checkpoint is asked: texts are prompts to draw, or questions about `picture`; None is the default."""

    task: Task
    texts: Sequence[str]
    n: int = 1
    seed: int = 0
    temperature: float | None = None
    cfg: float | None = None
    picture: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """One drawing or answer: whose, for which text, of which number.

    `asked` is what the model was given, `right` the verdict of the embedded world's checker on a drawing, None where it
    has none.
    """

    task: Task
    checkpoint: str
    text: str
    asked: str
    sample: int
    output: Image.Image | str
    truncated: bool = False
    right: bool | None = None

    @property
    def drawing(self) -> Image.Image:
        """The output of a prompt."""
        assert isinstance(self.output, Image.Image)
        return self.output

    @property
    def answer(self) -> str | None:
        """What the rewards would take as the answer of a text; None where it gives none."""
        return answers.extract(self.output) if isinstance(self.output, str) else None


class Trial:
    """One wish put to one checkpoint or several, with the same settings and noise.

    Noise is keyed by seed and number of the sample alone: the first drawings of eight are those of four, and where two
    checkpoints or prompts differ it is not by chance. Making one checks all but the weights; `remarks` are what to know
    before it begins.
    """

    def __init__(self, names: Sequence[str], wish: Wish) -> None:
        _check(wish)
        self.wish = wish = replace(wish, texts=list(dict.fromkeys(text.strip() for text in wish.texts)))
        self.candidates = [Candidate.find(name) for name in names]
        if len({one.checkpoint.path for one in self.candidates}) < len(names):
            raise UsageError(f"{' and '.join(names)} are the same checkpoint.", "Name another with --compare.")
        self.sampling = _sampling(self.candidates[0].recipe, wish)
        self.asked = {one.name: [self._asked(one, text) for text in wish.texts] for one in self.candidates}
        self.limits = {one.name: self._limit(one) for one in self.candidates}
        self.remarks = list(dict.fromkeys(self._remarks()))

    @property
    def settings(self) -> str:
        """How samples are drawn, in words."""
        guidance = [f"CFG {self.sampling.cfg_weight:g}"] if self.wish.task == "t2i" else []
        nucleus = [f"top-p {self.sampling.top_p:g}"] if self.sampling.top_p < 1 else []
        warmth = "greedy" if self.sampling.temperature == 0 else f"temperature {self.sampling.temperature:g}"
        return ", ".join([*guidance, warmth, *nucleus, f"seed {self.wish.seed}"])

    @property
    def facts(self) -> dict[str, Any]:
        """The same as numbers."""
        guidance = {"cfg_weight": self.sampling.cfg_weight} if self.wish.task == "t2i" else {}
        warmth = {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p}
        return {"seed": self.wish.seed, **guidance, **warmth}

    def run(self, display: Display) -> list[Made]:
        """All samples, by checkpoint, text and number; CorlError when weights or memory are not enough."""
        return [made for one in self.candidates for made in self._try(one, display)]

    def _try(self, one: Candidate, display: Display) -> list[Made]:
        display.say(f"Loading {one.name}")
        policy = one.load()
        asked = self.asked[one.name]
        rows = [(place, sample) for place in range(len(asked)) for sample in range(self.wish.n)]
        triplets = [self._triplet(asked[place], sample) for place, sample in rows]
        sampling = replace(self.sampling, max_new_tokens=self.limits[one.name])
        with display.bar(DOING[self.wish.task], len(rows)) as bar:
            outputs = list(self._sample(policy, triplets, sampling, one.recipe.eval.batch_size, bar))
        return [
            Made(
                task=self.wish.task,
                checkpoint=one.name,
                text=self.wish.texts[place],
                asked=asked[place],
                sample=sample,
                output=output,
                truncated=cut,
                right=None if isinstance(output, str) else one.verdict(asked[place], output),
            )
            for (place, sample), (output, cut) in zip(rows, outputs, strict=True)
        ]

    def _sample(
        self, policy: UnifiedPolicy, triplets: Sequence[Triplet], sampling: Sampling, size: int, bar: Progress
    ) -> Iterator[tuple[Any, bool]]:
        """Outputs and whether they were cut, `size` at once, or fewer where a GPU has no room for that."""
        start = 0
        while start < len(triplets):
            some = triplets[start : start + size]
            try:
                rollout = policy.sample(self.wish.task, some, sampling, key=f"hands-on/{self.wish.seed}")
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise CorlError("This GPU's memory is too small for this model.", "Use a larger one.") from error
                size = max(1, len(some) // 2)
                continue
            yield from zip(rollout.outputs, rollout.truncated.tolist(), strict=True)
            start += len(some)
            bar.advance(len(some))

    def _asked(self, one: Candidate, text: str) -> str:
        spelt = one.spelt(text)
        if self.wish.task == "t2i":
            return spelt
        return templates.dress(spelt, "mc" if choices.read_options(spelt) else "oe", one.instruction)

    def _triplet(self, text: str, sample: int) -> Triplet:
        return Triplet(
            id=str(sample),
            image=self.wish.picture or NOTHING,
            prompt=text,
            question=text,
            answer="",
            answer_type="oe",
            source="hand",
        )

    def _limit(self, one: Candidate) -> int:
        """New tokens of an answer, as many as the longest question leaves; CorlError where it leaves too few."""
        drawing, prompts = self.wish.task == "t2i", one.frame.prompts
        room = one.frame.room - (one.frame.num_drawing_tokens if drawing else SHORTEST)
        lengths = [(prompts.draw if drawing else prompts.ask)([text])[0].shape[1] for text in self.asked[one.name]]
        for text, length in zip(self.wish.texts, lengths, strict=True):
            if length > room:
                raise CorlError(
                    f"The {NOUNS[self.wish.task]} '{shorten(text, 60, placeholder=' …')}' is too long: with its frame "
                    f"{length} tokens, and {one.name} has room for {room}.",
                    "Shorten it.",
                )
        return min(self.sampling.max_new_tokens, one.frame.room - max(lengths))

    def _remarks(self) -> Iterator[str]:
        for text in self.wish.texts:
            for one in self.candidates:
                if (spelt := one.spelt(text)) != text:
                    yield f"'{text}' is read as '{spelt}', because words in capitals are unknown to {one.name}."
                if words := one.unknown(spelt):
                    yield f"{one.name} has no word for {', '.join(words)}."
        first, *others = self.candidates
        for one in others:
            own = replace(_sampling(one.recipe, self.wish), max_new_tokens=0)
            if own != replace(self.sampling, max_new_tokens=0):
                yield f"{one.name} is sampled as {first.name} is, and not as its own recipe says."
            if self.wish.task == "mm2t" and one.instruction != first.instruction:
                yield f"{one.name} and {first.name} are asked with different instructions, each with its own."


def picture(path: Path) -> Image.Image:
    """The picture in a file as triplets have it: upright, on white where transparent, RGB; CorlError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(BytesIO(images.read(path).data)).convert("RGB")
    except Unusable as error:
        if path.is_dir():
            raise CorlError(f"{path} is a folder.", "Name an image in it with --image.") from error
        if not path.exists():
            raise CorlError(f"There is no image {path}.", "Name one with --image.") from error
        raise CorlError(
            f"{path} cannot be asked about: {error}.",
            f"Give one picture as PNG or JPEG, of at least {images.MIN_SIDE} and at most "
            f"{math.isqrt(images.MAX_PIXELS)} pixels on a side.",
        ) from error


def lines(file: Path) -> list[str]:
    """The prompts in a text file, one a line; blank lines are passed over. CorlError when it cannot be read."""
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise CorlError(f"{file} cannot be read: {reason}.", "Give a text file with a prompt on each line.") from error
    if not found:
        raise CorlError(f"{file} holds no prompt.", "Write one on each line.")
    return found


def _check(wish: Wish) -> None:
    noun = NOUNS[wish.task]
    if not wish.texts:
        raise UsageError(f"There is no {noun}.", f'Give one or several, each in quotes: "{_example(wish.task)}"')
    for text in wish.texts:
        if not text.strip():
            raise UsageError(f"A {noun} is empty.", f'Write what you want, such as "{_example(wish.task)}"')
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"The {noun} {text!a} is no text.", "Write it in UTF-8.") from error
    if not all(math.isfinite(value or 0) for value in (wish.temperature, wish.cfg)):
        raise UsageError("--temperature and --cfg are finite numbers.", "Leave them out for the model's own.")
    if wish.n > 1 and wish.temperature == 0:
        raise UsageError(
            f"At temperature 0 all {wish.n} samples are the same.", "Give --n 1, or a higher --temperature."
        )
    if len(wish.texts) * wish.n > MOST:
        raise UsageError(
            f"{len(wish.texts)} {noun}s of {wish.n} samples are more than the {MOST} of one command.",
            "Give fewer at once. For whole benchmarks there is corl eval.",
        )


def _example(task: Task) -> str:
    return "a red circle left of a blue square" if task == "t2i" else "what colour is the circle?"


def _sampling(recipe: Recipe, wish: Wish) -> Sampling:
    """As in training, with what was asked for; a single answer is the likeliest one."""
    usual = recipe.sampling.of(wish.task)
    temperature = 0.0 if wish.task == "mm2t" and wish.n == 1 else usual.temperature
    return replace(
        usual,
        group_size=1,  # each sample is a prompt of its own, so that pieces may be cut anywhere
        temperature=temperature if wish.temperature is None else wish.temperature,
        cfg_weight=usual.cfg_weight if wish.cfg is None else wish.cfg,
    )
