"""Runs that are killed while they save, find the disk full, and keep their best checkpoint."""

from __future__ import annotations

import resource
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from commands import command, corl, overrides, started
from recorded import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from corl_cli.pipelines.build import locate
from corl_cli.trainer import checkpoint

SETTINGS = {
    "train.max_steps": 4,
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 8,
    "eval.probes.items": 2,
    "eval.probes.every": 1,
    "tracking.trackers": "[tensorboard]",
    "tracking.samples_every": 2,
    "checkpoint.every": 4,
    "checkpoint.keep": 1,
    "checkpoint.best": "pareto",  # every step is read, and saved for that
}


def words(out: str, *more: str) -> list[str]:
    sets = overrides(SETTINGS)
    return ["train", "unified", "--out", out, *sets, *more]


def kill_while_saving(folder: Path, out: str, step: int, *more: str) -> None:
    """Kill -9 as soon as the checkpoint of a step has begun to be written."""
    partial = folder / out / "checkpoints" / f".step-{step:06d}.partial"
    process = started(*words(out, *more), cwd=folder, stderr=subprocess.DEVNULL)
    while not partial.exists() and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()


def files(run: Path) -> dict[str, bytes]:
    """All files of all checkpoints, half ones too."""
    folder = run / "checkpoints"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Runs:
    """A run that nothing stopped; and one killed while it saved its first and its third checkpoint, which then found
    the disk full, and at last came to its end.
    """

    whole: Path
    killed: Path
    before: dict[str, bytes]  # the checkpoints before the full disk, and after it
    after: dict[str, bytes]
    full: subprocess.CompletedProcess[str]


def full_disk() -> None:
    """Files may grow to 1 MB: metrics and pictures can be written, weights cannot."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    corl(*words("whole"), cwd=folder, code=0)
    kill_while_saving(folder, "killed", 1)
    kill_while_saving(folder, "killed", 3, "--resume")
    before = files(folder / "killed")
    resumed = words("killed", "--resume")
    full = subprocess.run(command(*resumed), cwd=folder, capture_output=True, text=True, preexec_fn=full_disk)
    after = files(folder / "killed")
    corl(*resumed, cwd=folder, code=0)
    return Runs(folder / "whole", folder / "killed", before, after, full)


def test_a_full_disk_ends_clearly_and_costs_no_checkpoint(runs: Runs) -> None:
    assert runs.full.returncode == 1
    assert "No checkpoint can be written to killed/checkpoints: " in runs.full.stderr
    assert "--resume" in runs.full.stderr
    assert "Traceback" not in runs.full.stderr
    whole = {name: content for name, content in runs.before.items() if not name.startswith(".")}
    assert any(name.endswith("state.json") for name in whole)
    assert runs.after == whole, "what the kill had left is gone, and nothing else"


def test_killed_in_the_middle_of_a_save_a_run_goes_on_exactly(runs: Runs) -> None:
    assert metrics(runs.killed) == metrics(runs.whole)
    assert files(runs.killed).keys() == files(runs.whole).keys()
    for saved in checkpoint.complete(runs.whole / "checkpoints"):
        again = runs.killed / "checkpoints" / saved.name
        assert (again / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
        (state, optimizer), (state_again, optimizer_again) = checkpoint.load(saved), checkpoint.load(again)
        assert state_again == replace(state, seconds=state_again.seconds)
        torch.testing.assert_close(optimizer_again, optimizer, rtol=0, atol=0)


def test_the_best_is_what_gained_most_and_can_be_gone_on_from(runs: Runs) -> None:
    run = runs.whole
    gains: dict[int, float] = {}
    start: dict[str, tuple[float, float]] = {}
    for line in metrics(run):
        probe = line.get("probe")
        if probe and probe["temperature"] == 1.0 and not probe["answer_type"]:
            if line["step"] == 0:
                start[probe["task"]] = (probe["mean"], probe["stderr"] or 1 / 2)  # 2 items alike
            mean, unit = start[probe["task"]]
            gains[line["step"]] = gains.get(line["step"], 0.0) + (probe["mean"] - mean) / unit
    best = max((gain, step) for step, gain in gains.items() if step)[1]
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert kept == {f"step-{best:06d}", "step-000004"}
    assert locate(f"{run}@best") == str(run / "checkpoints" / f"step-{best:06d}")
    assert locate(f"{run}/") == str(run / "checkpoints" / "step-000004")


def test_the_tracker_has_all_numbers_and_pictures_of_a_resumed_run(runs: Runs) -> None:
    events = EventAccumulator(str(runs.killed / "world-unified"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    lines = [line for line in metrics(runs.killed) if "lr" in line]
    tags = set(events.Tags()["scalars"])
    assert {name for line in lines for name in line} - {"step"} <= tags
    assert {"t2i/checker@1", "t2i/checker@0.3", "mm2t/accuracy@1", "mm2t/accuracy (mc)@0.3"} <= tags
    assert {event.step for event in events.Scalars("grad_norm")} == {1, 2, 3, 4}
    assert {event.step for event in events.Scalars("t2i/checker@1")} == {0, 1, 2, 3, 4}
    assert {event.step for event in events.Images("samples")} == {0, 2, 4}
    last = [event.value for event in events.Scalars("grad_norm") if event.step == 4][-1]
    assert last == pytest.approx(lines[-1]["grad_norm"], rel=1e-6)
