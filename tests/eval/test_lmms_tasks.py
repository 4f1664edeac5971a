"""The nine lmms-eval tasks: their real code scores right and wrong answers, as corl hands them over."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fake_judge import FakeJudge, Request
from hypothesis import given, settings
from hypothesis import strategies as st
from lmms_items import ITEMS, SPLITS, Item, dataset

import corl_cli
from corl_cli.eval.judge import JudgeError
from corl_cli.eval.understanding import judging
from corl_cli.eval.understanding.extraction import extract
from corl_cli.eval.understanding.mends import pope, we_math
from corl_cli.eval.understanding.tasks import TASKS, boxed

TESTS = Path(__file__).parents[1]
NAMES = list(TASKS)
BY_RULES = [name for name in NAMES if not TASKS[name].judged]
COMPOSITE = ("2steps_1", "2steps_2", "2steps_multi")

# How a model says a final answer: as the trained one does, without tags, and with its reasoning alone in tags.
SAYINGS = (
    "<think> A or C? <answer>A</answer> no. </think> <answer>{}</answer>",
    "{}",
    "<think> A or C? Yes or no? 7. </think>\n{}",
)

# What the tasks make of an answer in the other form, and of records that are not mended.
TRAPS = {
    "mmmu": (0, "<answer>B</answer>"),
    "pope": (0, "<answer>yes</answer>"),
    "wemath": (0, "B"),
    "logicvista": (0, "B"),
    "mathvision": (0, "<answer>B</answer>"),
    "mathvista": (2, "1.5"),
}


def _answers(name: str) -> list[tuple[int, str, bool]]:
    """Every answer of a benchmark's items with its record's number and whether it is right."""
    return [
        (number, said, said in item.right)
        for number, item in enumerate(ITEMS[name])
        for said in item.right + item.wrong
    ]


def _judge(request: Request) -> str:
    """A judge that compares letter by letter, and reads the last number."""
    text = request.text
    if text.rstrip().endswith("Extracted answer:"):  # MathVista's
        response = text.rstrip().removesuffix("Extracted answer:").strip().split("\n\n")[-1]
        return (re.findall(r"\d+(?:\.\d+)?", response) or [response])[-1]
    if "gpt_query_prompt" in text:  # MM-Vet's
        _, gold, said, _ = text.split("\n")[-1].split("|")
        return "1.0" if gold.strip() in said else "0.0"
    gold, said = re.findall(r"```\n(.*?)\n```", text, re.DOTALL)[1:]  # MathVerse's
    return "1" if said.endswith(gold) else "0"


@pytest.fixture(scope="module")
def judge() -> Iterator[FakeJudge]:
    with FakeJudge(_judge) as server:
        yield server


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, judge: FakeJudge) -> dict[str, Any]:
    """What the tasks' own code says, from one process."""
    if find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed")
    folder = tmp_path_factory.mktemp("lmms")
    cases: dict[str, Any] = {}
    for name, task in TASKS.items():
        dataset(name).save_to_disk(folder / name)
        base = {"benchmark": name, "data": str(folder / name), "mended": True}
        handed = [
            [number, task.hand(ITEMS[name][number].record, extract(saying.format(said))[0])]
            for saying in SAYINGS
            for number, said, _ in _answers(name)
        ]
        cases[name] = {**base, "answers": handed}
        if name in TRAPS:
            cases[f"{name} trap"] = {**base, "mended": False, "answers": [TRAPS[name]]}
    endless = [[2, "9^{9^{9^{9}}}"]]
    cases["mathvision endless"] = {**cases["mathvision"], "answers": endless}
    solved = [[number, f"<answer>{item.right[0]}</answer>"] for number, item in enumerate(ITEMS["wemath"])]
    base = {"benchmark": "wemath", "data": str(folder / "wemath"), "mended": True}
    cases["wemath solved"] = {**base, "answers": solved}
    cases["wemath partly"] = {**base, "answers": [*solved[:2], [2, "<answer>A</answer>"], *solved[3:]]}
    cases["wemath by rote"] = {**base, "answers": [*solved[:3], [3, "<answer>A</answer>"], *solved[4:]]}
    cases["wemath wrong"] = {**base, "answers": [[number, "<answer>A</answer>"] for number, _ in solved]}
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "OPENAI_API_URL": judge.base_url,
        "MODEL_VERSION": "fake-judge",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(corl_cli.__file__).parents[1]), str(TESTS)]),
    }
    command = [sys.executable, str(TESTS / "lmms_child.py"), str(folder / "cases.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_are_right_and_wrong_ones_wrong_however_they_are_said(name: str, scored: dict[str, Any]) -> None:
    expected = [(saying, said, float(right)) for saying in SAYINGS for _, said, right in _answers(name)]
    values = [TASKS[name].value(metrics) for metrics in scored[name]["metrics"]]
    found = [(saying, said, value) for (saying, said, _), value in zip(expected, values, strict=True)]
    assert found == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("pope", "wemath", "mmstar")])
