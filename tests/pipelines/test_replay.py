"""Recorded rollouts under other weights and rewards, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.pipelines.recordings import Recordings, pooled, zero_variance
from corl_cli.pipelines.replay import Scorer, changed, replay

RIGHT = "<think> so </think> <answer> {} </answer>"


@pytest.fixture
def answered(rig):
    """Two groups whose scores are what `accuracy` and `format` say of the answers."""
    rig = rig(mm2t=[{"name": "accuracy"}, {"name": "format", "weight": 0.5}])
    outputs = [text for triplet in rig.triplets for text in (RIGHT.format(triplet.answer), triplet.answer, "?", "?")]
    scores = {"accuracy": [1, 1, 0, 0] * 2, "format": [1, 0, 0, 0] * 2}
    for step in (1, 3):
        rig.step(step, {"mm2t": {"outputs": outputs, "scores": scores}})
    return rig.run.path


def test_the_same_rewards_reproduce_the_recording(answered):
    found = replay(Recordings(answered), [], [])
    assert found.steps == [1, 3]
    assert [(r.scores, r.largest_difference) for r in found.rewards] == [("scored again", 0.0)] * 2
    (task,) = found.tasks
    assert (task.groups, task.compared, task.rank_correlation) == (4, 4, pytest.approx(1.0))
    assert task.best_changed == task.signs_flipped == 0
    assert all(group.before == pytest.approx(group.after) for group in found.groups)


def test_another_weight_keeps_the_scores_and_changes_the_order(answered):
    found = replay(Recordings(answered, step=3), ["rewards.mm2t.format.weight=-3"], [])
    assert found.steps == [3]
    accuracy, formatted = found.rewards
    assert (accuracy.scores, accuracy.largest_difference) == ("as recorded", None)
    assert (formatted.weight_before, formatted.weight_after) == (0.5, -3.0)
    # totals 1.5 1 0 0 become -2 1 0 0: of the 5 pairs untied in both, 3 reversed (0 with each other row), 2 kept
    group = found.groups[0]
    assert group.rank_correlation == pytest.approx((2 - 3) / 5)
    assert (group.best_before, group.best_after, group.best_changed) == (0, 1, True)
    # means 0.625 and -0.25: signs + + - - become - + + +
    assert group.signs_flipped == 3
    (task,) = found.tasks
    assert task.best_changed == 1.0
    assert task.signs_flipped == pytest.approx(3 / 4)


def test_shares_before_and_after_by_hand(answered):
    found = replay(Recordings(answered), ["rewards.mm2t.format.weight=0"], [])
    accuracy, formatted = found.rewards
    # centred: accuracy ±1/2, format 3/8 -1/8 -1/8 -1/8; cov(a, s) = 1 + 1/4, cov(f, s) = 1/4 + 3/16 (sums over a group)
    assert accuracy.share_before == pytest.approx(1.25 / 1.6875)
    assert formatted.share_before == pytest.approx(0.4375 / 1.6875)
    assert (accuracy.share_after, formatted.share_after) == (pytest.approx(1.0), pytest.approx(0.0))


def test_a_reward_takes_the_place_of_its_tasks_rewards(answered):
    found = replay(Recordings(answered), [], ["format"])
    assert [(r.reward, r.scores) for r in found.rewards] == [("accuracy", "left out"), ("format", "as recorded")]
    assert found.rewards[0].weight_after is None
    assert found.rewards[0].share_after is None
    again = replay(Recordings(answered), [], ["corl_cli.rewards.format:Format"])
    assert again.rewards[-1].scores == "scored again"
    assert again.rewards[-1].share_after == pytest.approx(1.0)
    for one, other in zip(again.groups, found.groups, strict=True):
        assert one.after == pytest.approx(
            other.after, abs=1e-3
        )  # the recipe weighs it by a half: only the epsilon sees it


def test_groups_that_stop_varying_are_counted_not_compared(answered):
    weights = ["rewards.mm2t.format.weight=0", "rewards.mm2t.accuracy.weight=0"]
    found = replay(Recordings(answered), weights, [])
    (task,) = found.tasks
    assert (task.zero_variance_before, task.zero_variance_after, task.compared) == (0.0, 1.0, 0)
    assert math.isnan(task.rank_correlation)
    assert math.isnan(task.best_changed)
    assert found.groups[0].best_after is None


def test_masked_rows_stay_out(rig):
    rig = rig(mm2t=[{"name": "accuracy", "on_error": "mask"}, {"name": "format"}])
    scores = {"accuracy": [math.nan, 1, 0, 0, 1, 1, 0, 0], "format": [1, 0, 1, 0] * 2}
    rig.step(1, {"mm2t": {"outputs": ["x"] * 8, "scores": scores}})
    found = replay(Recordings(rig.run.path), ["rewards.mm2t.format.weight=2"], [])
    (task,) = found.tasks
    assert task.masked_before == task.masked_after == 0.125
    assert next(group for group in found.groups if group.group == 0).after[0] == 0
    without = replay(Recordings(rig.run.path), [], ["format"])
    assert without.tasks[0].masked_after == 0


def test_tasks_that_were_trained_by_turns(rig):
    rig = rig(t2i=[{"name": "matching"}], mm2t=[{"name": "accuracy"}])
    images = [triplet.image for triplet in rig.triplets for _ in range(4)]
    rig.step(1, {"t2i": {"outputs": images, "scores": {"matching": [0.1, 0.2, 0.3, 0.4] * 2}}})
    rig.step(2, {"mm2t": {"outputs": ["x"] * 8, "scores": {"accuracy": [1, 0, 0, 0] * 2}}})
    found = replay(Recordings(rig.run.path), ["rewards.t2i.matching.weight=-1"], [])
    drawn, answered = found.tasks
    assert (drawn.task, drawn.rank_correlation) == ("t2i", pytest.approx(-1.0))
    assert (answered.task, answered.rank_correlation) == ("mm2t", pytest.approx(1.0))
    assert [group.step for group in found.groups] == [1, 1, 2, 2]


def test_answers_that_were_cut_off_stay_out_of_the_loss_but_in_the_baseline(rig):
    rig = rig(mm2t=[{"name": "accuracy"}, {"name": "format"}])
    scores = {"accuracy": [1, 0, 0, 0] * 2, "format": [0, 1, 0, 0] * 2}
    rig.step(1, {"mm2t": {"outputs": ["x"] * 8, "scores": scores, "lengths": [20, 9, 9, 9] * 2}})
    recordings = Recordings(rig.run.path)
    recipe = changed(recordings, ["rewards.mm2t.format.weight=0"], [])
    masking = recipe.model_copy(update={"algo": recipe.algo.model_copy(update={"mask_truncated": True})})
    old = recordings.read(1)
    plain, masked = (Scorer(recordings, each, again=False).score(1, old)["mm2t"] for each in (recipe, masking))
    assert masked.rows.tolist() == [False, True, True, True] * 2
    assert masked.advantages[0] == 0
    assert torch.equal(masked.advantages[1:4], plain.advantages[1:4])


@pytest.mark.parametrize(
    ("overrides", "rewards", "message"),
    [
        (["optim.lr=1"], [], "optim.lr changes what is sampled or learnt"),
        (["sampling.group_size=2"], [], "sampling.group_size changes"),
        ([], ["matching"], "matching scores t2i, which the run"),
        (["rewards.t2i.matching.weight=2"], [], "rewards.t2i.matching.weight is of t2i, which the run"),
        ([], ["acuracy"], "There is no reward 'acuracy'"),
        (["rewards.mm2t.formt.weight=2"], [], "has no item 'formt'"),
        (["rewards.mm2t.format.partial=2"], [], "rewards.mm2t.format.partial: unknown key"),
    ],
)
def test_what_cannot_be_replayed_says_why(answered, overrides, rewards, message):
    with pytest.raises(UsageError) as caught:
        replay(Recordings(answered), overrides, rewards)
    assert message in caught.value.message


def test_a_step_that_was_not_recorded(answered):
    with pytest.raises(UsageError) as caught:
        Recordings(answered, step=2)
    assert "1, 3" in caught.value.hint


def test_a_run_without_provenance_replays_what_needs_no_policy(answered):
    (answered / "provenance.json").unlink()
    found = replay(Recordings(answered), [], [])
    assert {reward.scores for reward in found.rewards} == {"scored again"}


def test_a_run_without_provenance_says_so_where_a_policy_is_needed(rig):
    rig = rig(t2i=[{"name": "matching"}])
    drawn = [triplet.image for triplet in rig.triplets for _ in range(4)]
    rig.step(1, {"t2i": {"outputs": drawn, "scores": {"matching": [row / 8 for row in range(8)]}}})
    rig.run.provenance_file.unlink()
    with pytest.raises(CorlError, match=r"provenance\.json is missing or damaged"):
        replay(Recordings(rig.run.path), [], [])


def test_everything_that_is_missing_is_said_before_anything_is_scored(rig):
    rig = rig(t2i=[{"name": "checker"}])
    drawn = [triplet.image for triplet in rig.triplets for _ in range(4)]
    rig.step(1, {"t2i": {"outputs": drawn, "scores": {"checker": [row / 8 for row in range(8)]}}})
    wanted = "{name: cycle, perceptual: lpips-vgg, backbone: no-vgg.pth, captioner: no-blip, text: scene_graph}"
    with pytest.raises(CorlError) as caught:
        replay(Recordings(rig.run.path), [], [wanted])
    assert "no-vgg.pth" in caught.value.message
    assert "no-blip" in caught.value.message


def test_a_recorded_reward_that_is_not_scored_is_not_imported(rig):
    rig = rig(mm2t=[{"name": "gone_pkg.gone:Gone"}, {"name": "format"}])
    scores = {"gone_pkg.gone:Gone": [1, 1, 0, 0] * 2, "format": [1, 0, 0, 0] * 2}
    rig.step(1, {"mm2t": {"outputs": ["x"] * 8, "scores": scores}})
    found = replay(Recordings(rig.run.path), ["rewards.mm2t.format.weight=3"], [])
    assert [reward.scores for reward in found.rewards] == ["as recorded"] * 2
    with pytest.raises(UsageError, match="cannot be imported"):
        replay(Recordings(rig.run.path), [], [])


def test_parts_that_only_some_steps_have(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    for step, more in ((1, {"accuracy.early": [1.0] * 8}), (2, {"accuracy.late": [2.0] * 8})):
        scores = {"accuracy": [1, 1, 0, 0] * 2, **more}
        rig.step(step, {"mm2t": {"outputs": ["x"] * 8, "scores": scores}})
    recordings = Recordings(rig.run.path)
    parts = pooled([recordings.read(step)["mm2t"] for step in recordings.steps]).rewards.parts
    assert parts["accuracy.early"][:8].tolist() == [1.0] * 8
    assert parts["accuracy.early"][8:].isnan().all()
    assert parts["accuracy.late"][:8].isnan().all()
    found = replay(recordings, ["rewards.mm2t.accuracy.weight=2"], [])
    assert found.rewards[0].scores == "as recorded"


def test_groups_without_two_scores_are_no_groups_of_zero_variance():
    values = torch.tensor([1.0, 1.0, 0.0, 0.5, math.nan, math.nan, 3.0, math.nan])
    assert zero_variance(values, values.isfinite(), 2) == 0.5
    assert math.isnan(zero_variance(values[4:], values[4:].isfinite(), 2))


def test_a_step_that_is_damaged_is_named_with_another_to_choose(answered):
    (answered / "rollouts" / "step-000003" / "real-0000.png").unlink()
    with pytest.raises(CorlError) as caught:
        replay(Recordings(answered), [], [])
    assert caught.value.message.startswith("Step 3 cannot be read: ")
    assert caught.value.message.endswith("real-0000.png is missing.")
    assert caught.value.hint == "Choose another with --step: 1."
