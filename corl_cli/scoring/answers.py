"""Reads the answer out of a completion and judges it: right or wrong, by a named rule.

The completion's answer is what its one answer block says after the reasoning; a completion without any tags is its own
answer. Several blocks count only when they say the same. Nothing is evaluated that a hostile answer could blow up:
lengths, digits and exponents are capped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from corl_cli.core.types import AnswerType
from corl_cli.scoring import choices, words

MAX_CHARS = 1000  # of an answer; a longer one is wrong

_FORMAT = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """Whether an answer is right, what was taken as the answer (None: there is none), and the rule that decided."""

    correct: bool
    extracted: str | None
    rule: str


def follows_format(completion: str) -> bool:
    """Strictly <think>…</think><answer>…</answer>: each tag once, in lower case, only white space around the blocks."""
    return len(_TAG.findall(completion)) == 4 and _FORMAT.fullmatch(completion.strip()) is not None


def extract(completion: str) -> str | None:
    """The final answer of a completion, stripped; None when it gives none, or several that differ.

    What stands inside the reasoning, or in a block that is not closed, is no final answer. Tags in any case are read.
    """
    tags = [(match[0].lower(), match.start(), match.end()) for match in _TAG.finditer(completion)]
    if not tags:
        return completion.strip() or None
    blocks: list[str] = []
    opened, depth = None, 0
    for tag, start, end in tags:
        if tag == "<think>":
            depth += 1
        elif tag == "</think>":
            depth, opened = 0, None  # nested or stray, the reasoning ends with its last closing tag
            blocks.clear()
        elif tag == "<answer>" and depth == 0:
            opened = end
        elif tag == "</answer>" and opened is not None:
            blocks.append(completion[opened:start].strip())
            opened = None
    if not blocks or len({words.plain(block[:MAX_CHARS]) for block in blocks}) > 1:
        return None
    return blocks[0]


def judge(question: str, gold: str, completion: str, answer_type: AnswerType) -> Judgement:
    """Whether the completion answers the question as `gold` does; `gold` may still be wrapped in answer tags.

    Multiple choice: exactly one option is chosen, by its letter, its text or both, and it is the gold one. Open-ended:
    the same words or the same quantity, up to articles, number, spelling, and words that the question itself supplies.
    """
    answer = extract(completion)
    if answer is None:
        return Judgement(False, None, "no final answer")
    if not words.plain(answer[:MAX_CHARS]):
        return Judgement(False, answer, "empty answer")
    if len(answer) > MAX_CHARS:
        return Judgement(False, answer[:80] + "…", "answer too long")
    gold = extract(gold) or gold.strip()
    if answer_type == "mc":
        options = choices.read_options(question)
        wanted = choices.choose(gold, options)
        if wanted is not None:
            chosen = choices.choose(answer, options)
            rule = "not one option" if chosen is None else f"option {chosen}"
            return Judgement(chosen == wanted, answer, rule)
    correct, rule = words.same_answer(question, gold, answer)
    return Judgement(correct, answer, rule)
