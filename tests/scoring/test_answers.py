"""accuracy.json: 128 cases on which competent people agree, collected by the project; null is a policy choice."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.answers import MAX_CHARS, extract, follows_format, judge

CASES = json.loads((Path(__file__).parent / "accuracy.json").read_text(encoding="utf-8"))["cases"]
SOFA = "What animal is on the sofa?\nA. cat\nB. dog\nC. rabbit\nD. bird"
INSTRUCTION = (
    "Answer the question. Put your thinking inside <think> </think> tags and your final answer "
    "(option letter, e.g., A/B/C/D) inside <answer> </answer> tags."
)


def right(question: str, gold: str, answer: str, answer_type: str) -> bool:
    return judge(question, gold, f"<think>x</think><answer>{answer}</answer>", answer_type).correct


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_agrees_with_people(case):
    judgement = judge(case["question"], case["gold"], case["completion"], case["answer_type"])
    if case["expected_accuracy"] is not None:
        assert judgement.correct == bool(case["expected_accuracy"]), judgement
    if case["expected_format"] is not None:
        assert follows_format(case["completion"]) == bool(case["expected_format"])


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>a</think><answer> B </answer>", "B"),
        ("B", "B"),
        ("<think>a</think><answer>B</answer><answer>b.</answer>", "B"),
        ("<think>a</think><answer>B</answer><answer>A</answer>", None),
        ("<think>maybe <answer>B</answer></think><answer>A</answer>", "A"),
        ("<think>a<answer>B</answer>", None),
        ("<think>a</think><answer>B", None),
        ("<think>B</think>", None),
        ("<THINK>a</THINK><ANSWER>B</ANSWER>", "B"),
        ("", None),
    ],
)
def test_extracts_the_final_answer(completion, answer):
    assert extract(completion) == answer


@pytest.mark.parametrize(
    "answer",
    [
        "(B)",
        "B.",
        "**B**",
        "\\boxed{B}",
        "Ｂ",
        "answer: b",
        "Choice B",
        "B is correct",
        "Not A but B",
        "DOG",
        "b) dog",
        "The animal is a dog.",
        "It can't be A, so B",
        "B rather than A",
        "B. It is a dog.",
        "A is incorrect. B",
    ],
)
def test_one_option_however_it_is_named(answer):
    assert right(SOFA, "B", answer, "mc")


@pytest.mark.parametrize(
    "answer",
    [
        "A or B",
        "A/B/C/D",
        "ABCD",
        "B, C",
        "B is not correct",
        "It isn't B",
        "not a dog",
        "neither A nor B",
        "doge",
        "E",
        "none of the above",
        "A. dog",
        "B. cat",
        "A dog is not here",
        "option letter",
        "x" * 5000,
        "B" * 5000,
    ],
)
def test_no_option_or_several_are_wrong(answer):
    assert not right(SOFA, "B", answer, "mc")


@pytest.mark.parametrize("instruction", ["", f"\n{INSTRUCTION}", f" {INSTRUCTION}"])
@pytest.mark.parametrize(
    ("answer", "correct"),
    [("B", True), ("green", True), ("green B", True), ("red B", False), ("A", False), ("black", False)],
)
def test_options_of_the_world(instruction, answer, correct):
    question = f"what colour is the circle? red A green B blue C black D{instruction}"
    assert right(question, "B", answer, "mc") == correct


def test_a_gold_given_as_text_is_an_option_too():
    assert right(SOFA, "dog", "B", "mc")
    assert right(SOFA, "<answer>B. dog</answer>", "dog", "mc")


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"))
def test_letters_are_right_when_equal(gold, answer):
    assert right(SOFA, gold, answer, "mc") == (gold == answer)


@given(st.text(max_size=2 * MAX_CHARS), st.sampled_from(["mc", "oe"]))
def test_any_completion_is_judged(completion, answer_type):
    assert judge(SOFA, "B", completion, answer_type).correct in (True, False)


@given(st.text(alphabet=st.characters(exclude_characters="<>"), max_size=40), st.text(alphabet="ab \n", max_size=20))
def test_format_is_about_tags_alone(answer, think):
    assert follows_format(f"\n<think>{think}</think>\n<answer>{answer}</answer> ")
    assert not follows_format(f"<think>{think}</think><answer>{answer}</answer>.")
    assert not follows_format(f"<answer>{answer}</answer><think>{think}</think>")
