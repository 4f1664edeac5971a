"""What a run says of itself."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.loader import dump
from corl_cli.pipelines.summary import cancels, curves, draw_curves, summarise


@pytest.mark.parametrize(("normalised", "cancelled"), [([True, True], True), ([True, False], False)])
def test_a_total_that_is_zero_by_construction_is_no_curve(rig, normalised, cancelled):
    names = ("accuracy", "format")
    rig = rig(mm2t=[{"name": name, "normalise": on} for name, on in zip(names, normalised, strict=True)])
    metrics = [{"step": step} | {f"reward/mm2t/{name}": 0.5 for name in (*names, "total")} for step in (1, 2)]
    assert cancels(rig.recipe, "mm2t") == cancelled
    lines = curves(metrics, rig.recipe, "mm2t")
    assert ("total" not in lines) == cancelled
    assert lines["format"] == [(1, 0.5), (2, 0.5)]
    assert not cancels(rig.recipe, "t2i")  # it has no rewards, and no total either


def test_curves_of_a_run_whose_part_never_had_a_score(rig):
    rig = rig(mm2t=[{"name": "accuracy"}])
    for step in range(1, 5):
        rewards = {"accuracy": step / 4, "accuracy.part": None, "total": step / 4}
        rig.run.append_metrics({"step": step} | {f"reward/mm2t/{name}": value for name, value in rewards.items()})
    assert list(curves(rig.run.read_metrics(), rig.recipe, "mm2t")) == ["accuracy", "total"]
    draw_curves(rig.run)
    with Image.open(rig.run.path / "curves.png") as picture:
        assert picture.width > picture.height / 2


def probe(task: str, mean: float | None, **other: object) -> dict[str, object]:
    values = {"score": "x", "answer_type": "", "temperature": 1.0, "stderr": 0.1, "items": 4, "failed": 0}
    return {"task": task, "mean": mean} | values | other


@pytest.fixture
def drawn(monkeypatch):
    """The titles of the figure that `draw_curves` makes, with the names of the lines below each."""
    from matplotlib import pyplot

    def draw(run):
        kept = []
        monkeypatch.setattr(pyplot, "close", kept.append)
        draw_curves(run)
        monkeypatch.undo()
        axes = [axis for axis in kept[0].axes if axis.axison]
        lines = {axis.get_title(): axis.get_legend_handles_labels() for axis in axes if axis.get_title()}
        pyplot.close(kept[0])
        return {title.partition(" (")[0]: names for title, (_, names) in lines.items()}

    return draw


def test_held_out_readings_of_both_abilities_are_drawn_where_one_is_trained(rig, drawn):
    run = rig(t2i=[{"name": "checker"}]).run
    for step in range(3):
        for task in ("t2i", "mm2t"):
            run.append_metrics({"step": step, "probe": probe(task, 0.5)})
        run.append_metrics({"step": step, "reward/t2i/total": 1.0, "entropy/t2i": 2.0, "kl/t2i": 0.1})
    assert drawn(run) == {
        "drawing, held out": ["x, T = 1"],
        "answering, held out": ["x, T = 1"],
        "drawing, rewards while training": ["total"],
        "drawing, nats a token": ["entropy"],  # KL has an axis of its own
    }


def test_imitation_has_no_rewards_and_is_drawn_by_its_loss(rig, drawn):
    rig = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])
    recipe = rig.recipe.model_copy(update={"train": rig.recipe.train.model_copy(update={"method": "sft"})})
    rig.run.recipe_file.write_text(dump(recipe))
    for step in range(1, 5):
        task = ("t2i", "mm2t")[step % 2]  # by turns
        rig.run.append_metrics({"step": step, f"nll/{task}": 1.0 / step, f"entropy/{task}": 2.0})
    found = drawn(rig.run)
    assert found["drawing, nats a token of the targets"] == ["nll"]
    assert found["answering, nats a token of the targets"] == ["nll"]


def test_a_run_without_a_step_can_be_drawn(rig):
    run = rig(mm2t=[{"name": "accuracy"}]).run
    draw_curves(run)
    assert (run.path / "curves.png").exists()


def test_the_summary_names_the_best_checkpoint(rig):
    run = rig(mm2t=[{"name": "accuracy"}]).run
    run.append_metrics({"step": 0, "probe": probe("mm2t", 0.25)})
    run.append_metrics({"step": 2, "probe": probe("mm2t", 0.75)})
    run.append_metrics({"step": 2, "memory/peak_gib": 1.5, "seconds": 3.0})
    for step, gain in ((1, 1.0), (2, 0.5)):
        folder = run.checkpoints / f"step-{step:06d}"
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps({"step": step, "gain": gain}))
    found = summarise(run)
    assert (found.step, found.seconds, found.peak_gib) == (2, 3.0, 1.5)
    assert found.best == run.checkpoints / "step-000001"
    assert [(change.before, change.after) for change in found.changes] == [(0.25, 0.75)]
    assert found.changes[0].stderr == pytest.approx(0.1 * 2**0.5)


def test_a_picture_that_cannot_be_written_is_one_clear_error(rig):
    run = rig(mm2t=[{"name": "accuracy"}]).run
    (run.path / "curves.png").mkdir()
    with pytest.raises(CorlError, match=r"curves\.png cannot be written"):
        draw_curves(run)
