import json
import shutil

import pytest
import torch
from transformers import JanusForConditionalGeneration
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.core.errors import UsageError
from corl_cli.world.build import Plan, build
from corl_cli.world.scenes import split_of
from corl_cli.world.vq import spread_codes
from corl_cli.world.warmup import Ability, answered, seen_items, unseen_items

SMALL = Plan(
    tokenizer_images=8,
    tokenizer_steps=152,
    tokenizer_floor=0,
    copy_steps=2,
    pool_size=8,
    warm_up_steps=2,
    measure_every=2,
    probe_items=4,
    target=Ability(draw=0, oe=0, mc=0, caption=0),
    test_items=4,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A build of a few steps, interrupted after its first phase."""

    def stop(phase, done, total, note):
        if phase == "copying":
            raise KeyboardInterrupt

    out = tmp_path_factory.mktemp("begun") / "tiny"
    with pytest.raises(KeyboardInterrupt):
        build(out, plan=SMALL, report=stop)
    return out


@pytest.fixture(scope="module")
def built(begun, tmp_path_factory):
    """The same build, resumed and finished."""
    out = tmp_path_factory.mktemp("built") / "tiny"
    shutil.copytree(begun, out)
    build(out, plan=SMALL, resume=True)
    return out


def test_a_resumed_build_is_the_same_as_one_in_one_go(built, tmp_path):
    build(tmp_path / "again", plan=SMALL)
    left = JanusForConditionalGeneration.from_pretrained(built).state_dict()
    right = JanusForConditionalGeneration.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_build_says_how_it_was_made_and_leaves_no_scraps(built):
    record = json.loads((built / "build.json").read_text())
    assert record["seed"] == 0
    assert set(record["phases"]) == {"tokenizer", "copying", "warm-up"}
    assert record["test"]["items"] == 4
    assert not (built / ".build").exists()
    assert JanusForConditionalGeneration.from_pretrained(built, dtype="auto").dtype == torch.bfloat16


def test_a_folder_that_holds_something_is_not_overwritten(built, tmp_path):
    with pytest.raises(UsageError):
        build(built, plan=SMALL)
    with pytest.raises(UsageError):
        build(built, plan=SMALL, resume=True)  # finished: nothing to go on with
    kept = tmp_path / "mine"
    shutil.copytree(built, kept)
    result = CliRunner().invoke(app, ["world", "build", "--out", str(kept)])
    assert result.exit_code == 2
    assert "not empty" in result.output


def test_a_build_is_not_resumed_with_another_seed(begun):
    with pytest.raises(UsageError, match="seed 0"):
        build(begun, plan=SMALL, seed=1, resume=True)


def test_the_warm_up_never_sees_what_it_is_judged_on():
    seen = [item.scene for item in seen_items(0, 500)]
    unseen = [item.scene for item in unseen_items(0, 100)]
    assert {split_of(scene) for scene in (*seen, *unseen)} == {"train"}

    def contents(scenes):
        return {tuple(sorted(p.thing for p in scene)) for scene in scenes if len(scene) > 1}

    assert not contents(seen) & contents(unseen)


def test_codes_start_far_from_each_other():
    corners = torch.eye(4).repeat(10, 1) + 0.01 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    latents = torch.nn.functional.normalize(corners, dim=-1)
    codes = torch.zeros(4, 4)
    spread_codes(codes, latents)
    assert torch.allclose(codes.norm(dim=-1), torch.ones(4))
    assert (codes @ codes.T - torch.eye(4)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think> red circle top-left is one B </think> <answer> B </answer>", True),
        ("<think> red circle top-left is one C </think> <answer> C </answer>", False),
        ("<answer> B </answer>", False),
        ("<think> one </think> <answer> B </answer> <answer> B </answer>", False),
    ],
)
def test_an_answer_counts_in_its_format_only(text, right):
    assert answered(text, "B") == right
