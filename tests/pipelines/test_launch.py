"""How many processes there are, who says so, and how they end together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import load
from corl_cli.pipelines import launch


@pytest.mark.parametrize(
    "words",
    [
        ["train", "unified", "--num-processes", "8", "--out", "runs/a"],
        ["train", "--num-processes=8", "unified", "--out", "runs/a"],
        ["train", "unified", "--out", "runs/a"],
    ],
)
def test_the_processes_get_the_same_words(words: list[str]) -> None:
    assert launch.without(words) == ["train", "unified", "--out", "runs/a"]


def test_one_process_needs_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    launch.relaunch(None, ["train"])
    launch.relaunch(1, ["train"])


def test_a_launcher_that_is_there_already_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.relaunch(2, ["train"])
    with pytest.raises(UsageError, match="a launcher has started 2 already"):
        launch.relaunch(4, ["train"])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "asks for FSDP, the recipe for ddp"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for Deepspeed"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "started one"),
    ],
)
def test_what_accelerate_is_asked_for_and_corl_would_not_do(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        launch.check(load("world/unified"))


def test_sharding_that_recipe_and_accelerate_agree_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    launch.check(load("world/unified", ["distributed.strategy=fsdp"]))


SCRIPT = """
import sys
import torch
import torch.distributed as dist
from corl_cli.core.errors import CorlError
from corl_cli.pipelines import launch

dist.init_process_group("gloo")
with launch.watching():
    if dist.get_rank() == 1:
        raise CorlError("no such checker", "Start it.")
    dist.all_reduce(torch.ones(3))  # which never comes to an end
"""


def test_a_process_in_a_collective_operation_ends_with_the_one_that_failed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "error: process 1: no such checker\nhint: Start it." in done.stderr
