"""lmms-eval's judge, answered by corl's: one setting, one cache, and no failure that passes for a wrong answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.eval.judge import Judge, JudgeError

_DRESS = "*`_ \t\n|.\"'"  # around a number, bold markers and the prompt's table among it
_LABEL = re.compile(r"^(?:correctness|score|answer)\s*(?:score)?\s*[:=]\s*", re.IGNORECASE)
_GRADE = re.compile(r"0(?:\.\d+)?|1(?:\.0+)?")


def grade(answer: str) -> str:
    """A grade of 0 to 1 and nothing else; ValueError otherwise."""
    text = _LABEL.sub("", answer.strip(_DRESS)).strip(_DRESS)
    if not _GRADE.fullmatch(text):
        raise ValueError("it is no grade from 0.0 to 1.0")
    return text


def verdict(answer: str) -> str:
    """0 or 1 and nothing else; ValueError otherwise. lmms-eval takes a 1 anywhere in the answer for "right"."""
    text = _LABEL.sub("", answer.strip(_DRESS)).strip(_DRESS)
    if text not in ("0", "1"):
        raise ValueError("it is neither 0 nor 1")
    return text


# How a task's judge has to answer; lmms-eval counts what it cannot read as wrong, or asks for ever.
READINGS: dict[str, Callable[[str], str]] = {"mmvet": grade, "mathverse_testmini_vision_only": verdict}


class Desk:
    """Stands in for lmms-eval's provider "openai"; what failed in a thread is kept until `collect`.

    lmms-eval asks again, up to 15 times with pauses, and then counts a failure as a wrong answer. So it gets an answer
    at once, which is thrown away with the record's score: `collect` says why.
    """

    def __init__(self, judge: Judge | None, task: str, template: str) -> None:
        self.judge = judge
        self.read = READINGS.get(task, str.strip)
        self.template = template
        self._thread = threading.local()

    def answer(self, messages: list[dict[str, Any]]) -> str:
        """The judge's answer, cleaned; "0" where there is none."""
        try:
            if self.judge is None:
                raise JudgeError("there is no judge (eval.judge)")
            return self.read(self.judge.complete(messages, template=self.template, accept=self.read))
        except (JudgeError, CorlError) as error:
            self._thread.failure = error
            return "0"

    def collect(self) -> JudgeError | CorlError | None:
        """What failed in this thread since the last time."""
        failure: JudgeError | CorlError | None = getattr(self._thread, "failure", None)
        self._thread.failure = None
        return failure

    def open(self) -> None:
        """Take the provider's place; before the task's module is imported, which makes one."""
        from lmms_eval.llm_judge.base import ServerInterface
        from lmms_eval.llm_judge.factory import ProviderFactory
        from lmms_eval.llm_judge.protocol import Request, Response

        desk = self

        class Provider(ServerInterface):
            def is_available(self) -> bool:
                return desk.judge is not None

            def evaluate(self, request: Request) -> Response:
                model = desk.judge.settings.model if desk.judge else "none"
                return Response(content=desk.answer(self.prepare_messages(request)), model_used=model)

        ProviderFactory.register_provider("openai", Provider)
