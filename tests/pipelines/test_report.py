"""What a run says of itself."""

from __future__ import annotations

import pytest
from PIL import Image

from corl_cli.pipelines.report import cancels, curves, draw_curves


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
