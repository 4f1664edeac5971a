import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.recipe import Instruction
from corl_cli.core.types import AnswerType
from corl_cli.data.items import Raw, Unusable
from corl_cli.data.questions import REASONS, Question, clean, normalise
from corl_cli.data.templates import dress
from corl_cli.scoring.answers import judge
from corl_cli.scoring.choices import read_options
from corl_cli.world.items import world_triplet

PETS = "What is it?\nA. cat\nB. dog"
PUBLIC_CODE = (  # as the authors' code ends its questions
    "\n\nAnswer the question based on the image and your world knowledge.\n\nPlease write your thinking process inside "
    "<think> </think> tags, and provide your final answer (only 1–3 words) inside <answer> </answer> tags.\nYour "
    "response MUST strictly follow this format: <think> ... </think><answer>concise answer</answer>"
)


def ask(
    question: str = "",
    answer: str = "",
    options: tuple[str, ...] = (),
    answer_type: AnswerType | None = None,
    solution: str = "",
) -> Question:
    """The stored question of an item."""
    return normalise(
        Raw(
            id="1",
            source="test",
            image=b"",
            question=question,
            answer=answer,
            options=options,
            answer_type=answer_type,
            solution=solution,
        )
    )


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "B)", "dog", "Dog.", "B. dog", "<answer> dog </answer>"])
def test_answers_become_letters(answer: str) -> None:
    asked = ask("What is it?", answer, ("cat", "dog"))
    assert (asked.text, asked.answer, asked.answer_type) == (PETS, "B", "mc")


@pytest.mark.parametrize("options", [("C", "A", "D", "B"), ("x", "b", "a"), ("x", "A.")])
def test_a_letter_that_is_another_options_text_is_unclear_unless_it_is_marked(options: tuple[str, ...]) -> None:
    for answer in ("A", "a", "A."):
        with pytest.raises(Unusable, match="options cannot be told apart"):
            ask("Which?", answer, options)
    assert ask("Which?", "(A)", options).answer == "A"
    assert ask("Which?", "A", ("a", "x")).answer == "A"  # letter and text agree


@pytest.mark.parametrize(
    "question",
    [
        PETS,
        "<image>\nWhat is it?  (A) cat (B) dog",
        "What is it?\r\nOptions:\r\nA: cat\r\nB: dog",
        "What is it? Choices: A. cat, B. dog",
        "What is it?\n(a) cat\n(b) dog\nAnswer with the option's letter from the given choices directly.",
        "What is it?\nA cat\nB dog",
    ],
)
def test_options_inside_a_question_become_lettered_lines(question: str) -> None:
    for answer_type in ("mc", None):
        asked = ask(question, "dog", answer_type=answer_type)
        assert (asked.text, asked.answer, asked.answer_type) == (PETS, "B", "mc")


def test_options_given_twice_are_shown_once() -> None:
    assert ask(PETS, "B", ("cat", "dog")).text == PETS
    assert ask("What is it?", "B", ("A. cat", "B) dog")).text == PETS
    assert ask(PETS, "B", ("cat.", "Dog")).text == "What is it?\nA. cat.\nB. Dog"


def test_panels_that_a_question_speaks_of_are_no_options() -> None:
    asked = ask("Which of (a) the left and (b) the right is brighter?", "left", ("left", "right", "neither"))
    assert asked.text.endswith("brighter?\nA. left\nB. right\nC. neither")


def test_what_stands_behind_the_options_goes_before_them() -> None:
    assert ask(f"{PETS}\nHint: it barks.", "B").text == "What is it?\nHint: it barks.\nA. cat\nB. dog"


def test_options_without_marks_stay_where_they_are() -> None:
    asked = ask("what colour is it? red A green B", "B", ("red", "green"))
    assert asked.text == "what colour is it? red A green B"
    assert asked.matter.split("\n")[:2] == ["what colour is it?", "green"]


def test_the_matter_has_the_right_option_only() -> None:
    assert ask(PETS, "B", solution="<think>It barks.</think>").matter == "What is it?\ndog\nIt barks."
    assert ask("What is it?", "a dog").matter == "What is it?\na dog\n"


@pytest.mark.parametrize("answer_type", ["oe", None])
def test_words_stay_words(answer_type: AnswerType | None) -> None:
    asked = ask("Where is\x00 it\u200b?", "<think>hm</think><answer> on  the \n mat </answer>", answer_type=answer_type)
    assert (asked.text, asked.answer, asked.answer_type) == ("Where is it?", "on the mat", "oe")


@pytest.mark.parametrize("question", ["Find A and B", "Here are (a) and (b). Which is larger, (a) or (b)?"])
def test_a_question_about_a_and_b_offers_no_options(question: str) -> None:
    assert ask(question, "3 and 5").answer_type == "oe"
    assert ask(question, "(a) by 2").text == question


