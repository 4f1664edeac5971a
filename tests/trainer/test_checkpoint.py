import json

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.models.janus import JanusPolicy
from corl_cli.trainer import checkpoint
from corl_cli.trainer.checkpoint import State


def _optimizer(policy: JanusPolicy) -> torch.optim.AdamW:
    return torch.optim.AdamW(policy.trainable(), lr=1e-4)


def test_only_the_newest_are_kept_and_half_written_ones_do_not_count(policy: JanusPolicy, tmp_path) -> None:
    for step in (2, 4, 6):
        checkpoint.save(tmp_path, policy, _optimizer(policy), State(step=step), keep=2)
    torn = tmp_path / ".step-000008.partial"
    torn.mkdir()
    (tmp_path / "step-000010").mkdir()  # no state file
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-000004", "step-000006"]
    assert json.loads((tmp_path / "step-000006" / "state.json").read_text()) == {"step": 6, "seconds": 0.0}


def test_the_optimizer_comes_back(policy: JanusPolicy, tmp_path) -> None:
    optimizer = _optimizer(policy)
    sum(parameter.sum() for parameter in policy.trainable()).backward()
    optimizer.step()
    optimizer.zero_grad()
    path = checkpoint.save(tmp_path, policy, optimizer, State(step=1, seconds=2.5), keep=1)
    policy.load_state_dict(policy.start)
    again = _optimizer(policy)
    assert checkpoint.load_state(path, again) == State(step=1, seconds=2.5)
    first = policy.trainable()[0]
    assert torch.equal(again.state[first]["exp_avg"], optimizer.state[first]["exp_avg"])


def test_a_damaged_state_is_one_clear_error(policy: JanusPolicy, tmp_path) -> None:
    path = checkpoint.save(tmp_path, policy, _optimizer(policy), State(step=1), keep=1)
    (path / "optimizer.pt").write_bytes(b"not a state")
    with pytest.raises(CorlError, match="is damaged") as caught:
        checkpoint.load_state(path, _optimizer(policy))
    assert "rm -r" in str(caught.value.hint)


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(policy: JanusPolicy, tmp_path, monkeypatch) -> None:
    kept = checkpoint.save(tmp_path, policy, _optimizer(policy), State(step=1), keep=2)

    def full(self: object, path: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JanusPolicy, "save", full)
    with pytest.raises(CorlError, match="No space left on the disk"):
        checkpoint.save(tmp_path, policy, _optimizer(policy), State(step=2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
