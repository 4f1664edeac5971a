"""What a run says of itself."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import dump
from corl_cli.pipelines.summary import Story, cancels, curves, summarise, tell


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


def probe(task: str, mean: float | None, **other: object) -> dict[str, object]:
    values = {"score": "x", "answer_type": "", "temperature": 1.0, "stderr": 0.1, "items": 4, "failed": 0}
    return {"task": task, "mean": mean} | values | other


def test_a_story_of_a_run_that_trains_one_task_and_is_read_in_both(rig):
    made = rig(t2i=[{"name": "checker"}])
    for at in range(3):
        for task in ("t2i", "mm2t"):
            made.run.append_metrics({"step": at, "probe": probe(task, 0.5 if at else None, stderr=None)})
        if at:
            made.run.append_metrics({"step": at, "length/t2i": 16, "kl/t2i": None, "seconds": 1.0})
    story = Story.read(made.run.path)
    assert (story.label, story.tasks, story.last_step, story.num_steps) == ("run", ["t2i", "mm2t"], 2, None)
    assert story.samples == 2 * made.recipe.train.batch_size * 4
    assert story.points("length/t2i") == [(1, 16), (2, 16)]
    assert story.points("kl/t2i") == []
    assert [(at, mean) for at, mean, _ in story.readings("mm2t")["x", 1.0]] == [(1, 0.5), (2, 0.5)]
    assert math.isnan(story.readings("mm2t")["x", 1.0][0][2])


def test_the_length_of_a_run_by_epochs_is_known_from_its_provenance(rig):
    made = rig(t2i=[{"name": "checker"}])
    facts = json.loads(made.run.provenance_file.read_text()) | {"data": {"triplets": 100}}
    made.run.provenance_file.write_text(json.dumps(facts))
    epochs = made.recipe.train.model_copy(update={"epochs": 3})
    made.run.recipe_file.write_text(dump(made.recipe.model_copy(update={"train": epochs})))
    assert Story.read(made.run.path).num_steps == 3 * (100 // 16)


def test_labels_are_the_shortest_ends_of_paths_that_differ(rig, tmp_path):
    made = rig(t2i=[{"name": "checker"}])
    names = ["a/run", "b/run", "b/other", "c/b/run"]
    folders = [tmp_path / "runs" / name for name in names]
    for folder in folders:
        shutil.copytree(made.run.path, folder)
    assert [story.label for story in tell(folders)] == ["a/run", "runs/b/run", "other", "c/b/run"]
    assert [story.label for story in tell(folders[:1])] == ["run"]
    with pytest.raises(UsageError, match="named twice"):
        tell([folders[0], folders[1], folders[1] / ".." / "run"])
    with pytest.raises(UsageError, match="is not a run"):
        tell([tmp_path])


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