@pytest.mark.parametrize("answer_type", ["mc", "oe"])
@pytest.mark.parametrize("name", ["none", "think-answer-letter", "think-answer-words"])
def test_instructions_are_taken_off(answer_type: AnswerType, name: str) -> None:
    dressed = dress(PETS, answer_type, Instruction(mc=name, oe=name))
    assert ask(dressed, "B").text == PETS
    assert ask(PETS + PUBLIC_CODE, "B").text == PETS


def test_an_item_for_drawing_only_asks_nothing() -> None:
    assert ask() == Question(text="", answer="", answer_type="oe", matter="")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"answer": "cat"}, "no question"),
        ({"question": "<image>\n", "answer": "cat"}, "no question"),
        ({"question": "What?"}, "no answer"),
        ({"question": "What?", "answer": "..."}, "no answer"),
        ({"question": "What?", "answer": "B", "answer_type": "mc"}, "no options"),
        ({"question": "What?", "answer": "A", "options": ("cat",)}, "no options"),
        ({"question": "What?", "answer": "A", "options": tuple("abcdefghijk")}, "too many options"),
        ({"question": "What?", "answer": "A", "options": ("cat", "cat")}, "empty or repeated option"),
        ({"question": "What?", "answer": "A", "options": ("cat", " ")}, "empty or repeated option"),
        ({"question": "What?", "answer": "A", "options": ("cat. Please sit", "dog")}, "options cannot be told apart"),
        ({"question": "What?", "answer": "bird", "options": ("cat", "dog")}, "answer not among the options"),
        ({"question": "What?", "answer": "E", "options": ("cat", "dog")}, "answer not among the options"),
        ({"question": PETS, "answer": "A", "options": ("dog", "cat")}, "options cannot be told apart"),
        ({"question": PETS, "answer": "A", "options": ("dog", "cat", "bird")}, "options cannot be told apart"),
        ({"question": PETS, "answer": "A", "options": ("bird", "fish", "ant")}, "options cannot be told apart"),
        ({"question": PETS, "answer": "A", "options": ("bird", "fish")}, "options cannot be told apart"),
        (
            {"question": "Which?\nA. red\nB. green\nC. blue", "answer": "A", "options": ("green", "red", "blue")},
            "options cannot be told apart",
        ),
        ({"question": PETS, "answer": "bird"}, "answer not among the options"),
        ({"question": PETS, "answer": "A. dog"}, "answer not among the options"),
        ({"question": PETS, "answer": "A, B"}, "several answers"),
        ({"question": PETS, "answer": "A and B"}, "several answers"),
        ({"question": "What?", "answer": "<answer>cat</answer> <answer>dog</answer>"}, "several answers"),
        ({"question": "What? " * 4000, "answer": "cat"}, "question or answer too long"),
        ({"question": "What?", "answer": "cat " * 300}, "question or answer too long"),
        ({"question": "What?", "answer": "<think>" * 100_000}, "question or answer too long"),
    ],
)
def test_what_cannot_be_asked_is_dropped_by_reason(item: dict, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        ask(**item)
    assert str(caught.value) == reason
    assert reason in REASONS


def test_the_world_is_stored_as_it_is() -> None:
    for index in range(40):
        triplet = world_triplet("train", 0, index)
        asked = ask(triplet.question, triplet.answer)
        assert (asked.text, asked.answer, asked.answer_type) == (triplet.question, triplet.answer, triplet.answer_type)


@given(st.lists(st.text("abcxyz ABC.()1-", max_size=8), min_size=2, max_size=6), st.data())
def test_a_stored_choice_is_read_back_and_its_answer_judged_right(options: list[str], data: st.DataObject) -> None:
    letter = data.draw(st.sampled_from("ABCDEF"[: len(options)]))
    try:
        asked = ask("Which one?", f"({letter})", tuple(options))
    except Unusable:
        return
    assert asked.answer == letter
    assert len(read_options(asked.text)) == len(options)
    assert judge(asked.text, asked.answer, letter, "mc").correct
    assert ask(asked.text, f"({asked.answer})", answer_type="mc") == asked  # what is stored stays as it is


@given(st.text(), st.text(max_size=40), st.lists(st.text(max_size=20), max_size=4))
def test_any_text_is_asked_or_dropped_by_a_known_reason(question: str, answer: str, options: list[str]) -> None:
    asked, reason = None, None
    try:
        asked = ask(question, answer, tuple(options))
    except Unusable as fault:
        reason = str(fault)
    assert asked or reason in REASONS
    if asked:
        assert clean(asked.text) == asked.text
        asked.text.encode()  # no halves of characters, which no file can hold
