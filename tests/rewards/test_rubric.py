import math
import subprocess
import sys
import threading
import traceback
from dataclasses import replace

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import RewardResult, Samples, Sampling
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores


class Given(Reward):
    """Gives the scores that it was made with."""

    task = "mm2t"

    def __init__(self, scores: Scores) -> None:
        super().__init__(Options())
        self.scores = scores

    def score(self, rollout, policy):
        return self.scores


def criterion(name: str, weight: float, values: list[float], on_error: str = "stop", **scores) -> Criterion:
    reward = Given(Scores(values=torch.tensor(values), **scores))
    return Criterion(name=name, weight=weight, on_error=on_error, reward=reward)


@pytest.fixture
def samples(triplets) -> Samples:
    return Samples(task="mm2t", triplets=triplets[:2], outputs=["a", "b"], sampling=Sampling())


class Fails(Reward):
    """Raises for every batch that holds the output `b`; else 1, with a part and a note."""

    task = "mm2t"

    def score(self, samples, policy):
        if "b" in samples.outputs:
            raise ValueError("no b, please")
        ones = torch.ones(len(samples))
        return Scores(values=ones, parts={"half": ones / 2}, notes=["fine"] * len(samples))


def test_the_total_is_the_weighted_sum(samples, policy):
    halves = {"half": torch.tensor([5.0, 6.0])}
    rubric = Rubric(
        "mm2t", [criterion("x", 2.0, [1.0, 2.0], parts=halves), criterion("y", 0.5, [3.0, 4.0], notes=["n", "m"])]
    )
    result = rubric(samples, policy)
    assert result.total.tolist() == [3.5, 6.0]
    assert result.valid.all()
    assert {name: part.tolist() for name, part in result.parts.items()} == {
        "x": [1, 2],
        "x.half": [5, 6],
        "y": [3, 4],
    }
    assert result.notes == {"y": ["n", "m"]}
    assert {name: term.tolist() for name, term in result.terms.items()} == {"x": [2, 4], "y": [1.5, 2]}
    assert set(result.seconds) == {"x", "y"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_missing_score_stops_and_says_where(samples, policy, triplets, bad):
    with pytest.raises(CorlError) as caught:
        Rubric("mm2t", [criterion("x", 1.0, [1.0, bad])])(samples, policy)
    assert f"'x' gave {bad} for sample 1 (triplet {triplets[1].id})" in caught.value.message
    assert "1 of 2" in caught.value.message
    assert "rewards.mm2t.x.on_error=mask" in caught.value.hint


def test_a_missing_score_masks_the_row_when_told_to(samples, policy):
    rubric = Rubric("mm2t", [criterion("x", 0.0, [1.0, math.nan], "mask"), criterion("y", 1.0, [1.0, 1.0])])
    result = rubric(samples, policy)
    assert result.valid.tolist() == [True, False]
    assert result.total[0] == 1
    assert result.total[1].isnan()
    assert result.parts["y"].tolist() == [1, 1]


def test_scores_of_the_wrong_number_stop(samples, policy):
    with pytest.raises(CorlError, match=r"values of shape \[3\] for 2 samples"):
        Rubric("mm2t", [criterion("x", 1.0, [1.0, 2.0, 3.0])])(samples, policy)


def test_a_note_says_why_a_score_is_missing(samples, policy):
    with pytest.raises(CorlError, match="the prompt is empty"):
        Rubric("mm2t", [criterion("x", 1.0, [1.0, math.nan], notes=["", "the prompt is empty"])])(samples, policy)


def test_a_normalised_reward_joins_the_sum_with_mean_0_and_deviation_1_in_each_group(samples, policy):
    two_groups = replace(samples, triplets=samples.triplets * 2, outputs=["a"] * 4, sampling=Sampling(group_size=2))
    plain, scaled = criterion("x", 1.0, [1.0, 2.0, 3.0, 3.0]), criterion("y", 2.0, [10.0, 30.0, 5.0, 5.0])
    result = Rubric("mm2t", [plain, replace(scaled, normalise=True)])(two_groups, policy)
    # y: group 1 has deviations -10 and 10, standard deviation 10 sqrt(2) with Bessel's correction; group 2 has none
    unit = 1 / math.sqrt(2)
    assert result.terms["y"].tolist() == pytest.approx([-2 * unit, 2 * unit, 0, 0], abs=1e-4)
    assert result.total.tolist() == pytest.approx([1 - 2 * unit, 2 + 2 * unit, 3, 3], abs=1e-4)
    assert result.parts["y"].tolist() == [10, 30, 5, 5]


def test_a_row_masked_by_one_reward_is_out_of_the_normalisation_of_another(samples, policy):
    three = replace(samples, triplets=samples.triplets[:1] * 3, outputs=["a"] * 3, sampling=Sampling(group_size=3))
    gap = criterion("x", 0.0, [1.0, math.nan, 1.0], "mask")
    result = Rubric("mm2t", [gap, replace(criterion("y", 1.0, [0.0, 99.0, 2.0]), normalise=True)])(three, policy)
    assert result.total[[0, 2]].tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], abs=1e-4)
    assert result.total[1].isnan()


