"""lmms-eval's judge, answered by corl's: one setting, one cache, and no failure that passes for a wrong answer."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.eval.judge import Judge, JudgeError
from corl_cli.scoring.choices import LETTERS
from corl_cli.scoring.notation import plain

Doc = Mapping[str, Any]  # one record of a data set

_DRESS = "*`_ \t\n|.\"'"  # around a number, bold markers and the prompt's table among it
_LABEL = re.compile(r"^(?:correctness|score|answer)\s*(?:score)?\s*[:=]\s*", re.IGNORECASE)
_EXTRACTED = re.compile(r"^(?:the )?(?:extracted |final )*answer\s*(?:is\b\s*:?|[:=])[\s*]*", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?|[-+]?\.\d+")
_OPTION = re.compile(r"\(?([A-Z])(?:[).:\s]+(.*))?")
_NOTHING = ("", "none", "null", "n/a", "no answer")
_REFUSAL = re.compile(r"^I\b|\b(?:sorry|cannot|can't|unable|no answer)\b|\n", re.IGNORECASE)
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


def extraction(answer: str, doc: Doc) -> str:
    """What MathVista's judge took from a response, as a letter, number or list; ValueError where it took nothing.

    `doc` holds question_type, answer_type and choices. Empty where the judge says that the response has no answer:
    lmms-eval counts that as wrong.
    """
    text = _EXTRACTED.sub("", answer.strip().strip("*`_\"'")).strip().strip("*`_\"'").strip()
    if doc["question_type"] == "multi_choice":
        options = dict(zip(LETTERS, doc["choices"], strict=False))
        return _option(text, {letter: option for letter, option in options.items() if option})
    if plain(text) in _NOTHING:
        return ""
    if doc["answer_type"] in ("integer", "float"):
        number = text.rstrip(".")
        if not _NUMBER.fullmatch(number):
            raise ValueError("it is no number")
        return number.replace(",", "")
    if _REFUSAL.search(text):
        raise ValueError("it is no answer from the response")
    return text


def _option(text: str, options: Mapping[str, str]) -> str:
    """The letter of the option that a text is, as letter, as words or as both."""
    if (named := _OPTION.fullmatch(text)) and named[1] in options:
        words = plain(named[2] or "")
        if words in ("", plain(options[named[1]])):
            return named[1]
    same = [letter for letter, option in options.items() if plain(option) == plain(text)]
    if len(same) != 1 and plain(text) not in _NOTHING:
        raise ValueError("it is none of the options")
    return same[0] if same else ""


# How a task's judge has to answer; lmms-eval counts what it cannot read as wrong, or asks for ever.
READINGS: dict[str, Callable[[str, Doc], str]] = {
    "mmvet": lambda answer, doc: grade(answer),
    "mathverse_testmini_vision_only": lambda answer, doc: verdict(answer),
    "mathvista_testmini_format": extraction,
}


class Desk:
    """Stands in for lmms-eval's provider "openai"; what failed in a thread is kept until `collect`.

    lmms-eval asks again, up to 15 times with pauses, and then counts a failure as a wrong answer. So it gets an answer
    at once, which is thrown away with the record's score: `collect` says why. `about` is where a record is scored.
    """

    def __init__(self, judge: Judge | None, task: str, template: str) -> None:
        self.judge = judge
        self.task = task
        self.template = template
        self._thread = threading.local()

    @contextmanager
    def about(self, doc: Doc) -> Iterator[None]:
        """Read this thread's answers for one record; what failed is raised at the end, and no older failure."""
        self.collect()
        self._thread.doc = doc
        try:
            yield
        finally:
            if failure := self.collect():
                raise failure

    def read(self, answer: str) -> str:
        """The judge's answer in the form that the task takes; ValueError where it has none."""
        reading = READINGS.get(self.task)
        return reading(answer, getattr(self._thread, "doc", {})) if reading else answer.strip()

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
