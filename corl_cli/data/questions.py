"""Questions as they are stored: bare, their options as lettered lines, their answers clean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Raw, Unusable
from corl_cli.data.templates import INSTRUCTIONS
from corl_cli.scoring.answers import MAX_CHARS, MAX_QUESTION
from corl_cli.scoring.choices import LETTERS, choose, read_options
from corl_cli.scoring.notation import plain

NO_QUESTION = "no question"
NO_ANSWER = "no answer"
NO_OPTIONS = "no options"
TOO_MANY_OPTIONS = "too many options"
REPEATED_OPTION = "empty or repeated option"
UNCLEAR_OPTIONS = "options cannot be told apart"
NOT_AMONG = "answer not among the options"
SEVERAL_ANSWERS = "several answers"
TOO_LONG = "question or answer too long"
REASONS = (
    NO_QUESTION,
    NO_ANSWER,
    NO_OPTIONS,
    TOO_MANY_OPTIONS,
    REPEATED_OPTION,
    UNCLEAR_OPTIONS,
    NOT_AMONG,
    SEVERAL_ANSWERS,
    TOO_LONG,
)

# Control and format characters that are no white space, and halves of characters, which no file can hold.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_PLACEHOLDER = re.compile(r"<\|?(?:image|img)[\w ]{0,16}\|?>", re.IGNORECASE)
# The paper's wording with that of its public code, and what LLaVA's sets end with.
_INSTRUCTION = re.compile(
    r"""\s*(?:
      (?:Answer\ the\ question\ based\ on\ the\ (?:given\ )?image\ and\ your\ (?:\w+\ )?knowledge\.\s*)?
      Please\ write\ your\ thinking\ process\ inside\ <think>\s*</think>\ tags
      [^\n]{0,200}\s*Your\ response\ MUST\ strictly\ follow\ this\ format:[^\n]{0,200}
    | Answer\ with\ the\ option'?s?\ letter\ from\ the\ given\ choices(?:\ directly)?\.
    | Answer\ the\ question\ using\ a\ single\ word\ or\ phrase\.
    )\s*$""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(r"\s*\b(?:the )?(?:answer )?(?:options|choices)(?: are)?\s*:\s*$", re.IGNORECASE)
_ASKED = re.compile(r"(?<=[?:])\s")

