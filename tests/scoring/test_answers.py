"""accuracy.json: 128 cases on which competent people agree, collected by the project; null is a policy choice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.answers import MAX_CHARS, extract, format_fault, infer_type, judge

AGREED = json.loads((Path(__file__).parent / "agreed_answers.json").read_text(encoding="utf-8"))
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
        assert (format_fault(case["completion"]) is None) == bool(case["expected_format"])


def agreed(answer_type):
    """Answers as models write them, and whether competent people would call them right."""
    return [
        pytest.param(question, row["gold"], answer, verdict == "right", id=f"{row['gold']}-{answer}")
        for question, rows in AGREED[answer_type].items()
        for row in rows
        for verdict in ("right", "wrong")
        for answer in row[verdict]
    ]


@pytest.mark.parametrize(("question", "gold", "answer", "correct"), agreed("mc"))
def test_multiple_choice_as_people_judge_it(question, gold, answer, correct):
    assert right(question, gold, answer, "mc") == correct


@pytest.mark.parametrize(("question", "gold", "answer", "correct"), agreed("oe"))
def test_open_ended_as_people_judge_it(question, gold, answer, correct):
    assert right(question, gold, answer, "oe") == correct


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


@pytest.mark.parametrize(
    ("completion", "fault"),
    [
        ("<think>a</think><answer>b</answer>", None),
        ("\n<think></think>\n\n<answer></answer>\n", None),
        ("b", "no tags"),
        ("", "no tags"),
        ("<Think>a</Think><answer>b</answer>", "tags not in lower case"),
        ("<answer>b</answer>", "no think block"),
        ("<think>a</think>", "no answer block"),
        ("<think>a</think><answer>b</answer><answer>b</answer>", "2 answer blocks"),
        ("<think>a<think>b</think></think><answer>b</answer>", "2 think blocks"),
        ("<think>a</think><answer>b", "answer block not closed"),
        ("a</think><answer>b</answer>", "think block not opened"),
        ("<answer>b</answer><think>a</think>", "tags out of order"),
        ("<think>a<answer>b</think></answer>", "tags out of order"),
        ("Sure! <think>a</think><answer>b</answer>", "text outside the blocks"),
        ("<think>a</think>so<answer>b</answer>", "text outside the blocks"),
        ("<think>a</think><answer>b</answer>.", "text outside the blocks"),
    ],
)
def test_says_how_the_format_is_broken(completion, fault):
    assert format_fault(completion) == fault


@pytest.mark.parametrize(
    ("question", "gold", "answer_type"),
    [
        (SOFA, "B", "mc"),
        (SOFA, "<answer>(b)</answer>", "mc"),
        (SOFA, "dog", "mc"),
        (SOFA, "horse", "oe"),
        (SOFA, "", "oe"),
        ("what colour is it? red A green B", "A", "mc"),
        (SOFA, "E", "mc"),  # not among the options: an error in the data, and said to be one
        (SOFA, "a cow", "oe"),
        ("Which letter is on the sign?", "B", "oe"),
        ("What animal is on the sofa?", "dog", "oe"),
    ],
)
def test_a_question_with_options_and_one_of_them_as_gold_is_multiple_choice(question, gold, answer_type):
    assert infer_type(question, gold) == answer_type


@pytest.mark.parametrize(
    ("completion", "rule", "extracted"),
    [
        ("", "no final answer", None),
        ("<think>B</think>", "no final answer", None),
        ("<answer> </answer>", "the answer is empty", ""),
        ("<answer>...</answer>", "the answer is empty", "..."),
        ("x" * (MAX_CHARS + 1), "the answer is too long", "x" * 80),
        ("\ufdfa" * MAX_CHARS, "the answer is too long", "\ufdfa" * 80),
        ("the answer is (b)", "option B", "the answer is (b)"),
        ("A or B", "not one option", "A or B"),
    ],
)
def test_the_rule_that_decided_and_the_answer_are_told(completion, rule, extracted):
    judgement = judge(SOFA, "B", completion, "mc")
    assert (judgement.rule, judgement.extracted) == (rule, extracted)
    assert judgement.correct == (rule == "option B")


@pytest.mark.parametrize("gold", ["", "  ", "<answer></answer>", "?!", "x" * (MAX_CHARS + 1)])
def test_without_a_gold_answer_there_is_no_verdict(gold):
    judgement = judge(SOFA, gold, "B", "oe")
    assert judgement.correct is None
    assert "gold answer" in judgement.rule


PIECES = st.sampled_from(
    [
        *"xyzeAB0123456789+-*/^=<()[]{},.:;'π√°%$²½∠",
        *(" ", "\n", "<think>", "</think>", "<answer>", "</answer>", "\\frac{", "\\sqrt ", "\\sin ", "\\text{", "\\{"),
        *(
            "yes",
            "no ",
            "not ",
            "or",
            "and",
            "the ",
            "dog",
            "cm",
            "three",
            "million",
            "may",
            "pm",
            "٣",
            "\u0301",
            "ﷺ",
            "İ",
        ),
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=16).map("".join))


@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["mc", "oe"]))
def test_anything_is_judged_and_judged_alike_again(question, gold, completion, answer_type):
    judgement = judge(question, gold, completion, answer_type)
    assert judgement.correct in (True, False, None)
    assert 0 <= judgement.overlap <= 1
    assert judgement == judge(question, gold, completion, answer_type)
    assert infer_type(question, gold) in ("mc", "oe")
    assert format_fault(completion) == format_fault(f" {completion} ")


def test_hostile_texts_come_to_an_end():
    """Nothing is quadratic in a long text, or evaluated: otherwise this takes hours, not seconds."""
    subprocess.run([sys.executable, Path(__file__).with_name("hostile_answers.py")], check=True, timeout=300)


@given(st.text(alphabet=st.characters(exclude_characters="<>"), max_size=40), st.text(alphabet="ab \n", max_size=20))
def test_format_is_about_tags_alone(answer, think):
    assert format_fault(f"\n<think>{think}</think>\n<answer>{answer}</answer> ") is None
    assert format_fault(f"<think>{think}</think><answer>{answer}</answer>.") == "text outside the blocks"
    assert format_fault(f"<answer>{answer}</answer><think>{think}</think>") == "tags out of order"


@pytest.mark.parametrize("answer", ["A\nB\nC\nD", "A.\nB.", "(A)\n(B)", "a\nb", "A. cat\nB. dog\nC. cow", "A\n\nB"])
def test_options_on_lines_of_their_own_are_no_choice(answer):
    judgement = judge("What is it?\nA. cat\nB. dog\nC. cow\nD. pig", "A", f"<answer>{answer}</answer>", "mc")
    assert judgement.correct is False


@pytest.mark.parametrize("answer", ["A\nbecause it purrs", "A\nI think so.", "A. cat\nReason: whiskers"])
def test_a_reason_on_a_line_of_its_own_does_not_spoil_a_choice(answer):
    judgement = judge("What is it?\nA. cat\nB. dog\nC. cow\nD. pig", "A", f"<answer>{answer}</answer>", "mc")
    assert judgement.correct is True
