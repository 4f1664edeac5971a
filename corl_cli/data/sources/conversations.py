"""Conversations as LLaVA writes them: turns of two, options in the question, reasoning before the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corl_cli.data.items import Unusable
from corl_cli.data.sources.fields import INCOMPLETE, NO_FINAL_ANSWER, unlettered

ASKING, ANSWERING = ("human", "user"), ("gpt", "assistant")

_PLACEHOLDER = re.compile(r"<(?:image|ImageHere|img)>|<\|image\|>", re.IGNORECASE)
_QUESTION = re.compile(r"(?:^|\n)[ \t]*Question:\s*")
_CHOICES = re.compile(r"(?:^|\s)Choices:\s*")
_ANSWER = re.compile(r"(?:\bAnswer\s*:|\b[Tt]he (?:final |correct )?answer is:?)\s*")


def split(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for every pair of turns, the rest of it as it was; Unusable when it holds no conversation."""
    conversation = record.get("conversations")
    if not isinstance(conversation, list):
        raise Unusable(INCOMPLETE)
    turns = [turn for turn in conversation if not _is_system(turn)]
    if not turns:
        raise Unusable(INCOMPLETE)
    for start in range(0, len(turns), 2):
        yield {**record, "conversations": turns[start : start + 2]}


def exchange(pair: Sequence[Any]) -> tuple[str, str]:
    """The question and the answer of a pair of turns, image placeholders gone; Unusable when it is no such pair.

    Speakers are `from` and `value` with human and gpt (LLaVA), or `role` and `content` with user and assistant.
    """
    if len(pair) != 2:
        raise Unusable(INCOMPLETE)
    (asker, question), (answerer, answer) = map(_said, pair)
    if asker not in ASKING or answerer not in ANSWERING:
        raise Unusable(INCOMPLETE)
    return _PLACEHOLDER.sub("", question).strip(), answer.strip()


def bare(question: str) -> tuple[str, tuple[str, ...]]:
    """The question without the instruction before "Question:", and the options of the lines after "Choices:"."""
    asked = _QUESTION.split(question, maxsplit=1)[-1]
    words, *choices = _CHOICES.split(asked, maxsplit=1)
    return words.strip(), unlettered([line for line in "".join(choices).splitlines() if line.strip()])


def final(reply: str) -> tuple[str, str]:
    """The reasoning and the answer of a reply that ends in "Answer: …" or "The answer is …"."""
    found = list(_ANSWER.finditer(reply))
    answer = reply[found[-1].end() :].strip().rstrip(".").strip() if found else ""
    if not answer:
        raise Unusable(NO_FINAL_ANSWER)
    return reply[: found[-1].start()].strip(), answer


def _said(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise Unusable(INCOMPLETE)
    speaker, words = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(speaker, str) or not isinstance(words, str):
        raise Unusable(INCOMPLETE)
    return speaker, words


def _is_system(turn: Any) -> bool:
    return isinstance(turn, Mapping) and "system" in (turn.get("from"), turn.get("role"))
