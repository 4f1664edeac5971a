import pytest
import torch

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import RewardSpec
from corl_cli.core.types import Samples, Sampling, Triplet
from corl_cli.rewards import bind

QUESTION = "What is on the sofa?\nA. cat\nB. dog"


def score(name: str, rows, **options):
    """Scores of rows (gold, completion, answer type)."""
    triplets = [
        Triplet(
            id=str(number),
            image=None,
            prompt="",
            question=QUESTION if answer_type == "mc" else "What is on the sofa?",
            answer=gold,
            answer_type=answer_type,
            source="test",
        )
        for number, (gold, _, answer_type) in enumerate(rows)
    ]
    samples = Samples(task="mm2t", triplets=triplets, outputs=[row[1] for row in rows], sampling=Sampling())
    reward = bind(RewardSpec.model_validate({"name": name, **options}), "mm2t")
    reward.load(torch.device("cpu"), None)
    return reward.score(samples, None)


ROWS = [
    ("B", "<think>x</think><answer>the dog</answer>", "mc"),
    ("B", "<think>x</think><answer>A or B</answer>", "mc"),
    ("red car", "<think>x</think><answer>a blue car</answer>", "oe"),
    ("two", "2", "oe"),
    ("red", "", "oe"),
    ("red", "<answer></answer>", "oe"),
    ("red", "red " * 1000, "oe"),
]


def test_binary():
    scores = score("accuracy", ROWS)
    assert scores.values.tolist() == [1, 0, 0, 1, 0, 0, 0]
    assert list(scores.notes)[:6] == [
        "option B, as gold 'B. dog': 'the dog'",
        "not one option, gold is 'B. dog': 'A or B'",
        "not the same words as 'red car': 'a blue car'",
        "same quantity as 'two': '2'",
        "no final answer",
        "the answer is empty: ''",
    ]


def test_soft_gives_a_part_to_open_ended_answers_alone():
    # {red, car} and {a, blue, car}: 1 / (2 + 3 - 1)
    assert score("accuracy", ROWS, variant="soft").values.tolist() == [1, 0, 0.25, 1, 0, 0, 0]


@pytest.mark.parametrize("variant", ["binary", "soft"])
def test_without_a_gold_answer_there_is_no_score(variant):
    scores = score("accuracy", [(" ", "red", "oe"), ("red", "red", "oe")], variant=variant)
    assert scores.values.isnan().tolist() == [True, False]
    assert scores.notes[0] == "the gold answer is empty"


@pytest.mark.parametrize(
    ("gold", "completion", "answer_type", "value", "note"),
    [
        ("red", "It is crimson.", "oe", 0, "not the same words as 'red': 'It is crimson.'"),
        ("4", "5", "oe", 0, "not the same quantity as '4': '5'"),
        ("yes", "no", "oe", 0, "yes or no, gold is 'yes': 'no'"),
        ("A", "dog", "mc", 0, "option B, gold is 'A. cat': 'dog'"),
        (r"\frac{1}{2}", r"\frac{1}{2}", "oe", 1, r"same words as '\frac{1}{2}': '\frac{1}{2}'"),
        ("red", "a\nred", "oe", 1, "same words as 'red': 'a red'"),
        ("A and B", "A, B", "mc", 1, "same list as 'A and B': 'A, B'"),
    ],
)
def test_a_verdict_reads_as_it_is(gold, completion, answer_type, value, note):
    scores = score("accuracy", [(gold, completion, answer_type)])
    assert scores.values.tolist() == [value]
    assert scores.notes[0] == note


@pytest.mark.parametrize("gold", ["C", "rabbit", "(D)"])
@pytest.mark.parametrize("completion", ["rabbit", "C", "A", "", "x" * 2000])
def test_a_gold_answer_that_is_no_option_is_an_error_in_the_data_whatever_was_answered(gold, completion):
    scores = score("accuracy", [(gold, completion, "mc")])
    assert scores.values.isnan().all()
    assert scores.notes[0] == f"the gold answer is none of the options: '{gold}' is not among A. cat, B. dog"


def test_hostile_algebra_is_wrong_and_not_missing():
    hostile = "(" * 15 + "x+1" + ")^9)" * 14 + ")"
    scores = score("accuracy", [("x+1", f"<answer>{hostile}</answer>", "oe")])
    assert scores.values.tolist() == [0]


def test_an_unknown_variant_is_refused():
    with pytest.raises(UsageError, match=r"rewards\.mm2t\.accuracy\.variant"):
        score("accuracy", ROWS, variant="softer")


def test_format_says_what_is_broken():
    scores = score("format", ROWS[:5])
    assert scores.values.tolist() == [1, 1, 1, 0, 0]
    assert list(scores.notes) == ["as asked", "as asked", "as asked", "no tags", "no tags"]
