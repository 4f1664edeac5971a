"""The little English that scoring needs: singular forms and number words."""

from __future__ import annotations

import re
from collections.abc import Sequence


def word_list(text: str) -> list[str]:
    """The words of a text, to write long lists legibly."""
    return text.split()


_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "skis": "ski",
    "taxis": "taxi",
    "knives": "knife",
    "wives": "wife",
    "lives": "life",
    "movies": "movie",
    "cookies": "cookie",
    "pies": "pie",
    "ties": "tie",
    "shoes": "shoe",
    "toes": "toe",
    "axes": "axe",
    "buses": "bus",
    "bases": "base",
    "vases": "vase",
    "cases": "case",
    "houses": "house",
    "horses": "horse",
    "noses": "nose",
    "hoses": "hose",
    "roses": "rose",
    "nurses": "nurse",
    "purses": "purse",
    "blouses": "blouse",
    "suitcases": "suitcase",
    "caches": "cache",
    "headaches": "headache",
    "valves": "valve",
}
_PLURALS = {one: many for many, one in _IRREGULAR.items()}
_UNCHANGED = frozenset(
    word_list(
        """
    series species news gas lens bus plus glasses pants jeans scissors tennis always chess clothes
    """
    )
)
_NOT_MEN = frozenset(["specimen", "omen", "abdomen", "regimen", "semen", "acumen", "stamen"])
_ENDINGS = (
    (re.compile(r"(?:ss|us|is|'s)$"), None),
    (re.compile(r"ies$"), "y"),
    (re.compile(r"(?:(?<=l)|(?<=ar)|(?<=[eo]a))ves$"), "f"),
    (re.compile(r"(?<=[osxz])es$|(?<=ch)es$|(?<=sh)es$"), ""),
    (re.compile(r"s$"), ""),
)

_UNITS = word_list(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
MAX_WORDS = 12  # of a number
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
NUMBERS: dict[str, int] = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}

ORDINALS: dict[str, int] = {
    word: value
    for value, word in enumerate(
        word_list("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), 1
    )
}


def singular(word: str) -> str:
    """The singular of a lower-case noun; a word that is none, or not plural, comes back as it is.

    `glasses` and other things that come as pairs stay plural.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or word in _UNCHANGED or not word.isalpha():
        return word
    if word.endswith("men"):
        return word if word in _NOT_MEN else f"{word[:-3]}man"
    for ending, replacement in _ENDINGS:
        if ending.search(word):
            return word if replacement is None else ending.sub(replacement, word)
    return word


def plural(word: str) -> str:
    """The plural of a lower-case noun, as `singular` undoes it."""
    if word in _PLURALS:
        return _PLURALS[word]
    if word in _UNCHANGED:
        return word
    if word.endswith("man"):
        return f"{word[:-3]}men"
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search(r"(?:[sxz]|ch|sh)$", word) else f"{word}s"


def read_number(words: Sequence[str]) -> tuple[int, int]:
    """The cardinal that the words begin with, and how many words it takes; (0, 0) when there is none.

    "two hundred and five apples" is (205, 4); "and" joins only after a hundred or a thousand.
    """
    total = group = used = 0
    previous = ""
    for index, word in enumerate(words):
        if word in NUMBERS and _may_follow(previous, word):
            group += NUMBERS[word]
        elif word in _SCALES and used == index and index and group:
            group, total = (group * 100, total) if word == "hundred" else (0, total + group * _SCALES[word])
        elif word == "and" and previous in _SCALES and index + 1 < len(words) and words[index + 1] in NUMBERS:
            previous = "and"
            continue
        else:
            break
        previous, used = word, index + 1
        if used == MAX_WORDS:
            break
    return total + group, used


def _may_follow(previous: str, word: str) -> bool:
    if previous in _TENS:
        return 0 < NUMBERS[word] < 10
    return not previous or previous == "and" or previous in _SCALES


def with_digits(text: str) -> str:
    """A text with its single number words as digits: "three red dogs" to "3 red dogs"."""
    return _NUMBER_WORD.sub(lambda match: str(NUMBERS[match[0].lower()]), text)


_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBERS)})\b(?!-)", re.IGNORECASE)
