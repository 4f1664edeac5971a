"""Two processes, whole or sharded, do what one does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("processes", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def one(script: ModuleType) -> dict[str, Any]:
    """Two steps in this process."""
    found: dict[str, Any] = script.two_steps(script.Replicated(script.make_policy()))
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same in two processes, in both strategies."""
    out = tmp_path_factory.mktemp("two") / "found.pt"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", SCRIPT, out]
    done = subprocess.run([str(word) for word in launch], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = torch.load(out, weights_only=False)
    return found


def assert_same_step(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, gradient in expected["gradients"].items():
        assert torch.allclose(found["gradients"][name], gradient, atol=1e-5), name
    metrics, alone = (
        {k: v for k, v in each["metrics"].items() if k != "memory/peak_gib"} for each in (found, expected)
    )
    assert metrics == pytest.approx(alone, abs=1e-5, nan_ok=True)
    assert found["norm"] == pytest.approx(expected["norm"], abs=1e-5)
    assert found["clipped"] == pytest.approx(0.01, rel=1e-3)


def assert_same_save(found: Any, expected: Any) -> None:
    """The whole weights, and the whole state of the optimiser by name."""
    assert found[0].keys() == expected[0].keys()
    for name, weight in expected[0].items():
        assert torch.allclose(found[0][name], weight, atol=1e-5), name
    assert found[1].keys() == expected[1].keys()
    for name, state in expected[1].items():
        assert torch.allclose(found[1][name]["exp_avg"], state["exp_avg"], atol=1e-6), name


@pytest.mark.parametrize("strategy", ["replicated", "sharded"])
def test_two_processes_have_the_gradients_of_one(one: dict[str, Any], two: dict[str, Any], strategy: str) -> None:
    first = one["steps"][0]
    assert first["norm"] > 0.01, "there is something to learn"
    assert first["metrics"]["grad_norm/t2i"] > 0
    assert_same_step(two[strategy]["steps"][0], first)
    assert_same_save(two[strategy]["between"], one["between"])


@pytest.mark.parametrize("strategy", ["replicated", "sharded"])
def test_a_process_without_a_single_reward_neither_hangs_nor_biases(
    one: dict[str, Any], two: dict[str, Any], strategy: str
) -> None:
    second = one["steps"][1]
    assert second["metrics"]["masked/t2i"] == 0.5
    assert_same_step(two[strategy]["steps"][1], second)
    assert_same_save(two[strategy]["after"], one["after"])


def test_what_learns_is_in_shards_and_the_rest_is_there_once(two: dict[str, Any]) -> None:
    found = two["shards"]
    assert found["sharded"]
    assert found["held"] <= 0.6 * found["whole"]
    assert found["shared"], "frozen weights are one tensor for learner and actor"
    assert found["equal"], "the actor has the learner's weights"


def test_a_run_goes_on_under_another_strategy(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert_same_step(two["resumed"]["step"], one["steps"][1])
    assert_same_save(two["resumed"]["after"], one["after"])


def test_the_start_of_sharded_adapters_stands_on_their_weights(two: dict[str, Any]) -> None:
    assert two["adapted"] == dict.fromkeys(["shared", "whole", "equal", "moved", "kept"], True)
