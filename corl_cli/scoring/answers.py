"""Reads the answer out of a completion and judges it: right or wrong, by a named rule.

The completion's answer is what its one answer block says after the reasoning; a completion without any tags is its own
answer. Several blocks count only when they say the same. Nothing is evaluated that a hostile answer could blow up:
lengths, digits and exponents are capped, and algebra is done in a process that the system kills (scoring/symbolic.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten

from corl_cli.core.types import AnswerType
from corl_cli.scoring import choices, words
from corl_cli.scoring.notation import plain

MAX_CHARS = 1000  # of an answer; a longer one is wrong
MAX_QUESTION = 20_000  # of a question; of a longer one the end is read
MAX_BLOCKS = 20  # that may repeat an answer; more of them give none

_FORMAT = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


@dataclass(frozen=True)
class Judgement:
    """Whether an answer is right, what was taken as the answer (None: there is none), and the rule that decided.

    `correct` is None where there is no gold answer to compare with; `gold` is what was compared with, None where
    nothing was: the gold option, letter and text, or the gold answer. `overlap`, 0..1, is the soft Jaccard index of an
    open-ended answer and the gold one (words.overlap), 0 for multiple choice.
    """

    correct: bool | None
    extracted: str | None
    rule: str
    overlap: float = 0.0
    gold: str | None = None

    @property
    def note(self) -> str:
        """Verdict, rule, what was compared with and what was taken as the answer, in one line."""
        said = "" if self.extracted is None else f": {_quoted(self.extracted)}"
        if self.gold is None:
            return self.rule + said
        if self.rule.startswith("same"):
            return f"{'' if self.correct else 'not the '}{self.rule} as {_quoted(self.gold)}{said}"
        return f"{self.rule}, {'as gold' if self.correct else 'gold is'} {_quoted(self.gold)}{said}"


def format_fault(completion: str) -> str | None:
    """The first way in which a completion breaks <think>…</think><answer>…</answer>; None when it keeps to it.

    Each tag stands once, in lower case and in this order, with only white space around the blocks.
    """
    tags = [match[0] for match in _TAG.finditer(completion)]
    if not tags:
        return "no tags"
    if any(tag != tag.lower() for tag in tags):
        return "tags not in lower case"
    count = Counter(tags)
    for block in ("think", "answer"):
        opened, closed = count[f"<{block}>"], count[f"</{block}>"]
        if not opened + closed:
            return f"no {block} block"
        if max(opened, closed) > 1:
            return f"{max(opened, closed)} {block} blocks"
        if opened != closed:
            return f"{block} block not {'closed' if opened else 'opened'}"
    if tags != ["<think>", "</think>", "<answer>", "</answer>"]:
        return "tags out of order"
    return None if _FORMAT.fullmatch(completion.strip()) else "text outside the blocks"


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
    if not 0 < len(blocks) <= MAX_BLOCKS or len({plain(block[:MAX_CHARS]) for block in blocks}) > 1:
        return None
    return blocks[0]


def judge(question: str, gold: str, completion: str, answer_type: AnswerType) -> Judgement:
    """Whether the completion answers the question as `gold` does; `gold` may still be wrapped in answer tags.

    Multiple choice: exactly one option is chosen, by its letter, its text or both, and it is the gold one. Open-ended:
    the same words, the same quantity or the same expression, up to articles, number, spelling, and words that the
    question itself supplies. What cannot be compared within the caps is wrong, not missing: an answer must not be able
    to leave its group. A gold answer that names none of the options shown is an error in the data: no verdict. One that
    names several is compared by its words.
    """
    question, gold = question[-MAX_QUESTION:], _unwrapped(gold)
    options = choices.read_options(question) if answer_type == "mc" else {}
    if fault := _fault(gold) or _stranger(gold, options):
        return Judgement(None, None, f"the gold answer is {fault}")
    answer = extract(completion)
    if answer is None:
        return Judgement(False, None, "no final answer")
    if fault := _fault(answer):
        return Judgement(False, answer[:80], f"the answer is {fault}")
    if answer_type == "mc":
        wanted = choices.choose(gold, options)
        if wanted is not None:
            chosen = choices.choose(answer, options)
            rule = "not one option" if chosen is None else f"option {chosen}"
            return Judgement(chosen == wanted, answer, rule, gold=f"{wanted}. {options[wanted]}" if options else wanted)
    correct, rule = words.same_answer(question, gold, answer)
    return Judgement(correct, answer, rule, words.overlap(gold, answer) if answer_type == "oe" else 0.0, gold)


def infer_type(question: str, gold: str) -> AnswerType:
    """`mc` when the question shows lettered options and `gold` is a letter, or the text of one of them; else `oe`."""
    gold, options = _unwrapped(gold), choices.read_options(question[-MAX_QUESTION:])
    if not options or _fault(gold):
        return "oe"
    return "mc" if choices.choose(gold, options) or choices.choose(gold, {}) == plain(gold).upper() else "oe"


def _fault(answer: str) -> str | None:
    """What keeps an answer from being compared: "empty" or "too long", as it is or without ligatures."""
    if len(answer) > MAX_CHARS:
        return "too long"
    size = len(plain(answer))
    return "empty" if not size else "too long" if size > 2 * MAX_CHARS else None


def _stranger(gold: str, options: Mapping[str, str]) -> str | None:
    """That a gold answer names none of the options, if there are any."""
    if not options or choices.named(gold, options):
        return None
    shown = ", ".join(f"{letter}. {text}" for letter, text in options.items())
    return f"none of the options: {_quoted(gold)} is not among {shorten(shown, 200, placeholder=' …')}"


def _quoted(text: str) -> str:
    """The text in quotes, on one line; not repr, which doubles the backslashes of TeX."""
    return f"'{' '.join(text.split())}'"


def _unwrapped(gold: str) -> str:
    """A gold answer without tags, which are not always well-formed."""
    answer = extract(gold)
    return _TAG.sub(" ", gold).strip() if answer is None else answer