def test_the_headline_is_the_mean_of_the_values(name: str, scored: dict[str, Any]) -> None:
    values = [TASKS[name].value(metrics) or 0 for metrics in scored[name]["metrics"]]
    total = scored[name]["total"][TASKS[name].headline] * TASKS[name].scale
    assert total == pytest.approx(100 * sum(values) / len(values), abs=0.01)


@pytest.mark.parametrize("name", ["mmmu", "pope", "wemath", "logicvista", "mathvision", "mathvista"])
def test_the_other_form_of_a_right_answer_is_scored_wrong(name: str, scored: dict[str, Any]) -> None:
    """Why `form` and `document` are what they are."""
    [metrics] = scored[f"{name} trap"]["metrics"]
    assert TASKS[name].value(metrics) == 0
    number, said = TRAPS[name]
    assert said.removeprefix("<answer>").removesuffix("</answer>") in ITEMS[name][number].right


@pytest.mark.parametrize("name", NAMES)
def test_the_task_asks_in_the_words_that_corl_asks_in(name: str, scored: dict[str, Any]) -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"\w+", text.lower()))

    for item, plain, images in zip(ITEMS[name], scored[name]["plain"], scored[name]["images"], strict=True):
        assert words(TASKS[name].question(item.record)) - {"the", "that", "is"} <= words(plain)
        assert images == max(1, len(set(re.findall(r"<image ?\d*>", plain))))


def test_a_comparison_without_end_is_a_difference(scored: dict[str, Any]) -> None:
    [metrics] = scored["mathvision endless"]["metrics"]
    assert TASKS["mathvision"].value(metrics) == 0


def test_questions_carry_options_and_no_instruction() -> None:
    asked = {name: [TASKS[name].question(item.record) for item in ITEMS[name]] for name in NAMES}
    assert asked["mmmu"][0] == "Which agency built it?\nA. CIA\nB. NASA HQ\nC. FDA\nD. EPA"
    assert asked["mmmu"][1].startswith("Compare <image 1> and <image 2>. Which is older?\nA. <image 1>\nB. <image 2>")
    assert asked["mmmu"][2] == "What is the area in the image?"
    assert asked["mmstar"][1] == "What is 2 + 3?\nOptions: A: 4, B: 5, C: 6, D: 7"
    assert asked["wemath"][0].endswith("( ) cm?\nA. 9; B. 12; C. 6; D. 3; E. No correct answer")
    assert asked["mmvet"][0] == "What is x in the equation?"
    assert asked["pope"][0] == "Is there a dog in the image?"
    assert asked["mathvista"][0] == "What fraction is blue?\nA. 3/11\nB. 8/11\nC. 6/11\nD. 3/5"
    assert asked["mathvista"][2] == "How long is it? (Unit: m)"
    assert asked["mathverse"][0] == "Answer the question that is shown in the image."
    assert asked["mathvision"][0] == "How many eyes?\nA. A\nB. B\nC. C\nD. D\nE. E"