def test_a_reward_that_raises_stops_with_its_name(samples, policy):
    failing = Criterion(name="x", weight=1.0, on_error="stop", reward=Fails(Options()))
    with pytest.raises(CorlError, match="Reward 'x' failed: ValueError: no b, please") as caught:
        Rubric("mm2t", [failing])(samples, policy)
    assert "rewards.mm2t.x.on_error=mask" in caught.value.hint


def test_a_reward_that_raises_masks_its_own_group_only(samples, policy):
    failing = Criterion(name="x", weight=1.0, on_error="mask", reward=Fails(Options()))
    result = Rubric("mm2t", [failing])(samples, policy)
    assert result.valid.tolist() == [True, False]
    assert result.total[0] == 1
    assert result.parts["x.half"][0] == 0.5
    assert result.parts["x.half"][1].isnan()
    assert result.notes["x"] == ["fine", "ValueError: no b, please (test_rubric.py:46 in score)"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "gave nothing in place of Scores"),
        ([1.0, 2.0], "gave a list in place of Scores"),
        (Scores(values=[1.0, 2.0]), "gave a list as values in place of a tensor"),
        (Scores(values=torch.ones(2), parts={"half": torch.ones(5)}), r"gave half of shape \[5\] for 2 samples"),
        (Scores(values=torch.ones(2), notes=["one"]), "gave 1 notes for 2 samples"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "mask"])
def test_a_reward_that_gives_something_else_stops_whatever_is_masked(samples, policy, found, words, on_error):
    wrong = Criterion(name="x", weight=1.0, on_error=on_error, reward=Given(found))
    with pytest.raises(CorlError, match=words) as caught:
        Rubric("mm2t", [wrong])(samples, policy)
    assert "Return Scores(values=torch.tensor" in caught.value.hint


class Alone(Given):
    """The same without the policy, with a word on where it ran."""

    needs_policy = False

    def score(self, rollout, policy):
        self.ran = (threading.current_thread() is threading.main_thread(), torch.is_grad_enabled(), policy)
        return self.scores


def alone(name: str, values: list[float], on_error: str = "stop", **scores) -> Criterion:
    reward = Alone(Scores(values=torch.tensor(values), **scores))
    return Criterion(name=name, weight=1.0, on_error=on_error, reward=reward)


def numbers(result: RewardResult) -> dict[str, object]:
    """All of a result but its seconds, in order, NaN as a word."""
    columns = {"total": result.total, **result.parts, **{f"term {name}": term for name, term in result.terms.items()}}
    shown = {name: str(values.tolist()) for name, values in columns.items()}
    return shown | {"valid": result.valid.tolist(), "notes": list(result.notes.items()), "texts": result.texts}


def test_begun_and_finished_is_what_a_call_gives(samples, policy):
    rubric = Rubric(
        "mm2t",
        [
            criterion("x", 2.0, [1.0, 2.0], parts={"half": torch.tensor([5.0, 6.0])}),
            replace(alone("y", [3.0, math.nan], "mask", notes=["n", "m"], texts={"t": ["u", "v"]}), normalise=True),
            criterion("z", 1.0, [0.5, 0.5], notes=["o", "p"]),
            Criterion(name="w", weight=1.0, on_error="mask", reward=Fails(Options())),
        ],
    )
    with rubric.begin(samples) as pending:
        found = rubric.finish(pending, policy)
    expected = rubric(samples, policy)
    assert numbers(found) == numbers(expected)
    assert list(found.parts) == list(expected.parts) == ["x", "x.half", "y", "z", "w", "w.half"]
    assert list(found.seconds) == ["x", "y", "z", "w"]


