"""What is saved, kept and found again, and what a disk that fails leaves behind."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.models.janus import JanusPolicy
from corl_cli.trainer import checkpoint
from corl_cli.trainer.checkpoint import State
from corl_cli.trainer.distributed import Replicated


def _optimizer(policy: JanusPolicy) -> torch.optim.AdamW:
    return torch.optim.AdamW(policy.trainable(), lr=1e-4)


def _save(folder: Path, policy: JanusPolicy, state: State, keep: int = 2) -> Path:
    weights, optimizer = Replicated(policy).save(_optimizer(policy))
    return checkpoint.save(folder, policy, weights, optimizer, state, keep)


@contextmanager
def _files_no_larger_than(size: int) -> Iterator[None]:
    """Stands for a disk that fills up in the middle of a write (Python ignores the signal that comes with it)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_only_the_newest_are_kept_and_half_written_ones_do_not_count(policy: JanusPolicy, tmp_path) -> None:
    for step in (2, 4, 6):
        _save(tmp_path, policy, State(step=step))
    (tmp_path / "step-000010").mkdir()  # no state file
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step-000004", "step-000006"]
    state = {"step": 6, "seconds": 0.0, "skipped": 0, "scores": {}, "gain": None}
    assert json.loads((tmp_path / "step-000006" / "state.json").read_text()) == state


def test_the_next_save_removes_what_a_kill_left(policy: JanusPolicy, tmp_path) -> None:
    for torn in (".step-000003.partial", ".step-000001.dropped"):
        (tmp_path / torn).mkdir()
        (tmp_path / torn / "model.safetensors").write_bytes(b"half")
    _save(tmp_path, policy, State(step=4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def test_the_best_is_kept_beside_the_newest_and_ties_go_to_the_later(policy: JanusPolicy, tmp_path) -> None:
    kept = {}
    for step, gain in [(1, 0.5), (2, 2.0), (3, None), (4, 2.0), (5, 1.0), (6, -1.0), (7, None)]:
        _save(tmp_path, policy, State(step=step, gain=gain), keep=1)
        kept[step] = [int(path.name[-1]) for path in checkpoint.complete(tmp_path)]
    assert kept == {1: [1], 2: [2], 3: [2, 3], 4: [4], 5: [4, 5], 6: [4, 6], 7: [4, 7]}
    assert checkpoint.best(tmp_path) == tmp_path / "step-000004"


def test_without_a_gain_none_is_best(policy: JanusPolicy, tmp_path) -> None:
    _save(tmp_path, policy, State(step=1))
    assert checkpoint.best(tmp_path) is None


def test_everything_comes_back(policy: JanusPolicy, tmp_path) -> None:
    optimizer, strategy = _optimizer(policy), Replicated(policy)
    sum(parameter.sum() for parameter in policy.trainable()).backward()
    optimizer.step()
    optimizer.zero_grad()
    weights, progress = strategy.save(optimizer)
    state = State(step=1, seconds=2.5, skipped=3, scores={"t2i/checker": 0.5}, gain=1.25)
    path = checkpoint.save(tmp_path, policy, weights, progress, state, keep=1)
    policy.load_state_dict(policy.start)
    found, progress = checkpoint.load(path)
    assert found == state
    again = _optimizer(policy)
    strategy.restore(again, progress)
    for parameter in policy.trainable():
        assert torch.equal(again.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
        assert again.state[parameter]["step"] == 1


@pytest.mark.parametrize("file", ["optimizer.pt", "state.json"])
def test_a_damaged_state_is_one_clear_error(policy: JanusPolicy, tmp_path, file: str) -> None:
    path = _save(tmp_path, policy, State(step=1))
    (path / file).write_bytes(b"not a state")
    with pytest.raises(CorlError, match="is damaged") as caught:
        checkpoint.load(path)
    assert "rm -r" in str(caught.value.hint)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_write_that_fails_in_the_middle_leaves_the_checkpoint_before(policy: JanusPolicy, tmp_path, file) -> None:
    kept = _save(tmp_path, policy, State(step=1))
    before = {path: path.read_bytes() for path in kept.rglob("*")}
    weights, _ = Replicated(policy).save(_optimizer(policy))
    size = (kept / "model.safetensors").stat().st_size
    large = {"state": torch.zeros(size)}  # of four bytes each
    with (
        _files_no_larger_than(size // 2 if file == "model.safetensors" else size * 2),
        pytest.raises(CorlError, match="File too large") as caught,
    ):
        checkpoint.save(tmp_path, policy, weights, large, State(step=2), keep=2)
    assert caught.value.exit_code == 1
    assert "--resume" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == [kept]
    assert {path: path.read_bytes() for path in kept.rglob("*")} == before


def test_a_full_disk_is_named(policy: JanusPolicy, tmp_path, monkeypatch) -> None:
    kept = _save(tmp_path, policy, State(step=1))

    def full(self: object, path: object, weights: object = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JanusPolicy, "save", full)
    with pytest.raises(CorlError, match="No space left on device"):
        _save(tmp_path, policy, State(step=2))
    assert list(tmp_path.iterdir()) == [kept]


def test_a_folder_that_cannot_be_written(policy: JanusPolicy, tmp_path) -> None:
    (tmp_path / "file").write_text("in place of a folder")
    with pytest.raises(CorlError, match="Not a directory"):
        _save(tmp_path / "file", policy, State(step=1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_keeps_its_checkpoint(policy: JanusPolicy, tmp_path) -> None:
    kept = _save(tmp_path, policy, State(step=1))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CorlError, match="Permission denied"):
            _save(tmp_path, policy, State(step=2))
    finally:
        tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == [kept]
