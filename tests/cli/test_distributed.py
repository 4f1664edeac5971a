"""Several processes as a user starts them: sharded, resumed, failing, and under a configuration of accelerate's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import metrics

SETTINGS = {
    "rewards.t2i": "[{name: 'mine:Fails', weight: 1.0}]",
    "train.batch_size": 2,
    "train.max_steps": 3,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 4,
    "eval.probes.items": 3,
    "tracking.samples_every": 99,
    "tracking.rollouts_every": 99,
    "checkpoint.every": 2,
    "distributed.strategy": "fsdp",
}
REWARD = """
import os
import torch
from corl_cli.rewards.base import Reward, Scores


class Fails(Reward):
    task = "t2i"
    calls = 0

    def score(self, rollout, policy):
        self.calls += 1
        if self.calls > 2 and os.environ.get("FAILING") == os.environ.get("RANK"):
            raise RuntimeError("the checker's server is down")
        return Scores(values=(rollout.completion_ids < 64).float().mean(1).cpu())
"""


def corl(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def unified(out: str, *words: str) -> list[str]:
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return ["train", "unified", "--out", out, *sets, *words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "mine.py").write_text(REWARD)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A sharded run of two processes, as many as a configuration of accelerate's says."""
    config = folder / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_machines: 1\nnum_processes: 2\n"
        "machine_rank: 0\nmain_process_port: 0\nmixed_precision: bf16\nuse_cpu: false\n"
        "fsdp_config: {fsdp_version: 2, fsdp_sync_module_states: true}\n"
    )
    launch = ("accelerate.commands.launch", "--config_file", config, "-m", "corl_cli")
    done = corl(*launch, *unified("whole"), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "sharded over 2 processes" in done.stderr
    assert done.stdout.count("held out") == 1, "one process prints"
    return folder / "whole"


def test_probes_of_an_odd_number_of_items_count_each_once(whole: Path) -> None:
    probes = [line["probe"] for line in metrics(whole) if "probe" in line and not line["probe"]["answer_type"]]
    assert probes
    assert {probe["items"] for probe in probes} == {3}


def test_one_process_that_fails_ends_all_with_its_words_and_the_run_resumes_exactly(folder: Path, whole: Path) -> None:
    failed = corl("corl_cli", *unified("failed", "--num-processes", "2"), cwd=folder, FAILING="1")
    assert failed.returncode == 1
    assert "error: process 1: " in failed.stderr, "what the other one says"
    assert failed.stderr.count("the checker's server is down") >= 2
    assert not (folder / "failed" / "checkpoints" / "step-000003").exists()
    resumed = corl("corl_cli", *unified("failed", "--num-processes", "2"), "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert metrics(folder / "failed") == metrics(whole)
    provenance = json.loads((folder / "failed" / "provenance.json").read_text())
    assert provenance["processes"] == 2
    assert "--num-processes" not in provenance["command"]


def test_the_slurm_example_starts_a_launcher_on_a_node(tmp_path: Path) -> None:
    """With stand-ins that do what Slurm does on one node: name it, and run the step there."""
    script = Path(__file__).parents[2] / "recipes" / "slurm" / "train.sbatch"
    for name, line in {"scontrol": "echo localhost", "srun": 'shift; SLURM_NODEID=0 exec "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "mine.py").write_text(REWARD)
    slurm = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_JOB_ID": str(os.getpid())}
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script, *unified("run", "--set", "train.max_steps=1", "--set", "eval.probes=null")[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | slurm | {"PER_NODE": "2", "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["processes"] == 2
    assert (tmp_path / "run" / "checkpoints" / "step-000001").exists()