def test_answer_types_and_groups_are_read_off_the_records() -> None:
    types = {name: [TASKS[name].answer_type(item.record) for item in ITEMS[name]] for name in NAMES}
    assert types["mmmu"] == ["mc", "mc", "oe", "oe"]
    assert types["mathvista"] == ["mc", "oe", "oe"]
    assert types["mathverse"] == ["mc", "oe"]
    assert types["mathvision"] == ["mc", "mc", "oe"]
    assert types["logicvista"] == ["mc", "mc", "oe"]
    assert {*types["mmstar"], *types["wemath"]} == {"mc"}
    assert {*types["mmvet"], *types["pope"]} == {"oe"}
    groups = {name: TASKS[name].group(ITEMS[name][0].record) for name in NAMES}
    assert groups == {
        "mmmu": "Art Theory",
        "mmstar": "coarse perception",
        "wemath": "2steps_1",
        "mmvet": "ocr,math",
        "pope": "adversarial",
        "logicvista": "inductive",
        "mathvista": "math word problem",
        "mathverse": "Angle",
        "mathvision": "metric geometry - area",
    }
    assert {name: task.split for name, task in TASKS.items()} == SPLITS


def test_a_judge_that_gave_no_grade_leaves_no_value() -> None:
    graded = {"question_id": "v1_0", "score": 0.0, "eval_model": "fake"}
    assert TASKS["mmvet"].value({"gpt_eval_score": graded}) == 0
    assert TASKS["mmvet"].value({"gpt_eval_score": {**graded, "eval_model": ""}}) is None


def test_mathvista_needs_no_judge_for_a_chosen_option(scored: dict[str, Any], judge: FakeJudge) -> None:
    asked = [request.text for request in judge.requests if request.text.rstrip().endswith("Extracted answer:")]
    assert asked
    assert not [text for text in asked if "What fraction is blue?\n\n" in text]


@pytest.mark.parametrize("case", ["solved", "partly", "by rote"])
def test_we_math_is_lmms_evals_score(case: str, scored: dict[str, Any]) -> None:
    """Which counts every one of 525 problems that is not lost as solved; of two, a loss is 525 / 2 times as much."""
    found = scored[f"wemath {case}"]
    ours = we_math([metrics["wemath_strict"] for metrics in found["metrics"]])
    for name in ("wemath_strict", "wemath_loose"):
        theirs = float(found["total"][name].removesuffix("%"))
        assert (100 - ours[name]) * 2 / 525 == pytest.approx(100 - theirs, abs=0.01)


def test_we_math_has_a_score_where_lmms_eval_divides_by_zero(scored: dict[str, Any]) -> None:
    found = scored["wemath wrong"]
    assert found["total"]["wemath_strict"] == "ZeroDivisionError"
    nothing = {"wemath_strict": 0.0, "wemath_loose": 0.0, "problems": 2}
    assert we_math([metrics["wemath_strict"] for metrics in found["metrics"]]) == nothing


@pytest.mark.parametrize(
    ("solved", "strict", "loose"),
    [
        ((True, True, True), 100, 100),
        ((True, True, False), 50, 50),  # the steps are known, and not put together
        ((True, False, True), 0, 100),  # right without all of its steps
        ((False, False, True), 0, 0),  # by rote
        ((True, False, False), 0, 0),
    ],
)
def test_we_math_of_one_problem(solved: tuple[bool, ...], strict: float, loose: float) -> None:
    records = [{"ID": "7", "key": key, "acc_score": float(one)} for key, one in zip(COMPOSITE, solved, strict=True)]
    assert we_math(records) == {"wemath_strict": strict, "wemath_loose": loose, "problems": 1}
    assert we_math(records[:2]) == {"problems": 0}
    assert we_math(records[1:]) == {"problems": 0}


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_we_math_is_the_mean_over_problems_and_loose_is_kinder(problems: list[list[bool]]) -> None:
    records = [
        [{"ID": str(number), "key": key, "acc_score": float(one)} for key, one in zip(COMPOSITE, solved, strict=True)]
        for number, solved in enumerate(problems)
    ]
    found = we_math([record for problem in records for record in problem])
    each = [we_math(problem) for problem in records]
    for name in ("wemath_strict", "wemath_loose"):
        assert found[name] == pytest.approx(sum(one[name] for one in each) / len(each))
    assert found["problems"] == len(problems)
    assert found["wemath_strict"] <= found["wemath_loose"]


