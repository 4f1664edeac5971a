import math

import pytest

from corl_cli.core.recipe import Filters
from corl_cli.data.filters import coverage_fault, is_english, prompt_fault, size_fault

ENGLISH = [
    "A man riding a wave on top of a surfboard.",
    "Pizza",
    "red circle left of blue square",
    "Tennis player Serena hitting ball",
    "Vintage Harley-Davidson motorcycle parked outside Starbucks in Tokyo",
    "DSLR macro shot bokeh kitten",
    "A man's dog isn't here",
    "SKIER ON A HILL",
]
OTHERS = [
    "Ein Mann reitet auf einer Welle mit einem Surfbrett.",
    "Ein Hund in einem Bett",
    "Un homme surfant sur une vague",
    "Un hombre montando una ola en una tabla de surf",
    "Un uomo cavalca un'onda su una tavola da surf",
    "Een man op een surfplank in de zee",
    "一个男人在冲浪",
    "Мужчина катается на волне",
    "12345 !!!",
]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_known(text: str) -> None:
    assert is_english(text)


@pytest.mark.parametrize("text", OTHERS)
def test_other_languages_are_told_from_english(text: str) -> None:
    assert not is_english(text)


def test_without_filters_nothing_is_left_out() -> None:
    assert prompt_fault("一 " * 1000, Filters()) is None
    assert coverage_fault(0.0, Filters()) is None
    assert size_fault(1, 1000, Filters()) is None


def test_bounds_are_inclusive() -> None:
    filters = Filters(min_words=2, max_words=3, min_coverage=0.5, min_side=10, max_aspect=2.0)
    assert [prompt_fault("a " * words, filters) for words in (1, 2, 3, 4)] == [
        "prompt below min_words",
        None,
        None,
        "prompt above max_words",
    ]
    assert coverage_fault(0.49, filters) == "coverage below min_coverage"
    assert coverage_fault(0.5, filters) is None
    assert coverage_fault(math.nan, filters) is None  # nothing to cover is no lack of coverage
    assert size_fault(9, 10, filters) == "image below min_side"
    assert size_fault(10, 21, filters) == "image above max_aspect"
    assert size_fault(20, 10, filters) is None


def test_language_is_asked_only_where_the_recipe_does() -> None:
    assert prompt_fault("ein Hund", Filters(english=True)) == "prompt not English"
    assert prompt_fault("a dog", Filters(english=True)) is None
