"""The audit of runs that cheat in known ways, and of one that does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from corl_cli.core.errors import CorlError
from corl_cli.pipelines.alarms import CHECKS
from corl_cli.pipelines.audit import audit, write
from corl_cli.pipelines.recordings import Recordings

MIXED = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def look(run):
    audited = audit(Recordings(run.path))
    write(audited, run.path / "audit.html")
    return audited.found, (run.path / "audit.html").read_text()


def names(found):
    return [alarm.name for alarm in found.alarms]


def drawings(rig, seed: int, dark: float = 1.0):
    """Noisy copies of the real images, four each: like them on average, and all different."""
    generator = np.random.default_rng(seed)
    made = []
    for triplet in rig.triplets:
        for _ in range(4):
            pixels = np.asarray(triplet.image.convert("RGB"), np.float64) + generator.normal(0, 12, 3)
            noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            made.append(ImageEnhance.Brightness(noisy).enhance(dark))
    return made


def answers(rig, seed: int, text: str = "<think> so {} </think> <answer> {} </answer>"):
    return [text.format(seed * 8 + row, "ABCD"[row % 4]) for row in range(8)]


def healthy(rig, step: int):
    rig.step(
        step,
        {
            "t2i": {
                "outputs": drawings(rig, step),
                "scores": {"checker": [0.1 * step + 0.1 * row for row in range(8)]},
            },
            "mm2t": {"outputs": answers(rig, step), "scores": {"accuracy": MIXED}},
        },
    )


def test_a_healthy_run_is_silent(rig):
    rig = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])
    for step in (1, 2, 3, 4):
        healthy(rig, step)
    for step in range(1, 13):
        rising = {f"reward/{task}/total": 0.5 + 0.02 * step for task in ("t2i", "mm2t")}
        shares = {f"share/{reward}": 1.0 for reward in ("t2i/checker", "mm2t/accuracy")}
        equal = {f"zero_variance/{name}": 0.1 for name in ("t2i", "t2i/checker", "mm2t", "mm2t/accuracy")}
        masked = {"masked/t2i": 0.0, "masked/mm2t": 0.0, "time/reward/t2i/checker": step / 10}
        rig.run.append_metrics({"step": step, "lr": 1e-4, **rising, **shares, **equal, **masked})
        if step in (1, 12):
            for task in ("t2i", "mm2t"):
                rig.run.append_metrics({"step": step, "probe": probe(task, 0.5 + step / 50)})
    found, page = look(rig.run)
    assert names(found) == []
    assert found.unchecked == [
        "identical captions in a group (t2i): the run has no `cycle`",
        "near-constant matching (t2i): the run has no `matching`",
    ]
    assert sum(map(len, found.checked.values())) == sum(map(len, CHECKS.values())) - 2
    assert all(name in page for checks in found.checked.values() for name in checks)
    assert found.basis == "Early are steps 1, 2, late are steps 3, 4."
    assert found.basis in page
    assert "No alarm" in page
    assert "<svg" in page
    checker = next(reward for reward in found.rewards if reward.reward == "checker")
    assert checker.seconds == pytest.approx(0.65)
    assert checker.share == pytest.approx(1.0)
    assert checker.first == pytest.approx(0.45)
    assert checker.last == pytest.approx(0.75)


def test_statistics_by_hand(rig):
    rig = rig(mm2t=[{"name": "accuracy"}, {"name": "format", "weight": 0.5}])
    scores = {"accuracy": [1, 0, 0, 0, 1, 1, 1, 1], "format": [1, 0, 0, math.nan, 1, 1, 1, 1]}
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": scores}})
    found, _ = look(rig.run)
    (task,) = found.tasks
    assert (task.groups, task.rows, task.zero_variance, task.masked) == (2, 8, 0.5, 0.125)
    accuracy, formatted, total = found.rewards
    assert accuracy.zero_variance == 0.5
    assert accuracy.ties == pytest.approx((3 + 6) / 12)
    assert formatted.ties == pytest.approx((1 + 6) / 9)
    assert (accuracy.share, formatted.share) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert total.share is None
    (pair,) = found.correlations
    assert (pair.one, pair.other) == ("accuracy", "format")
    assert pair.value == pytest.approx(1.0)
    assert any("one step" in reason for reason in found.unchecked)


def test_a_reward_for_darkness_is_found(rig):
    rig = rig(t2i=[{"name": "mine:Dark"}])
    for step, dark in enumerate((1.0, 0.8, 0.4, 0.2), start=1):
        scores = {"mine:Dark": [1 - dark + 0.01 * row for row in range(8)]}
        rig.step(step, {"t2i": {"outputs": drawings(rig, step, dark), "scores": scores}})
    found, page = look(rig.run)
    assert names(found) == ["brightness and contrast drift"]  # one cause, one alarm
    (alarm,) = found.alarms
    assert "brightness from " in alarm.seen
    assert "contrast from " in alarm.seen
    assert alarm.severity == "alarm"
    assert "mine:Dark rose" in alarm.seen
    assert alarm.samples
    assert {sample.step for sample in alarm.samples} <= {3, 4}
    assert page.count("data:image/png") >= len(alarm.samples)


def test_drawings_that_come_closer_to_the_real_images_are_no_drift(rig):
    rig = rig(t2i=[{"name": "checker"}])
    for step, dark in enumerate((0.2, 0.4, 0.8, 1.0), start=1):
        scores = {"checker": [dark + 0.01 * row for row in range(8)]}
        rig.step(step, {"t2i": {"outputs": drawings(rig, step, dark), "scores": scores}})
    assert names(look(rig.run)[0]) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("<think> {} </think> <answer> {} </answer> <answer> B </answer>", "several answer blocks"),
        ("<think> {} is {} </think> <answer> A B C D </answer>", "all options listed"),
        ("<think> {} is {} </think> <answer> (a) or (b), (c), (d) </answer>", "all options listed"),
    ],
)
def test_answers_that_hedge_are_found(rig, triplets, text, name):
    rig = rig(mm2t=[{"name": "accuracy"}])
    rig.triplets = [triplet for triplet in triplets if triplet.answer_type == "mc"][:2]
    for step in (1, 2):
        rig.step(step, {"mm2t": {"outputs": answers(rig, step, text), "scores": {"accuracy": MIXED}}})
    found, page = look(rig.run)
    assert names(found) == [name]
    assert found.alarms[0].samples[0].output in answers(rig, 2, text)
    assert "&lt;answer&gt;" in page


def test_captions_that_say_nothing_are_found_and_right_ones_are_not(rig):
    rig = rig(t2i=[{"name": "cycle"}])
    scores = {"cycle": [row / 8 for row in range(8)], "cycle.scene_graph": [1.0] * 8}
    right = [triplet.prompt for triplet in rig.triplets for _ in range(4)]
    rig.step(1, {"t2i": {"outputs": drawings(rig, 1), "scores": scores, "texts": {"cycle.caption": right}}})
    assert names(look(rig.run)[0]) == []
    stuck = ["a sign reading 'stop': red"] * 8
    scores = scores | {"cycle.scene_graph": [0.0] * 8}
    rig.step(1, {"t2i": {"outputs": drawings(rig, 1), "scores": scores, "texts": {"cycle.caption": stuck}}})
    found, _ = look(rig.run)
    assert names(found) == ["identical captions in a group"]
    assert {sample.note for sample in found.alarms[0].samples} == {stuck[0]}


def test_a_recording_without_captions_is_not_checked_for_them(rig):
    rig = rig(t2i=[{"name": "cycle"}])
    notes = {"cycle": ["'a picture': matched nothing"] * 8}
    rig.step(1, {"t2i": {"outputs": drawings(rig, 1), "scores": {"cycle": [0.0] * 8}, "notes": notes}})
    found, _ = look(rig.run)
    assert "identical captions in a group (t2i): no captions are recorded" in found.unchecked
    assert "identical captions in a group" not in found.checked["t2i"]


TWO = "Which is it?\nA. 3.5\nB. 4.5"
THREE = "Which is it?\nA. cat\nB. dog\nC. bird"


@pytest.mark.parametrize(
    ("question", "answer", "odd"),
    [
        (TWO, "(a) or (b)", True),
        (TWO, "3.5 or 4.5", True),
        (TWO, "A\nB", True),
        (TWO, "B, because A is wrong", False),
        (TWO, "B, because A is smaller", False),
        (TWO, "4.5, not 3.5", False),
        (TWO, "A", False),
        (THREE, "a cat, a dog and a bird", True),
        (THREE, "a cat or a dog", False),
        (THREE, "A, B and C", True),
        ("What is it?", "A B C D", False),
    ],
)
def test_answers_that_assert_all_options(rig, question, answer, odd):
    rig = rig(mm2t=[{"name": "accuracy"}])
    rig.triplets = [replace(triplet, question=question, answer="A", answer_type="mc") for triplet in rig.triplets]
    outputs = [f"<think> A B C {row} 3.5 4.5 </think> <answer> {answer} </answer>" for row in range(8)]
    rig.step(1, {"mm2t": {"outputs": outputs, "scores": {"accuracy": MIXED}}})
    assert names(look(rig.run)[0]) == (["all options listed"] if odd else [])


def test_identical_outputs_length_and_the_token_limit(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": {"accuracy": MIXED}, "lengths": [8, 9] * 4}})
    same = {"outputs": ["<answer> A </answer>"] * 8, "scores": {"accuracy": MIXED}, "lengths": [20] * 8}
    rig.step(2, {"mm2t": same})
    found, _ = look(rig.run)
    assert set(names(found)) == {
        "identical outputs in a group",
        "length drift",
        "many answers at the token limit",
    }
    assert "from 8 to 20" in next(alarm for alarm in found.alarms if alarm.name == "length drift").seen


def test_matching_that_hardly_differs(rig):
    rig = rig(t2i=[{"name": "matching"}])
    scores = {"matching": [0.2 + 1e-4 * row for row in range(8)]}
    rig.step(1, {"t2i": {"outputs": drawings(rig, 1), "scores": scores}})
    assert names(look(rig.run)[0]) == ["near-constant matching"]


def probe(task: str, mean: float | None, stderr: float = 0.02):
    return {"task": task, "score": "accuracy", "answer_type": "", "temperature": 0.3, "mean": mean, "stderr": stderr}


@pytest.mark.parametrize(("last", "expected"), [(0.3, True), (0.55, False)])
def test_reward_up_while_the_held_out_score_falls(rig, last, expected):
    rig = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])
    healthy(rig, 1)
    for step in range(1, 10):
        rig.run.append_metrics({"step": step, "lr": 1e-4, "reward/mm2t/total": 0.1 * step + 0.01 * (step % 2)})
    for step, mean in ((0, 0.5), (3, None), (5, 0.6), (9, last)):  # null: no item had a score
        rig.run.append_metrics({"step": step, "probe": probe("mm2t", mean)})
    found, _ = look(rig.run)
    assert names(found) == (["reward up, held-out score down"] if expected else [])
    if expected:
        assert "accuracy (T = 0.3) by 0.300 ± 0.028, from 0.600 at step " in found.alarms[0].seen


def test_shares_masked_rows_and_equal_groups(rig):
    rig = rig(t2i=[{"name": "cycle"}, {"name": "matching"}, {"name": "checker"}])
    values = [row / 8 for row in range(8)]
    scores = {"cycle": [math.nan, *values[1:]], "matching": values, "checker": values}
    notes = {"cycle": ["the prompt names nothing", *[""] * 7]}
    rig.step(1, {"t2i": {"outputs": drawings(rig, 1), "scores": scores, "notes": notes}})
    for step in range(1, 8):
        shares = {"share/t2i/cycle": 1.05, "share/t2i/matching": -0.06, "share/t2i/checker": 0.001}
        equal = {f"zero_variance/t2i/{name}": 0.0 for name in scores} | {"zero_variance/t2i": 0.9}
        rig.run.append_metrics({"step": step, "lr": 1e-4, "masked/t2i": 0.125, **shares, **equal})
    found, _ = look(rig.run)
    assert set(names(found)) == {
        "a reward with a negative share",
        "a reward with a vanishing share",
        "many rows without a reward",
        "most groups teach nothing",
    }
    masked = next(alarm for alarm in found.alarms if alarm.name == "many rows without a reward")
    assert "12.5%" in masked.seen
    assert [sample.row for sample in masked.samples] == [0]
    assert "the prompt names nothing" in masked.samples[0].note


def test_parts_that_only_some_steps_have(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    for step, part in ((1, "accuracy.early"), (2, "accuracy.late")):
        rig.step(step, {"mm2t": {"outputs": answers(rig, step), "scores": {"accuracy": MIXED, part: MIXED}}})
    found, page = look(rig.run)
    rewards = {reward.reward: reward for reward in found.rewards}
    assert rewards["accuracy.early"].first == pytest.approx(0.375)
    assert math.isnan(rewards["accuracy.early"].last)
    assert math.isnan(rewards["accuracy.late"].first)
    assert "nan" not in page.casefold()


def test_groups_without_two_scores_have_no_variance_to_miss(rig):
    rig = rig(mm2t=[{"name": "accuracy", "on_error": "mask"}])
    scores = {"accuracy": [1, 0, 0, 0, math.nan, math.nan, math.nan, 1]}
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": scores}})
    found, page = look(rig.run)
    assert found.tasks[0].zero_variance == 0
    assert {reward.zero_variance for reward in found.rewards} == {0.0}
    assert found.remarks == [
        "A total is over the rows that every reward scored, a reward over all rows that it scored itself"
    ]
    assert found.remarks[0] in page


def test_a_total_that_is_zero_by_construction_is_said_and_not_drawn(rig):
    rig = rig(mm2t=[{"name": "accuracy", "normalise": True}, {"name": "format", "normalise": True}])
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": {"accuracy": MIXED, "format": MIXED}}})
    for step in (1, 2):
        rewards = {"accuracy": 0.5, "format": 1.0, "total": 0.0}
        rig.run.append_metrics({"step": step} | {f"reward/mm2t/{name}": mean for name, mean in rewards.items()})
    found, page = look(rig.run)
    assert any("of their total is 0 by construction" in remark for remark in found.remarks)
    assert ">answering: format</text>" in page
    assert ">answering: total</text>" not in page


def test_a_negative_share_is_explained(rig):
    rig = rig(mm2t=[{"name": "accuracy"}, {"name": "format", "weight": 0.1}])
    scores = {"accuracy": MIXED, "format": [1 - value for value in MIXED]}
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": scores}})
    found, _ = look(rig.run)
    assert [reward.share for reward in found.rewards[:2]] == pytest.approx([1 / 0.9, -0.1 / 0.9], abs=1e-3)
    assert any("negative share" in remark for remark in found.remarks)


def test_one_damaged_step_is_left_out_and_named(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    for step in (1, 2, 3):
        rig.step(step, {"mm2t": {"outputs": answers(rig, step), "scores": {"accuracy": MIXED}}})
    (rig.run.rollouts / "step-000002" / "real-0000.png").unlink()
    found, page = look(rig.run)
    assert (found.steps, found.early, found.late) == ([1, 3], [1], [3])
    assert "one step on each side" in found.basis
    assert found.unchecked[0].startswith("step 2 cannot be read: ")
    assert found.unchecked[0].endswith("real-0000.png is missing")
    assert found.unchecked[0] in page
    for step in (1, 3):
        (rig.run.rollouts / f"step-{step:06d}" / "rows.jsonl").write_text("{")
    with pytest.raises(CorlError, match=r"No recorded step of .* can be read"):
        look(rig.run)


def test_runs_that_cannot_be_audited_say_why(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    with pytest.raises(CorlError, match="has no recorded rollouts"):
        look(rig.run)
    rig.step(1, {"mm2t": {"outputs": answers(rig, 1), "scores": {"accuracy": MIXED}}})
    rows: Path = rig.run.rollouts / "step-000001" / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"terms"', '"words"'))
    with pytest.raises(CorlError, match="recorded by an earlier corl"):
        look(rig.run)
