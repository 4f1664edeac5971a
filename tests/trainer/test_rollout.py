"""What a run records of its rollouts can be read back whole."""

from dataclasses import replace

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Experience, RewardResult, Sampling
from corl_cli.trainer.rollout import read, record, recorded_steps


@pytest.fixture
def batch(policy, triplets):
    """Two groups of two for each task, one row of the answers without a score."""
    pairs = [triplet for triplet in triplets[:2] for _ in range(2)]
    outputs = {"t2i": [t.image for t in pairs], "mm2t": ["a", "two\u2028lines\u0085and\nmore", "<answer>", ""]}
    found = {}
    for task in ("t2i", "mm2t"):
        cut = torch.tensor([False, task == "mm2t", False, False])
        rollout = policy.encode(task, pairs, outputs[task])
        rollout = replace(rollout, sampling=Sampling(group_size=2), truncated=cut)
        scores = torch.tensor([0.0, 1.0, 0.5, torch.nan if task == "mm2t" else 0.25])
        rewards = RewardResult(
            task=task,
            total=2 * scores,
            parts={"x": scores, "x.half": scores / 2},
            valid=scores.isfinite(),
            terms={"x": 2 * scores},
            notes={"x": ["n"] * 4},
            texts={"x.caption": ["c"] * 4},
        )
        found[task] = Experience(
            rollout=rollout,
            rewards=rewards,
            advantages=torch.tensor([-1.0, 1.0, 0.0, 0.0]),
            rows=scores.isfinite(),
            old_logps=None,
            ref_logps=None,
        )
    return found


def test_what_is_recorded_is_read_back(tmp_path, batch):
    record(tmp_path / "step-000007", batch)
    assert recorded_steps(tmp_path) == [7]
    found = read(tmp_path, 7, {task: Sampling(group_size=2) for task in batch})
    for task, experience in batch.items():
        samples, rewards = found[task].samples, found[task].rewards
        for ours, theirs in zip(samples.triplets, experience.rollout.triplets, strict=True):
            assert replace(ours, image=None) == replace(theirs, image=None, solution="")  # nothing to imitate
            assert ours.image.tobytes() == theirs.image.tobytes()
        assert samples.triplets[0].image is samples.triplets[1].image  # a group shares its real image
        assert samples.triplets[0].image is not samples.triplets[2].image
        assert torch.equal(rewards.valid, experience.rewards.valid)
        for name, values in experience.rewards.parts.items():
            assert torch.equal(rewards.parts[name].nan_to_num(-1), values.nan_to_num(-1))
        assert torch.equal(rewards.terms["x"].nan_to_num(-1), experience.rewards.terms["x"].nan_to_num(-1))
        assert rewards.notes == experience.rewards.notes
        assert rewards.texts == experience.rewards.texts
        assert torch.equal(found[task].advantages, experience.advantages)
        assert torch.equal(found[task].rows, experience.rows)
        assert torch.equal(found[task].truncated, experience.rollout.truncated)
        assert torch.equal(found[task].lengths, experience.rollout.completion_mask.sum(1).cpu())
    assert found["mm2t"].samples.outputs == batch["mm2t"].rollout.outputs
    drawn = zip(found["t2i"].samples.outputs, batch["t2i"].rollout.outputs, strict=True)
    assert all(ours.tobytes() == theirs.tobytes() for ours, theirs in drawn)


def test_a_step_that_is_not_there_and_one_that_is_damaged_are_named(tmp_path, batch):
    record(tmp_path / "step-000007", batch)
    samplings = {task: Sampling(group_size=2) for task in batch}
    with pytest.raises(CorlError, match="no rollouts of step 8") as caught:
        read(tmp_path, 8, samplings)
    assert "Recorded: 7" in caught.value.hint
    (tmp_path / "step-other").mkdir()
    assert recorded_steps(tmp_path) == [7]
    rows = tmp_path / "step-000007" / "rows.jsonl"
    whole = rows.read_text()
    for text, words in {
        '{"task": "t2i"}\n' * 2: "has no 'real'",
        "": "0 t2i rows",
        "\n".join(whole.split("\n")[:7]): "3 mm2t rows are no groups of 2",
        whole[:-9]: "damaged",
    }.items():
        rows.write_text(text)
        with pytest.raises(CorlError, match=words):
            read(tmp_path, 7, samplings)
    rows.write_text(whole)
    (tmp_path / "step-000007" / "t2i-0001.png").unlink()
    with pytest.raises(CorlError, match=r"t2i-0001.png is missing"):
        read(tmp_path, 7, samplings)