_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_LETTER = re.compile(r"[(\[]?([A-Ja-j])[)\].:]?")
_SEVERAL_LETTERS = re.compile(r"\(?[A-J]\)?(?:\s*(?:[,;/&]|and|or)?\s*\(?[A-J]\)?)+")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question as it is stored; `matter` is what a caption may cover: its words, right answer and solution."""

    text: str
    answer: str
    answer_type: AnswerType
    matter: str


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """A question with options by letter: without them (`stem`), and as it is stored (`text`).

    Options that it shows without marks, as in "red A green B", stay where they are.
    """

    stem: str
    options: dict[str, str]
    text: str


def normalise(raw: Raw) -> Question:
    """What an item asks, in the form in which it is stored; Unusable with the reason when it cannot be asked.

    Instructions and image placeholders are taken off; multiple choice shows its options as lines "A. text" and its
    answer is a letter. An item without question, options and answer is for drawing only and asks nothing. A type that
    the source leaves open is multiple choice where there are options with marks, or any with the answer among them.
    """
    text, answer = _bare(raw.question), _unwrapped(raw.answer)
    if not (text or answer or raw.options):
        return Question(text="", answer="", answer_type="oe", matter="")
    if not text:
        raise Unusable(NO_QUESTION)
    if not plain(answer):
        raise Unusable(NO_ANSWER)
    if max(len(text) / MAX_QUESTION, len(answer) / MAX_CHARS) > 1:
        raise Unusable(TOO_LONG)
    choice = None if raw.answer_type == "oe" else _choice(text, raw.options)
    if choice and raw.answer_type is None and not raw.options and not _is_meant(choice, answer):
        choice = None
    solution = clean(_TAG.sub(" ", raw.solution))
    if choice:
        letter = _letter(answer, _told_apart(choice))
        matter = f"{choice.stem}\n{choice.options[letter]}\n{solution}"
        return Question(text=choice.text, answer=letter, answer_type="mc", matter=matter)
    if raw.answer_type == "mc":
        raise Unusable(NO_OPTIONS)
    return Question(text=text, answer=answer, answer_type="oe", matter=f"{text}\n{answer}\n{solution}")


def clean(text: str) -> str:
    """A text without invisible characters, doubled spaces and empty lines."""
    lines = (" ".join(line.split()) for line in _INVISIBLE.sub("", text).splitlines())
    return "\n".join(filter(None, lines))


def _bare(question: str) -> str:
    """A question without placeholders of images and the instructions at its end."""
    text = clean(_PLACEHOLDER.sub(" ", question))
    for instruction in filter(None, INSTRUCTIONS.values()):
        text = text.removesuffix(instruction)
    return _INSTRUCTION.sub("", text).rstrip()


def _unwrapped(answer: str) -> str:
    """An answer in one line without tags and reasoning; Unusable when its blocks say different things."""
    if len(answer) > MAX_QUESTION:  # with its reasoning; the patterns below may take the square of it
        raise Unusable(TOO_LONG)
    told = _REASONING.sub(" ", answer)
    blocks = _ANSWER.findall(told)
    if len({plain(block) for block in blocks}) > 1:
        raise Unusable(SEVERAL_ANSWERS)
    return " ".join(clean(_TAG.sub(" ", blocks[0] if blocks else told)).split())


def _choice(text: str, given: Sequence[str]) -> _Choice | None:
    """The question with the options that the source gives, or else those that it shows itself; None without any."""
    shown = read_options(text)
    options = _by_letter(given) if given else shown
    if not options:
        return None
    if not _same(shown, options):
        if _contradict(text, shown, options):
            raise Unusable(UNCLEAR_OPTIONS)
        return _Choice(stem=text, options=options, text=_lettered(text, options))
    block = _marked(shown).search(text)
    if block is None:
        return _Choice(stem=_ASKED.split(text)[0], options=shown, text=text)
    parts = (_HEADING.sub("", text[: block.start()]), text[block.end() :])
    stem = "\n".join(filter(None, map(str.strip, parts)))
    return _Choice(stem=stem, options=options, text=_lettered(stem, options))


def _is_meant(choice: _Choice, answer: str) -> bool:
    """Whether what looks like options is some: not in "which is larger, (a) or (b)?", nor in "find A and B"."""
    marked = choice.text == _lettered(choice.stem, choice.options)
    return all(map(plain, choice.options.values())) and (marked or _named(answer, choice.options) is not None)


def _same(shown: Mapping[str, str], options: Mapping[str, str]) -> bool:
    return len(shown) == len(options) and all(plain(shown[letter]) == plain(options[letter]) for letter in options)


def _contradict(text: str, shown: Mapping[str, str], given: Mapping[str, str]) -> bool:
    """Whether a question shows other options than it is given, and not only speaks of panels (a) and (b).

    Options are as many as those given, or share one with them, or stand on lines of their own.
    """
    if len(shown) == len(given) or {plain(option) for option in shown.values()} & {*map(plain, given.values())}:
        return True
    return bool(shown) and all(re.search(rf"^\W?{letter}\W", text, re.MULTILINE | re.IGNORECASE) for letter in shown)


def _by_letter(given: Sequence[str]) -> dict[str, str]:
    """Options as one line each by letter, without letters of their own; Unusable where they make no choice."""
    texts = [" ".join(clean(option).split()) for option in given]
    if len(texts) < 2:
        raise Unusable(NO_OPTIONS)
    if len(texts) > len(LETTERS):
        raise Unusable(TOO_MANY_OPTIONS)
    own = [re.match(rf"[(\[]?{letter}[)\].:]\s*", text) for letter, text in zip(LETTERS, texts, strict=False)]
    if all(own):
        texts = [text[mark.end() :] for text, mark in zip(texts, own, strict=True) if mark]
    return dict(zip(LETTERS, (text.strip(" ,;|") for text in texts), strict=False))


def _lettered(stem: str, options: Mapping[str, str]) -> str:
    return "\n".join((stem, *(f"{letter}. {option}" for letter, option in options.items())))


def _marked(options: Mapping[str, str]) -> re.Pattern[str]:
    """Matches options that stand one after another behind letters with marks, or behind letters that begin lines."""
    mark = r"(?:(?<!\w)[(\[]?{0}(?:[)\].:]|\s[-–](?=\s))|^[(\[]?{0}(?=\s))\s*"
    parts = (mark.format(f"[{letter}{letter.lower()}]") + re.escape(option) for letter, option in options.items())
    return re.compile(r"[\s,;|]*".join(parts), re.MULTILINE)


def _told_apart(choice: _Choice) -> dict[str, str]:
    """The options, if they differ and whoever reads the stored question finds the same; else Unusable."""
    options = choice.options
    if not all(options.values()) or len(set(options.values())) < len(options):
        raise Unusable(REPEATED_OPTION)
    if read_options(choice.text) != options:
        raise Unusable(UNCLEAR_OPTIONS)
    return options


def _letter(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, literally or in other words; Unusable when it is not one."""
    if letter := _named(answer, options) or choose(answer, options):
        return letter
    raise Unusable(SEVERAL_ANSWERS if _SEVERAL_LETTERS.fullmatch(answer) else NOT_AMONG)


def _named(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one option that an answer is literally; Unusable where it is a letter and another's text."""
    if (alone := _LETTER.fullmatch(answer)) and (letter := alone[1].upper()) in options:
        if any(plain(option) == plain(answer) for other, option in options.items() if other != letter):
            raise Unusable(UNCLEAR_OPTIONS)
        return letter
    for same in (str, plain):
        named = [letter for letter, option in options.items() if same(option) == same(answer)]
        if len(named) == 1:
            return named[0]
    return None