def test_what_needs_no_policy_runs_beside_it_and_the_rest_does_not(samples, policy):
    reward = alone("y", [1.0, 1.0])
    rubric = Rubric("mm2t", [reward])
    rubric(samples, policy)
    assert reward.reward.ran == (True, False, policy), "a call has no thread"
    with rubric.begin(samples) as pending:
        rubric.finish(pending, policy)
    assert reward.reward.ran == (False, False, None)

    class Reads(Alone):
        needs_reference = True

    assert not Reads(Scores(values=torch.ones(2))).stands_alone, "the reference samples too"
    other = Given(Scores(values=torch.ones(2)))
    assert not other.stands_alone, "what says nothing stays where it was"


def test_a_thread_works_while_this_one_does(samples, policy):
    begun, go = threading.Event(), threading.Event()

    class Waits(Alone):
        def score(self, rollout, policy):
            begun.set()
            assert go.wait(60)
            return self.scores

    reward = Waits(Scores(values=torch.ones(2)))
    rubric = Rubric("mm2t", [Criterion(name="x", weight=1.0, on_error="stop", reward=reward)])
    with rubric.begin(samples) as pending:
        assert begun.wait(60)
        go.set()
        assert rubric.finish(pending, policy).total.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("order", "named"), [("ab", "a"), ("ba", "b"), ("oab", "a"), ("oba", "b"), ("abo", "a")], ids=lambda each: each
)
def test_the_first_failure_in_the_recipes_order_is_raised(samples, policy, order, named):
    """Wherever each of them ran: `a` in the thread, `b` beside the policy, `o` is well."""
    known = {
        "a": alone("a", [math.nan, 1.0]),
        "b": criterion("b", 1.0, [1.0, math.nan]),
        "o": alone("o", [1.0, 1.0]),
    }
    rubric = Rubric("mm2t", [known[name] for name in order])
    raised = []
    for score in (lambda: rubric(samples, policy), lambda: rubric.finish(rubric.begin(samples), policy)):
        with pytest.raises(CorlError, match=f"'{named}' gave nan") as caught:
            score()
        raised.append((caught.value.message, caught.value.hint))
    assert raised[0] == raised[1]


@pytest.mark.parametrize(
    ("error", "seen"), [(ValueError("no"), CorlError), (torch.OutOfMemoryError("full"), torch.OutOfMemoryError)]
)
def test_what_a_thread_raises_is_raised_where_it_is_finished(samples, policy, error, seen):
    class Raises(Alone):
        def score(self, rollout, policy):
            raise error

    failing = Criterion(name="x", weight=1.0, on_error="stop", reward=Raises(Scores(values=torch.ones(2))))
    rubric = Rubric("mm2t", [failing])
    with rubric.begin(samples) as pending, pytest.raises(seen) as caught:
        rubric.finish(pending, policy)
    first = caught.value.__cause__ or caught.value
    assert first is error
    assert "in score" in "".join(traceback.format_tb(first.__traceback__)), "with the place it was raised at"


def test_leaving_early_ends_the_thread(samples):
    begun = threading.Event()

    class Endless(Alone):
        def score(self, rollout, policy):
            begun.set()
            while True:
                torch.ones(100, 100) @ torch.ones(100, 100)

    reward = Endless(Scores(values=torch.ones(2)))
    rubric = Rubric("mm2t", [Criterion(name="x", weight=1.0, on_error="stop", reward=reward)])
    with rubric.begin(samples):
        assert begun.wait(60)
    assert "pending" not in [thread.name for thread in threading.enumerate()]


ABANDONED = """
import sys, threading, torch
from corl_cli.rewards.pending import Pending
begun = threading.Event()

def work(size):
    begun.set()
    while True:
        torch.tanh(torch.ones(size, size) @ torch.ones(size, size))

with Pending(work, 300):
    begun.wait(60)
    sys.exit(7)
"""


def test_an_exit_meanwhile_keeps_its_code():
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (7, "")
