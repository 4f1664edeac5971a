"""LoRA by the command that a user types: trained, resumed, and gone on from."""

import json
from pathlib import Path

import pytest
import torch
from commands import corl
from safetensors.torch import load_file

from corl_cli.core.recipe import Model
from corl_cli.pipelines import build

SETTINGS = {
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 8,
    "eval.probes.items": 2,
    "checkpoint.every": 1,
    "optim.lr": 0.001,
    "optim.schedule": "constant",
    "model.lora.rank": 4,
    "model.lora.alpha": 8,
    "model.lora.dropout": 0.1,
}


def train(folder: Path, out: str, *words: str, lora: bool = True, **settings: object) -> None:
    kept = {key: value for key, value in SETTINGS.items() if lora or "lora" not in key}
    sets = [f"--set={key}={value}" for key, value in (kept | settings).items()]
    corl("train", "unified", "--out", out, *sets, *words, cwd=folder, code=0)


def adapters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "whole", **{"train.max_steps": 2})
    return folder / "whole"


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(run: Path) -> None:
    moved = [name for name, value in adapters(run, 2).items() if "lora_B" in name and value.any()]
    assert len(moved) == 4 * 7, "fresh adapters are zero there"
    state = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = adapters(run, 2)
    newest = run / "checkpoints" / "step-000002"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()  # as a kill before it was saved leaves the run
    train(run.parent, "whole", "--resume", **{"train.max_steps": 2})
    found = adapters(run, 2)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    again = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [[line["loss/mm2t"] for line in lines if "lr" in line] for lines in (state, again)]
    assert losses[0] == losses[1]


def test_another_run_starts_from_the_merged_weights(run: Path) -> None:
    start = build.build_policy(Model(checkpoint=str(run)))
    train(run.parent, "full", "--from", str(run), **{"train.max_steps": 1, "optim.lr": 1e-12}, lora=False)
    after = load_file(run.parent / "full" / "checkpoints" / "step-000001" / "model.safetensors")
    assert list(after) == sorted(start.weights())
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in start.weights().items())
    shipped = build.build_policy(Model()).weights()
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    assert not torch.allclose(after[name], shipped[name], atol=1e-6)
