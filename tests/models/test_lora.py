"""Adapters on a random tiny Janus: the sampler, the scorer, what is saved and what is read again."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import JanusForConditionalGeneration

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Lora, Recipe
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.models import lora
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.prompts import Frame
from corl_cli.pipelines import build
from corl_cli.trainer.preflight import check_identity

SPEC = Lora(rank=4, alpha=8)
SAMPLINGS = {
    "t2i": Sampling(group_size=2, temperature=0.8, cfg_weight=3.0, scoring="guided"),
    "mm2t": Sampling(group_size=2, temperature=0.8, max_new_tokens=10),
}
BOTH = pytest.mark.parametrize("task", ["t2i", "mm2t"])


@pytest.fixture(scope="module")
def base(policy: JanusPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    policy.save(folder)
    return folder


@pytest.fixture
def adapted(base: Path) -> JanusPolicy:
    return stirred(JanusPolicy.load(base, adapters=SPEC))


def stirred(policy: JanusPolicy, std: float = 0.2) -> JanusPolicy:
    """Adapters that change something: fresh ones do not."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable():
            parameter.normal_(std=std)
    return policy.eval()


def logits(policy: JanusPolicy, triplets: list[Triplet], task: Task = "mm2t") -> torch.Tensor:
    return policy(policy.sample(task, triplets, SAMPLINGS[task], key="k")).logps.detach()


def test_delta_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    assert torch.equal(lora.delta(a, b, alpha=6, rank=2), torch.tensor([[9.0, 18.0], [12.0, 24.0]]))


def test_fresh_adapters_change_nothing_and_learn_alone(policy: JanusPolicy, base: Path) -> None:
    fresh = JanusPolicy.load(base, adapters=Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"]))
    names = [name for name, parameter in fresh.named_parameters() if parameter.requires_grad]
    layers = len(fresh.model.model.language_model.layers)
    assert len(names) == layers * 2 * 2
    assert all(".language_model." in name and ".lora_" in name for name in names)
    fresh.learn(["t2i"])
    assert len(fresh.trainable()) == len(names)
    q_and_down = layers * 4 * (128 + 128 + 384 + 128)  # rank x (in + out)
    count = JanusPolicy.count(base, adapters=Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"]))
    assert count.learn == q_and_down == sum(p.numel() for p in fresh.trainable())
    assert count.frozen == sum(p.numel() for p in policy.parameters())
    assert count.copied == JanusPolicy.count(base).copied


@BOTH
def test_scored_log_probs_equal_the_sampled_ones_after_a_step_too(
    adapted: JanusPolicy, policy: JanusPolicy, triplets: list[Triplet], task: Task
) -> None:
    rollout = adapted.sample(task, triplets, SAMPLINGS[task], key="k")
    assert torch.allclose(adapted(rollout).logps, rollout.logps, atol=1e-4)
    assert not torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-2), "the adapters should do something"
    optimizer = torch.optim.AdamW(adapted.trainable(), lr=0.02)
    adapted(rollout).logps.sum().backward()
    assert all(parameter.grad is not None for parameter in adapted.trainable())
    optimizer.step()
    after = adapted.sample(task, triplets, SAMPLINGS[task], key="k")
    assert torch.allclose(adapted(after).logps, after.logps, atol=1e-4)
    assert not torch.allclose(adapted(rollout).logps, rollout.logps, atol=1e-2)


@BOTH
def test_bfloat16_holds_the_frozen_model_and_agrees(base: Path, triplets: list[Triplet], task: Task) -> None:
    half = stirred(JanusPolicy.load(base, dtype="bfloat16", adapters=SPEC), std=0.1)
    assert {p.dtype for p in half.trainable()} == {torch.float32}
    layer = half.model.model.language_model.layers[0]
    assert layer.mlp.down_proj.base_layer.weight.dtype == half.model.lm_head.weight.dtype == torch.bfloat16
    assert layer.input_layernorm.weight.dtype == torch.float32
    many = replace(SAMPLINGS[task], group_size=16, scoring="conditional")
    found = check_identity(lambda own: half(own).logps.detach(), half.sample(task, triplets, many, key="k"), "bfloat16")
    assert 0 < found.mean < 0.05


def test_dropout_is_for_updating_only(base: Path, triplets: list[Triplet]) -> None:
    policy = stirred(JanusPolicy.load(base, adapters=Lora(rank=4, alpha=8, dropout=0.5)))
    rollout = policy.sample("mm2t", triplets, SAMPLINGS["mm2t"], key="k")
    assert torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-4)
    policy.train()
    assert not torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-2)
    torch.manual_seed(7)
    first = policy(rollout).logps
    torch.manual_seed(7)
    assert torch.equal(policy(rollout).logps, first)
    again = policy.sample("mm2t", triplets, SAMPLINGS["mm2t"], key="k")
    assert torch.equal(again.logps, rollout.logps), "sampling is without dropout, and leaves the mode as it was"
    assert policy.training


