import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.notation import plain
from corl_cli.scoring.words import overlap, same_answer

APPLES = "How many apples are on the table?"
SOFA = "What animal is on the sofa?"


@pytest.mark.parametrize(
    ("question", "gold", "answer"),
    [
        (APPLES, "2", "There are two apples."),
        (APPLES, "21", "twenty-one"),
        (APPLES, "1000000", "1,000,000"),
        ("", "0.5", ".5"),
        ("", "1/2", "½"),
        ("", "100", "10²"),
        ("", "x = 3", "3"),
        ("", "6.02*10^23", "6.02\\times10^{23}"),
        ("", "(1, 2)", "(1,2.0)"),
        ("", "\\frac{\\sqrt{2}}{2}", "√2/2"),
        ("What is the area?", "25 cm^2", "25 square centimeters"),
        ("What is the angle?", "90^\\circ", "90"),
        ("How much is it?", "$1,000", "1000 dollars"),
        ("What is the probability?", "1/4", "25%"),
        (SOFA, "cat", "The animal on the sofa is a cat."),
        (SOFA, "cat", "cats"),
        ("", "red, white and blue", "blue, white, and red"),
        ("", "t-shirt", "T shirt"),
        ("", "top-left", "top left"),
        ("Which letter is it?", "A", "the letter A"),
        ("Is it red or blue?", "red", "It is red"),
        ("", "yes", "Yes, it is open."),
    ],
)
def test_same(question, gold, answer):
    assert same_answer(question, gold, answer)[0]


@pytest.mark.parametrize(
    ("question", "gold", "answer"),
    [
        (APPLES, "3", "3 oranges"),
        (APPLES, "3", "1, 2, 3"),
        (APPLES, "3", "2-3"),
        (APPLES, "3", "at least 3"),
        (APPLES, "12", "1 2"),
        (APPLES, "4", "for"),
        ("How long in cm?", "5 cm", "5 m"),
        ("What is the area?", "25 cm^2", "25 cm"),
        ("How much is it?", "$5", "€5"),
        ("", "(1,2)", "(2,1)"),
        ("", "(1,2)", "[1,2]"),
        (SOFA, "cat", "cat, dog"),
        (SOFA, "cat", "It isn't a cat"),
        (SOFA, "cat", "the animal on the sofa"),
        ("Is it red or blue?", "red", "red or blue"),
        ("Is it red or blue?", "red", "blue red"),
        ("Is the light on or off?", "on", "off on"),
        ("", "red and blue", "red, blue, green"),
        ("", "dark red", "red"),
        ("", "C", "C++"),
        ("", "on the table", "under the table"),
        ("", "yes", "yes, no"),
        ("", "yes", "maybe yes, not"),
        ("", "cat", ""),
    ],
)
def test_different(question, gold, answer):
    assert not same_answer(question, gold, answer)[0]


def test_nothing_is_left_of_punctuation():
    assert plain(" ...!\u200b ") == ""
    assert plain("C++.") == "c++"


@pytest.mark.parametrize(
    ("gold", "answer", "index"),
    [
        ("b", "A or B", 1 / 3),
        ("red", "not red", 1 / 2),
        ("red car", "A red car.", 2 / 3),
        ("blue, red", "red, blue", 1),
        ("red red", "red", 1),
        ("horse", "house", 0.8 / (2 - 0.8)),  # difflib: 2 * 4 / 10
        ("a horse", "the house", 0.8 / (4 - 0.8)),
        ("colours", "colour colors", (12 / 13) / (3 - 12 / 13)),  # one to one: colors (12/13) has no partner left
        ("man", "woman", 0),  # 2 * 3 / 8 is below 0.8
        ("cat", "dog", 0),
        ("cat", "...", 0),
    ],
)
def test_soft_jaccard_by_hand(gold, answer, index):
    assert overlap(gold, answer) == pytest.approx(index)
    assert overlap(answer, gold) == pytest.approx(index)


@given(st.text(max_size=80), st.text(max_size=80))
def test_soft_jaccard_is_bounded_and_one_for_equal_words(one, other):
    assert 0 <= overlap(one, other) <= 1
    assert overlap(one, one) in (0, 1)