def _pope(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"prediction": said, "ground_truth": gold} for said, gold in pairs]


def test_pope_counts_a_question_without_an_answer() -> None:
    """TP 1, FN 5, FP 0: precision 1, recall 1 / 6, F1 = 2 / 7. lmms-eval says 100."""
    records = _pope(("yes", "yes"), *[("it is unclear", "yes")] * 5, *[("no", "no")] * 4)
    assert pope(records) == pytest.approx(
        {"pope_precision": 100, "pope_recall": 100 / 6, "pope_f1_score": 28.5714, "pope_yes_ratio": 10}, abs=1e-4
    )
    # TP 1, FP 1, FN 1 and an unanswered no, which is none of them
    records = _pope(("yes", "yes"), ("yes", "no"), ("no", "yes"), ("unclear", "no"))
    assert set(pope(records).values()) == {50.0}
    assert set(pope(_pope(("unclear", "no"))).values()) == {0.0}


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no"])), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_pope_is_lmms_evals_where_all_is_answered(pairs: list[tuple[str, str]]) -> None:
    """By its formulas: tp / (tp + fp), tp / (tp + fn) and their harmonic mean."""
    tp, fp, fn = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    precision = tp / (tp + fp) if tp + fp else 0
    recall = tp / (tp + fn) if tp + fn else 0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    found = pope(_pope(*pairs))
    assert [found[f"pope_{name}"] for name in ("precision", "recall", "f1_score")] == pytest.approx(
        [100 * precision, 100 * recall, 100 * f1]
    )


@pytest.mark.parametrize(
    ("said", "final"),
    [
        (r"Let A be 2. Thus \boxed{C}", "C"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\[ \boxed {\text{C}} \]", "C"),
        (r"put it in \boxed{}: \boxed{7\,\text{cm}} and never \boxed{", r"7\,cm"),
        (r"it goes in \boxed{}", r"it goes in \boxed{}"),
        ("no box", "no box"),
    ],
)
def test_the_last_box_that_holds_something_is_the_answer(said: str, final: str) -> None:
    assert boxed(said) == final


@pytest.mark.parametrize(
    "said",
    [
        "Let AB be 3 and BC be 4. By option A we would get 2. So option B is too small.\n\nThus \\boxed{C}",
        "Step 1: let point A be (0,0), B be (1,0). Then the distance is 6. Therefore \\boxed{C}.",
        "First 2 + 2 = 4 and then 4 + 2 = 6.\n\\boxed{6}",
        "We compute 2 and 4, hence:\n\\[ \\boxed{\\text{C}} \\]",
        "**Step 1** A square has 4 sides, and 9 > 8.\nFinal: \\boxed{C. 6}",
    ],
)
def test_a_boxed_choice_after_reasoning_is_chosen(said: str) -> None:
    record = {"options": ["2", "4", "6", "8", "9"], "question": "q", "answer": "C"}
    assert TASKS["mathvision"].hand(record, said) == "C"


def test_a_judge_reads_an_open_answer_whole_and_a_rule_its_box() -> None:
    said = r"It is \boxed{-1} or \boxed{-5}"
    assert TASKS["mmvet"].hand({}, said) == said
    assert TASKS["mathvision"].hand({"options": []}, said) == "-5"


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("D", "D"),
        ("The answer is D", "D"),
        ("(D)", "D"),
        ("A. B", "A"),
        ("(A) B", "A"),
        ("A or B", ""),
        ("none of these", "E"),
    ],
)
def test_of_options_that_are_letters_the_letter_before_is_read(said: str, letter: str) -> None:
    options = {"options": ["B", "C", "D", "A", "none of these"], "question": "q", "answer": "A"}
    assert TASKS["mathvision"].hand(options, said) == letter


