"""Who answers questions about drawings: a transformers model, or a judge behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.eval import drawings, vqa
from corl_cli.eval.judge import Judge, JudgeError

TEMPLATE = "dpg-question-1"  # vqa.QUESTION
JUDGE = "judge"  # the name of the second one in a recipe

Asked = tuple[Path, str]  # a drawing and a question about it
Answer = str | ValueError | JudgeError  # what was said, or why nothing was


class Scorer(Protocol):
    """Answers questions about drawings."""

    kind: str

    def requirements(self) -> list[Requirement]:
        """What it needs from the machine."""

    def identity(self) -> dict[str, Any]:
        """What its answers depend on, in JSON."""

    def load(self, device: torch.device) -> None:
        """Get ready to be asked."""

    def ask(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """The answer to each question by its place, as soon as it is known."""


def choose(scorer: str, judge: evaluation.Judge | None) -> Scorer:
    """The scorer that a recipe names."""
    return ByJudge(judge) if scorer == JUDGE else ByModel(scorer)


class ByModel:
    """A model on this machine."""

    kind = "vqa model"

    def __init__(self, checkpoint: str) -> None:
        self.model = vqa.VqaModel(checkpoint)

    def requirements(self) -> list[Requirement]:
        """See Scorer."""
        return self.model.requirements()

    def identity(self) -> dict[str, Any]:
        """See Scorer."""
        return {self.kind: self.model.checkpoint, "question": f"{vqa.QUESTION} To BLIP: {{question}}"}

    def load(self, device: torch.device) -> None:
        """See Scorer."""
        self.model.load(device)

    def ask(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """See Scorer."""
        for start in range(0, len(asked), vqa.ROWS):
            batch = asked[start : start + vqa.ROWS]
            images = {path: _image(path) for path in dict.fromkeys(path for path, _ in batch)}
            seen = [image for path, _ in batch if isinstance(image := images[path], Image.Image)]
            said = iter(self.model.ask(seen, [text for path, text in batch if isinstance(images[path], Image.Image)]))
            for place, (path, _) in enumerate(batch, start):
                image = images[path]
                yield place, image if isinstance(image, ValueError) else next(said)


class ByJudge:
    """The judge of a recipe's eval.judge, with a call for each question."""

    kind = JUDGE

    def __init__(self, settings: evaluation.Judge | None) -> None:
        self.judge = None if settings is None else Judge(settings)

    def requirements(self) -> list[Requirement]:
        """See Scorer."""
        if self.judge is None:
            detail, remedy = "the recipe has no eval.judge", "Name one: --set eval.judge.model=NAME"
            return [Requirement(name="a judge", state="missing", detail=detail, remedy=remedy)]
        return self.judge.requirements()

    def identity(self) -> dict[str, Any]:
        """See Scorer."""
        return {self.kind: self.judge and self.judge.identity(), "template": TEMPLATE, "question": vqa.QUESTION}

    def load(self, device: torch.device) -> None:
        """See Scorer."""
        if self.judge is None:
            raise CorlError("The recipe has no eval.judge.", "Name one: --set eval.judge.model=NAME")

    def ask(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Answer]]:
        """See Scorer."""
        judge = self.judge
        assert judge

        def ask(place: int) -> str:
            image, question = asked[place]
            return judge.ask(TEMPLATE, vqa.QUESTION.format(question=question), image, accept=vqa.is_yes)

        return judge.map(ask, range(len(asked)))


def _image(path: Path) -> Image.Image | ValueError:
    try:
        return drawings.read(path)
    except ValueError as error:
        return error
