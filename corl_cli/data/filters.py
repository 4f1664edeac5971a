"""Filters of single items: which prompts and images a recipe leaves out, each by a reason that names its option."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import simplemma

from corl_cli.core.recipe import Filters

TOO_FEW_WORDS = "prompt below min_words"
TOO_MANY_WORDS = "prompt above max_words"
NOT_ENGLISH = "prompt not English"
LOW_COVERAGE = "coverage below min_coverage"
SHORT_SIDE = "image below min_side"
LONG_SIDE = "image above max_aspect"
REASONS = (TOO_FEW_WORDS, TOO_MANY_WORDS, NOT_ENGLISH, LOW_COVERAGE, SHORT_SIDE, LONG_SIDE)

ENGLISH = 0.7  # share of a prompt's words that an English dictionary knows

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def prompt_fault(prompt: str, filters: Filters) -> str | None:
    """The reason to leave out a prompt for its words, or None."""
    words = len(prompt.split())
    if filters.min_words is not None and words < filters.min_words:
        return TOO_FEW_WORDS
    if filters.max_words is not None and words > filters.max_words:
        return TOO_MANY_WORDS
    return NOT_ENGLISH if filters.english and not is_english(prompt) else None


def coverage_fault(coverage: float, filters: Filters) -> str | None:
    """The reason to leave out an item for its coverage, or None; NaN, where nothing can be covered, is no reason."""
    low = filters.min_coverage is not None and coverage < filters.min_coverage
    return LOW_COVERAGE if low else None


def size_fault(width: int, height: int, filters: Filters) -> str | None:
    """The reason to leave out an image for its width and height in pixels, or None."""
    if filters.min_side is not None and min(width, height) < filters.min_side:
        return SHORT_SIDE
    longer = filters.max_aspect is not None and max(width, height) > filters.max_aspect * min(width, height)
    return LONG_SIDE if longer else None


def is_english(text: str) -> bool:
    """Whether an English dictionary (simplemma's) knows at least ENGLISH of a text's words, names aside.

    Names are capitalised words after the first one, and acronyms. A text of names only passes, one without any word
    does not. Short texts of words that languages share ("animal en el hotel") pass too.
    """
    words = _WORD.findall(text.lower() if text.isupper() else text)
    plain = [word for word in words[:1] if word.istitle()] + [word for word in words if not word[0].isupper()]
    known = sum(map(_is_known, plain))
    return bool(words) and known >= ENGLISH * len(plain)


@lru_cache(maxsize=1 << 16)
def _is_known(word: str) -> bool:
    """Whether a word, or each part of one with hyphens, is in the dictionary."""
    return all(simplemma.is_known(part, lang="en") for part in _parts(word.lower()))


def _parts(word: str) -> Sequence[str]:
    return [part.removesuffix("'s").removesuffix("’s") for part in word.split("-")]