def test_adapters_come_back_bit_by_bit_and_fold_into_the_weights(
    adapted: JanusPolicy, base: Path, triplets: list[Triplet], tmp_path: Path
) -> None:
    adapted.save(tmp_path / "step")
    assert not (tmp_path / "step" / "model.safetensors").exists(), "adapters alone"
    assert len(load_file(tmp_path / "step" / "adapter_model.safetensors")) == len(adapted.weights())
    again = JanusPolicy.load(tmp_path / "step", resume=True).eval()
    assert list(again.weights()) == list(adapted.weights())
    assert all(torch.equal(value, adapted.weights()[name]) for name, value in again.weights().items())
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in adapted.named_parameters() if p.requires_grad
    }
    assert torch.equal(logits(again, triplets), logits(adapted, triplets))
    again.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    folded = JanusPolicy.load(tmp_path / "step").eval()
    assert not any(".lora_" in name or "base_layer" in name for name in folded.weights())
    assert torch.allclose(logits(folded, triplets), logits(adapted, triplets), atol=1e-4)
    folded.save(tmp_path / "folded")
    assert set(load_file(tmp_path / "folded" / "model.safetensors")) == set(folded.weights())
    assert JanusPolicy.count(tmp_path / "step") == JanusPolicy.count(base)
    assert Frame.load(tmp_path / "step").room == 128


def test_transformers_reads_the_adapters_with_their_base(
    adapted: JanusPolicy, triplets: list[Triplet], tmp_path: Path
) -> None:
    adapted.save(tmp_path)
    plain = JanusForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids, mask = adapted.prompts.draw([triplet.prompt for triplet in triplets])
    with torch.no_grad():
        theirs = plain(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(theirs, adapted.model(input_ids=ids, attention_mask=mask).logits)


def test_adapters_on_folded_adapters_carry_their_base(
    adapted: JanusPolicy, triplets: list[Triplet], tmp_path: Path
) -> None:
    """The model that they began on is saved nowhere else, so that the first run may go."""
    adapted.save(tmp_path / "first")
    second = stirred(JanusPolicy.load(tmp_path / "first", adapters=Lora(rank=2, alpha=2)))
    expected = logits(second, triplets)
    second.save(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    again = JanusPolicy.load(tmp_path / "second", resume=True).eval()
    assert torch.equal(logits(again, triplets), expected)
    again.save(tmp_path / "third")
    third = JanusPolicy.load(tmp_path / "third", resume=True).eval()
    assert torch.equal(logits(third, triplets), expected)
    assert torch.allclose(logits(JanusPolicy.load(tmp_path / "third").eval(), triplets), expected, atol=1e-4)
    plain = JanusForConditionalGeneration.from_pretrained(tmp_path / "third", dtype=torch.float32).eval()
    ids, mask = second.prompts.draw([triplet.prompt for triplet in triplets])
    with torch.no_grad():
        theirs = plain(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(theirs, second.model(input_ids=ids, attention_mask=mask).logits)


def test_a_copy_has_adapters_of_its_own(adapted: JanusPolicy, triplets: list[Triplet]) -> None:
    before = logits(adapted, triplets)
    other = stirred(copy.deepcopy(adapted))
    with torch.no_grad():
        other.trainable()[-1].mul_(2)
    moved = other.sample("mm2t", triplets, SAMPLINGS["mm2t"], key="k")
    assert torch.allclose(other(moved).logps, moved.logps, atol=1e-4)
    assert torch.equal(logits(adapted, triplets), before)


def test_a_base_that_is_gone_is_one_clear_error(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    JanusPolicy.load(tmp_path / "base", adapters=SPEC).save(tmp_path / "step")
    shutil.rmtree(tmp_path / "base")
    for read in (JanusPolicy.load, JanusPolicy.count, Frame.load):
        with pytest.raises(CorlError, match="base, which is gone") as raised:
            read(tmp_path / "step")
        assert "adapter_config.json" in str(raised.value.hint)


def test_damaged_adapters_are_one_clear_error(adapted: JanusPolicy, tmp_path: Path) -> None:
    adapted.save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CorlError, match="No Janus checkpoint could be read"):
        JanusPolicy.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    with pytest.raises(CorlError, match="of a kind that corl does not read: use_dora"):
        JanusPolicy.load(tmp_path)


def recipe(**model: object) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "model": model, "train": {"tasks": ["t2i"]}, "algo": {"credit": "per_task"}}
        | {"rewards": {"t2i": [{"name": "cycle"}]}}
    )


def test_what_cannot_learn_is_found_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    build.check(recipe(lora={}))
    with pytest.raises(UsageError, match=r"model\.lora\.targets: c_attn, fc1: no linear layer"):
        build.check(recipe(lora={"targets": ["q_proj", "c_attn", "fc1"]}))
    with pytest.raises(UsageError, match="t2i touches nothing of aligner, vision_model, so nothing learns"):
        build.check(recipe(train=["aligner", "vision_model"]))
    build.check(recipe(train=["aligner", "generation_head"]))
    monkeypatch.setattr(lora, "_peft", lambda: None)
    with pytest.raises(UsageError, match="peft is not installed") as raised:
        build.check(recipe(lora={}))
    assert "in corl's folder: pip install '.[lora]'" in str(raised.value.hint)