def test_options_that_are_letters_of_no_option_are_read() -> None:
    assert TASKS["mathvision"].hand({"options": ["I", "II", "III"]}, "I") == "A"
    assert TASKS["mathvision"].hand({"options": ["E", "F", "G"]}, "The answer is F") == "B"


CHOICE = {"question_type": "multi_choice", "answer_type": "text", "choices": ["3/11", "8/11", "None of these", ""]}
FREE = {"question_type": "free_form", "choices": None}


@pytest.mark.parametrize(
    ("record", "said", "meant"),
    [
        (CHOICE, "B", "B"),
        (CHOICE, "**Extracted answer:** (B)", "B"),
        (CHOICE, "Extracted answer: B. 8/11", "B"),
        (CHOICE, "8/11.", "B"),
        (CHOICE, "none of these", "C"),
        (CHOICE, "None", ""),
        ({**FREE, "answer_type": "integer"}, "Extracted answer: **14**", "14"),
        ({**FREE, "answer_type": "integer"}, "The answer is 1,400.", "1400"),
        ({**FREE, "answer_type": "integer"}, "N/A", ""),
        ({**FREE, "answer_type": "float"}, "-0.60", "-0.60"),
        ({**FREE, "answer_type": "list"}, "[2007, 2008]", "[2007, 2008]"),
    ],
)
def test_what_mathvistas_judge_extracted_is_read(record: dict[str, Any], said: str, meant: str) -> None:
    assert judging.extraction(said, record) == meant


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (CHOICE, "I cannot help with that."),
        (CHOICE, "D"),
        (CHOICE, "A or B"),
        (CHOICE, "A. 8/11"),
        (CHOICE, "The model chose a fraction"),
        ({**FREE, "answer_type": "integer"}, "There are 12 left."),
        ({**FREE, "answer_type": "integer"}, "12 or 13"),
        ({**FREE, "answer_type": "integer"}, "nan"),
        ({**FREE, "answer_type": "float"}, "I'm sorry, I can't do that."),
        ({**FREE, "answer_type": "list"}, "I'm sorry, I can't do that."),
        ({**FREE, "answer_type": "list"}, "The response gives no answer"),
    ],
)
def test_what_is_no_extraction_is_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="it is n"):
        judging.extraction(said, record)


def test_a_failure_is_told_in_its_own_words_and_by_its_own_record_alone() -> None:
    desk = judging.Desk(None, "mathvista_testmini_format", "template")
    desk.answer([])  # nobody collected it
    with desk.about(CHOICE):
        assert desk.read("(B)") == "B"

    def score() -> None:
        with desk.about({**FREE, "answer_type": "float"}):
            desk.answer([])
            raise KeyError("what the task makes of it")

    with pytest.raises(JudgeError, match=r"^there is no judge"):
        score()
    with desk.about({**FREE, "answer_type": "float"}):
        assert desk.read("1.5") == "1.5"


@pytest.mark.parametrize("name", [name for name in BY_RULES if TASKS[name].answer_type(ITEMS[name][0].record) == "mc"])
@given(said=st.text(alphabet="KLMNOPQRSTUVWXYZklmnopqrstuvwxyz .,:()", max_size=40))
@settings(max_examples=30, deadline=None)
def test_what_names_no_option_is_handed_empty(name: str, said: str) -> None:
    item: Item = ITEMS[name][0]
    empty = "<answer></answer>" if TASKS[name].form == "tag" else ""
    assert TASKS[name].hand(item.record, said) == empty
