"""Merging on tensors small enough to do by hand, and tensors on disk."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from weights import tensors

from corl_cli.core.errors import UsageError
from corl_cli.models import shards
from corl_cli.models.merge import Moments, Movement, factors, gaussian, kind, weighted
from corl_cli.models.shards import Saved, Spec


def changes(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def band(moved, step=3):
    moments = Moments(len(moved))
    for piece in moved.split(step, 1):
        moments.add(piece)
    return moments.band()


def test_gaussian_by_hand():
    """A: nine entries 0 and one 10: mean 1, sd sqrt(10 - 1) = 3. B: five entries 1, five entries -3: mean -1, sd 2.

    mu = (1 - 1) / 2 = 0 and sigma = min(3, 2) = 2, so the band is [-4, 4]: 10 alone is outside, and added in full.
    """
    a, b = [0.0] * 9 + [10.0], [1.0] * 5 + [-3.0] * 5
    moved = changes(a, b)
    centre, spread = band(moved)
    assert (centre, spread) == pytest.approx((0.0, 2.0))
    added, outside = gaussian(moved, centre, spread)
    assert added.tolist() == [0.5] * 5 + [-1.5] * 4 + [10.0 - 1.5]
    assert outside.tolist() == [[False] * 9 + [True], [False] * 10]


def test_the_band_has_its_edges_inside_and_is_about_mu():
    moved = changes([5.0, 5.1, 1.0, 0.9], [3.0, 3.0, 3.0, 3.0])
    added, outside = gaussian(moved, centre=3.0, spread=1.0)
    assert outside.tolist() == [[False, True, False, True], [False] * 4]
    assert added.tolist() == [4.0, 5.1 + 1.5, 2.0, 0.9 + 1.5]


def test_three_models_are_averaged_over_three():
    added, _ = gaussian(changes([3.0, 9.0], [0.0, 0.0], [-1.5, 0.0]), centre=0.0, spread=2.0)
    assert added.tolist() == [0.5, 9.0]


def test_a_model_that_left_a_tensor_alone_leaves_the_other_whole():
    moved = changes([0.0] * 4, [1.0, -2.0, 3.0, 0.5])
    added, _ = gaussian(moved, *band(moved))
    assert added.tolist() == [1.0, -2.0, 3.0, 0.5]


def test_the_same_model_twice_doubles_what_is_outside_and_nothing_else():
    torch.manual_seed(0)
    one = torch.randn(1000, dtype=torch.float64)
    moved = torch.stack([one, one])
    added, outside = gaussian(moved, *band(moved))
    assert torch.equal(outside[0], (one - one.mean()).abs() > 2 * one.std(correction=0))
    assert 0.02 < outside[0].double().mean() < 0.08, "a normal distribution has 4.6 % there"
    assert torch.allclose(added, torch.where(outside[0], 2 * one, one))


@given(st.integers(0, 1000), st.integers(2, 4))
def test_the_order_of_models_does_not_matter(seed, num_models):
    torch.manual_seed(seed)
    moved = torch.randn(num_models, 50, dtype=torch.float64) * torch.rand(num_models, 1).double()
    turned = moved.roll(1, 0)
    assert torch.allclose(gaussian(moved, *band(moved))[0], gaussian(turned, *band(turned))[0], atol=1e-12)


def test_moments_of_pieces_are_those_of_the_whole_also_far_from_zero():
    torch.manual_seed(0)
    moved = torch.randn(3, 1000, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5]]) + 1e6
    centre, spread = band(moved, step=7)
    assert centre == pytest.approx(moved.mean().item(), rel=1e-14)
    assert spread == pytest.approx(moved.std(1, correction=0).min().item(), rel=1e-9)


def test_weights_by_hand():
    moved = changes([1.0, 2.0], [3.0, -2.0])
    assert weighted(moved, factors("linear", [1.0, 3.0], 1.0)).tolist() == [0.25 + 2.25, 0.5 - 1.5]
    assert weighted(moved, factors("task-arithmetic", [1.0, 3.0], 0.5)).tolist() == [0.5 + 4.5, 1.0 - 3.0]


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=4), st.integers(0, 1000))
def test_a_weighted_mean_is_the_same_from_any_base(weights, seed):
    torch.manual_seed(seed)
    models = torch.randn(len(weights), 20, dtype=torch.float64)
    mean = torch.tensor(weights, dtype=torch.float64) @ models / sum(weights)
    for base in (models[0], torch.randn(20, dtype=torch.float64)):
        assert torch.allclose(base + weighted(models - base, factors("linear", weights, 1.0)), mean, atol=1e-12)


def test_movement_by_hand_and_in_pieces():
    """|base| = 5; A moves by (3, 0), B by (0, 4), merged by (3, 4): 0.6, 0.8, 1, and A and B stand upright."""
    base, moved = torch.tensor([3.0, 4.0]).double(), changes([3.0, 0.0], [0.0, 4.0])
    outside = torch.tensor([[True, False], [False, False]])
    pieces = [
        Movement.of(base[i : i + 1], moved[:, i : i + 1], (base + moved.sum(0))[i : i + 1], outside[:, i : i + 1])
        for i in range(2)
    ]
    found = pieces[0] + pieces[1]
    expected = {"A": 0.6, "B": 0.8, "merged": 1.0, "A outside": 0.5, "B outside": 0.0, "cosine": 0.0}
    assert found.readings(["A", "B"]) == pytest.approx(expected)
    assert not found.unmoved


def test_what_did_not_move_has_no_direction_and_what_came_from_nothing_no_relative_size():
    base = torch.ones(3).double()
    still = Movement.of(base, torch.zeros(2, 3).double(), base, None)
    assert still.unmoved
    assert still.readings(["A", "B"]) == {"A": 0.0, "B": 0.0, "merged": 0.0, "cosine": None}
    grown = Movement.of(0 * base, torch.ones(2, 3).double(), base, None)
    assert grown.merged == math.inf
    assert grown.cosine() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("lm_head.weight", "lm_head"),
        ("model.language_model.embed_tokens.weight", "embeddings"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.language_model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.language_model.layers.0.input_layernorm.weight", "norms"),
        ("model.vision_model.encoder.layers.0.mlp.fc1.bias", "mlp"),
        ("model.aligner.fc1.weight", "others"),
    ],
)
def test_kinds_of_tensors(name, group):
    assert kind(name) == group


# ---- tensors on disk ------------------------------------------------------------------------------------------------


TENSORS = {
    "a.wide": torch.arange(12.0, dtype=torch.float64).reshape(3, 2, 2),
    "b.half": torch.arange(6.0).bfloat16().reshape(3, 2),
    "c.odd": torch.tensor([True, False, True]),
    "d.scalar": torch.tensor(7),
    "e.single": torch.arange(5.0),
    "f.half": torch.arange(3.0).half(),
}


def rewritten(saved, folder):
    """What is read back after every tensor was read and written by rows."""
    shards.write(folder, saved.specs, lambda name: (saved.rows(name, rows) for rows in saved.specs[name].pieces()))
    return tensors(folder)


@pytest.mark.parametrize(("piece", "shard"), [(1, 1 << 30), (4, 100), (1 << 20, 1)])
def test_tensors_go_through_pieces_and_shards_unchanged(tmp_path, monkeypatch, piece, shard):
    save_file(TENSORS, tmp_path / "model.safetensors")
    monkeypatch.setattr(shards, "PIECE", piece)
    monkeypatch.setattr(shards, "SHARD_BYTES", shard)
    (tmp_path / "again").mkdir()
    found = rewritten(Saved(tmp_path), tmp_path / "again")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in TENSORS.items())
    number = len(list((tmp_path / "again").glob("*.safetensors")))
    assert number == {1 << 30: 1, 100: 2, 1: 6}[shard]
    if number > 1:
        index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == TENSORS.keys()
        assert index["metadata"]["total_size"] == sum(value.nbytes for value in TENSORS.values())
        (tmp_path / "third").mkdir()
        assert rewritten(Saved(tmp_path / "again"), tmp_path / "third").keys() == TENSORS.keys()


def test_a_shard_is_at_most_as_large_as_asked_unless_one_tensor_is_larger(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    specs = {name: Spec((size,), torch.uint8) for name, size in zip("abcde", (40, 60, 1, 200, 99), strict=True)}
    assert shards._shards(specs) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_a_missing_shard_is_named(tmp_path):
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"x": torch.ones(2)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(UsageError, match="lacks model-00002-of-00002"):
        Saved(tmp_path)
