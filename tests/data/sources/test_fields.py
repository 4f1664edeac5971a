import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.data.items import Unusable
from corl_cli.data.sources import fields


@pytest.mark.parametrize(
    ("options", "bare"),
    [
        (["A) red", "(B) green", "C: blue", "D. x"], ("red", "green", "blue", "x")),
        ([" red ", "B. green"], ("red", "B. green")),
        (["A. Lincoln", "G. Washington"], ("A. Lincoln", "G. Washington")),
        (["B. red", "A. green"], ("B. red", "A. green")),  # letters that are not their own are text
        (["A", "A.M."], ("A", "A.M.")),
        ([str(number) for number in range(12)], tuple(str(number) for number in range(12))),
    ],
)
def test_options_lose_their_own_letter(options, bare):
    assert fields.unlettered(options) == bare


@given(st.lists(st.text(), min_size=1))
def test_the_majority_is_an_answer_that_nobody_outvotes(answers):
    told = [answer.strip().lower() for answer in answers]
    chosen = fields.majority(answers)
    assert chosen in told
    assert all(told.count(other) <= told.count(chosen) for other in told)


@pytest.mark.parametrize("value", [None, "", "  ", [], float("nan"), True, {}, ["a"]])
def test_a_text_that_is_not_there(value):
    with pytest.raises(Unusable, match="entry lacks a field"):
        fields.text({"question": value}, "question")


@pytest.mark.parametrize(("value", "read"), [(["cat "], "cat"), ([3], "3"), ("cat", "cat"), ([], ""), (None, "")])
def test_an_answer_may_be_a_list_of_one(value, read):
    assert fields.answer({"answer": value}, "answer") == read


def test_several_answers_are_told_by_their_own_reason():
    with pytest.raises(Unusable, match="several answers"):
        fields.answer({"answer": ["cat", "dog"]}, "answer")


def test_numbers_are_texts_in_a_list_too():
    assert fields.texts({"options": [1, 2.5, "3"]}, "options") == ("1", "2.5", "3")
    for bad in ([True], [None], [1, []], [float("nan")], []):
        with pytest.raises(Unusable, match="entry lacks a field"):
            fields.texts({"options": bad}, "options")


@pytest.mark.parametrize(
    ("value", "read"), [("", ("",)), (" \u200b ", (" \u200b ",)), (["a", ""], ("a", "")), (None, ()), ([], ())]
)
def test_an_empty_caption_is_a_caption_a_missing_one_is_none(value, read):
    assert fields.several({"prompt": value}, "prompt") == read


@pytest.mark.parametrize(("value", "read"), [("a ", "a"), (3, "3"), (2.5, "2.5"), (0, "0")])
def test_a_text_or_a_number(value, read):
    assert fields.text({"answer": value}, "answer") == read


def test_letters_are_told_from_texts_that_are_letters():
    options = ["C", "A", "D", "B"]
    assert fields.letter({"answer": 1}, "answer", options) == "(B)"  # the text A
    assert fields.chosen("A", options) == "(B)"
    assert fields.chosen("E", options) == "E"
    assert fields.chosen("A", ["A", "A"]) == "A"  # dropped later, its options being repeated
    assert [fields.bracketed(answer) for answer in ("A", "", "AB", "K", "A. red")] == ["(A)", "", "AB", "K", "A. red"]


@pytest.mark.parametrize("index", [-1, 2, 1.0, True, "1", None])
def test_a_letter_of_an_option_that_is_not_there(index):
    with pytest.raises(Unusable):
        fields.letter({"answer": index}, "answer", ["red", "blue"])
