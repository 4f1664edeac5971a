import pytest

from corl_cli.scoring.choices import asserted, choose, read_options


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Q?\nA. cat\nB. dog", {"A": "cat", "B": "dog"}),
        ("Q?\n(A) cat\n(B) dark dog", {"A": "cat", "B": "dark dog"}),
        ("Q?\nChoices: (a) run (b) sit", {"A": "run", "B": "sit"}),
        ("The weather? A) sunny B) rainy, C) snowy", {"A": "sunny", "B": "rainy", "C": "snowy"}),
        ("Vitamin A. Which? Options: (A) red (B) blue", {"A": "red", "B": "blue"}),
        ("where is it? top-left A top-right B", {"A": "top-left", "B": "top-right"}),
        ("Q?\nA. cat\nB. dog\nAnswer with A/B.", {"A": "cat", "B": "dog"}),
        ("What is it?", {}),
        ("A man sits. What is he doing?", {}),
    ],
)
def test_reads_options(question, options):
    assert read_options(question) == options


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("Vitamin C", "B"),
        ("C", "C"),
        ("It shows Vitamin A.", "D"),
        ("B. Vitamin D", None),
        ("the vitamin", None),
        ("Vitamin C, not Vitamin A", "B"),
    ],
)
def test_letters_inside_option_texts_name_no_option(answer, letter):
    options = {"A": "Vitamin B", "B": "Vitamin C", "C": "Vitamin D", "D": "Vitamin A"}
    assert choose(answer, options) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("three", "C"), ("There are three people", "C"), ("1.5", None), ("2 or 3", None), ("13", None), ("4 (D)", "D")],
)
def test_numeric_options(answer, letter):
    assert choose(answer, {"A": "1", "B": "2", "C": "3", "D": "4"}) == letter


def test_without_options_only_letters_choose():
    assert choose("The answer is (B).", {}) == "B"
    assert choose("dog", {}) is None


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("(a) or (b)", "AB"),
        ("A B", "AB"),
        ("A\nB", "AB"),
        ("3.5 or 4.5", "AB"),
        ("B. Here A is wrong", "B"),
        ("not 3.5 but 4.5", "B"),
        ("neither A nor B", ""),
        ("13.5", ""),
    ],
)
def test_all_options_that_an_answer_asserts(answer, letters):
    assert asserted(answer, {"A": "3.5", "B": "4.5"}) == set(letters)


def test_two_letters_beside_each_other_choose_none():
    assert choose("A B", {"A": "red", "B": "green"}) is None
