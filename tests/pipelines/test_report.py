"""The page of a run: what it tells, in which order, and what it does where something is missing or damaged."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest
import torch
from PIL import Image
from results import Result

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.types import Samples, Sampling
from corl_cli.pipelines import account, groups, looks, report
from corl_cli.pipelines.summary import Story, tell
from corl_cli.trainer import album
from corl_cli.trainer.album import Entry, Look

MIXED = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
QUESTION = "what shape is it? square A triangle B"


def page(*folders, out=None) -> str:
    """The HTML of a page about these runs."""
    path = out or folders[0] / "page.html"
    report.write(list(folders), path)
    return path.read_text()


def text(markup: str) -> str:
    """The words of a page, as read."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", markup, flags=re.DOTALL)))


def answers(*words: str) -> list[str]:
    return [f"<think> so </think> <answer> {word} </answer>" for word in words]


def probe(task: str, mean: float, **other):
    known = {"task": task, "score": "accuracy", "answer_type": "", "temperature": 1.0, "stderr": 0.03, "items": 9}
    return {"probe": known | {"mean": mean, **other}}


def metrics(step: int, **other):
    return {"step": step, "seconds": 2.0 * step, "memory/peak_gib": 0.5, **other}


@pytest.fixture
def told(rig):
    """A run of both tasks, three steps of which the first and the last are recorded."""
    rig = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])
    for task, mean in (("t2i", 0.2), ("mm2t", 0.5)):
        rig.run.append_metrics({"step": 0} | probe(task, mean))
    for step in (1, 2, 3):
        rewards = {f"reward/{name}": 0.1 * step for name in ("t2i/checker", "t2i/total", "mm2t/accuracy")}
        rig.run.append_metrics(metrics(step, **rewards))
    rig.run.append_metrics({"step": 3} | probe("t2i", 0.6))
    rig.run.append_metrics({"step": 3} | probe("mm2t", 0.5))
    for step in (1, 3):
        drawn = [_noisy(triplet.image, row) for triplet in rig.triplets for row in range(4)]
        rig.step(
            step,
            {
                "t2i": {"outputs": drawn, "scores": {"checker": [row / 8 for row in range(8)]}},
                "mm2t": {"outputs": answers(*"ABABCCCC"), "scores": {"accuracy": MIXED}},
            },
        )
    for step in (0, 3):
        look(rig, step, answers("A", "B") if step else answers("B", "B"))
    return rig


def _noisy(image, row: int):
    """The image with one pixel of its own."""
    copy = image.convert("RGB")
    copy.putpixel((row, 0), (0, 0, 0))
    return copy


def look(rig, step: int, given) -> None:
    triplet = rig.triplets[0]
    entry = Entry(
        real=triplet.image,
        prompt="a red square",
        drawings=[triplet.image] * 2,
        question=QUESTION,
        answer="A",
        answers=given,
    )
    album.write(rig.run.samples, Look(step=step, entries=[entry]))


def test_the_page_tells_the_run_in_order_and_stands_alone(told):
    markup = page(told.run.path)
    said = text(markup)
    heads = re.findall(r"<h2 id=\"(\w+)\"", markup)
    assert heads == ["alarms", "change", "curves", "drawings", "answers", "groups", "recipe"]
    assert set(re.findall(r'<a href="#(\w+)"', markup)) == set(heads)
    assert "Drawing and answering trained by reinforcement, together (corl train unified), on the embedded" in said
    assert "3 steps in 6 s, going on, or stopped after step 3" in said
    assert "drawing: accuracy 1 +0.400 ± 0.042 0.200 ± 0.030 0.600 ± 0.030 9" in said
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org)|@import|url\((?!#)", markup)


def test_answers_are_judged_by_the_rules_of_accuracy(told):
    said = text(page(told.run.path))
    assert "✗ B ✗ B step 0: 0 of 2 right ✓ A ✗ B step 3: 1 of 2 right" in said
    assert "corl's own accuracy rules" in said


def test_an_alarm_stands_first_with_its_samples_and_what_they_were_paid(rig):
    rig = rig(t2i=[{"name": "mine:Dark", "weight": 2.0}, {"name": "matching"}])
    for step, dark in enumerate((240, 180, 90, 30), start=1):
        outputs = [Image.new("RGB", (32, 32), (dark, dark, dark - row)) for row in range(8)]
        scores = {
            "mine:Dark": [1 - dark / 255 + 0.01 * row for row in range(8)],
            "matching": [0.1 * r for r in range(8)],
        }
        rig.step(step, {"t2i": {"outputs": outputs, "scores": scores}})
    markup = page(rig.run.path)
    said = text(markup)
    assert "1 alarm" in said[: said.index("Last written")]
    assert markup.index('class="box alarm"') < markup.index('id="recipe"')
    assert "brightness drift (t2i)" in said
    assert re.search(r"paid \d\.\d+ = mine:Dark 1\.\d+ \+ matching 0\.\d+; advantage", said)
    assert "Left the drawing, right the real image" in said


def test_a_run_without_an_alarm_says_what_was_checked(told):
    said = text(page(told.run.path))
    assert "no alarm" in said
    assert "Checked (mm2t): several answer blocks" in said


def test_groups_are_chosen_by_their_spread():
    totals = [0.0, 0.1, 0.5, 0.5, 0.0, 0.9, 0.0, 0.4, 1.0, float("nan")]
    recorded = _recorded(totals, size=2)
    assert groups.chosen(recorded) == [
        (2, "the widest spread of totals"),
        (3, "the median spread"),
        (1, "equal totals: it teaches nothing"),
    ]
    assert groups.chosen(_recorded([1.0, float("nan")], size=2))[0][0] == 0
    paid = _recorded([0.5, 0.5], size=2, advantages=[0.7, -0.7])  # by the totals of the other task
    assert groups.chosen(paid) == [(0, "equal totals")]


def test_a_page_says_whose_advantages_they_are(told):
    words = "One advantage for drawing and answer together, from both totals"
    assert words not in text(page(told.run.path))
    recipe = told.run.recipe_file.read_text()
    told.run.recipe_file.write_text(recipe.replace("credit: per_task", "credit: joint"))
    assert f"{words}. " in text(page(told.run.path))
    told.run.recipe_file.write_text(recipe.replace("credit: per_task", "credit: blend"))
    assert f"{words}, blended with each one's own. " in text(page(told.run.path))


def _recorded(totals, size, advantages=None):
    from corl_cli.core.types import RewardResult
    from corl_cli.trainer.rollout import Recorded

    total = torch.tensor(totals)
    nothing = torch.zeros(len(totals))
    return Recorded(
        samples=Samples(task="mm2t", triplets=[], outputs=[], sampling=Sampling(group_size=size)),
        rewards=RewardResult(task="mm2t", total=total, parts={}, valid=total.isfinite()),
        advantages=nothing if advantages is None else torch.tensor(advantages),
        rows=total.isfinite(),
        lengths=nothing,
        truncated=nothing.bool(),
    )


def test_a_sample_that_was_left_out_is_marked_with_its_reason(rig):
    rig = rig(mm2t=[{"name": "accuracy", "on_error": "mask"}])
    scores = {"accuracy": [1, 0, 0, float("nan"), 1, 1, 1, 1]}
    notes = {"accuracy": ["", "", "", "the judge was away", *[""] * 4]}
    rig.step(1, {"mm2t": {"outputs": answers(*"ABCDABCD"), "scores": scores, "notes": notes}})
    markup = page(rig.run.path)
    assert markup.count('<tr class="out">') == 1
    assert re.search(r"D </answer> accuracy: the judge was away left out – –", text(markup))
    assert "answering: equal totals: it teaches nothing" in text(markup)


def test_several_runs_stand_side_by_side(told, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(told.run.path, other)
    recipe = (other / "recipe.yaml").read_text().replace("seed: 0", "seed: 7", 1)
    (other / "recipe.yaml").write_text(recipe)
    markup = page(told.run.path, other, out=tmp_path / "both.html")
    said = text(markup)
    assert "held out T run other items" in said
    assert "drawing: accuracy 1 0.200 → 0.600 (+0.400 ± 0.042) 0.200 → 0.600 (+0.400 ± 0.042) 9" in said
    assert "differ from that of run. key run other seed 0 7" in said
    assert len(set(re.findall(r'class="swatch" style="background: (#\w+)"', markup))) == 2


def test_items_that_differ_between_runs_are_all_told(told, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(told.run.path, other)
    metrics_file = other / "metrics.jsonl"
    metrics_file.write_text(metrics_file.read_text().replace('"items": 9', '"items": 5'))
    assert {line["items"] for line in account.changes(tell([told.run.path, other]))} == {"9, 5"}


def test_what_is_damaged_is_named_and_the_rest_is_shown(told):
    run = told.run
    (run.rollouts / "step-000003" / "real-0000.png").unlink()
    run.provenance_file.write_text("{")
    (run.samples / "step-000003.jsonl").write_text("?")
    made = report.Report([run.path])
    made.write(run.path / "page.html")
    missing = " ".join(made.missing)
    assert "step-000003.jsonl" in missing
    assert "provenance.json" in missing
    assert "Step 3 cannot be read" in missing
    said = text((run.path / "page.html").read_text())
    assert "Not everything could be shown" in said
    assert "Before and after" in said
    assert "step 1" in said[said.index("Groups taken apart") :]


def test_a_run_that_has_just_begun_has_a_page(rig):
    rig = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])
    said = text(page(rig.run.path))
    assert "no step done yet; not audited" in said
    assert "Not audited. The run" in said
    assert "Curves" not in said
    rig.run.append_metrics({"step": 0} | probe("t2i", 0.2))
    assert "drawing: accuracy 1 0.200 ± 0.030 9" in text(page(rig.run.path))


def test_evaluations_of_the_run_stand_beside_the_papers(told):
    values = {"a": [1, 0], "b": [1, 1], "c": [0, 0]}
    groups_of = {"a": "two_object", "b": "two_object", "c": "counting"}
    Result(values=values, groups=groups_of).write(told.run.path / "eval" / "step-000003" / "geneval")
    said = text(page(told.run.path))
    assert "overall 3 0.500 0.73 0.77" in said
    assert "Janus-Pro-1B (paper)" in said


def test_folders_that_are_no_runs_say_what_to_do(told, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UsageError, match="is not a run"):
        report.Report([folder])
    (folder / "merge.json").write_text("{}")
    with pytest.raises(UsageError, match="the result of corl merge"):
        report.Report([folder])
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    shutil.copy(told.run.recipe_file, study)
    with pytest.raises(UsageError, match="is a study") as error:
        report.Report([study])
    assert error.value.hint.endswith("study/runs/*")
    with pytest.raises(UsageError, match="named twice"):
        report.Report([told.run.path, told.run.path])


def test_a_page_that_cannot_be_made_does_not_end_a_run(told):
    heard: list[str] = []
    report.refresh(told.run, heard.append)
    assert heard == []
    told.run.metrics_file.write_text("{\n")
    report.refresh(told.run, heard.append)
    assert len(heard) == 1
    assert heard[0].startswith("warning: report.html was not made: ")
    assert "no alarm" in (told.run.path / report.PAGE).read_text()  # the last one stays


def test_a_run_that_ends_leaves_its_page_and_its_picture(told):
    heard: list[str] = []
    report.finish(told.run, heard.append)
    assert heard == []
    assert Image.open(told.run.path / "picture.png").width > 500
    assert (told.run.path / "report.html").exists()
    shutil.rmtree(told.run.samples)
    with pytest.raises(CorlError, match="no samples"):
        report.draw(told.run.path, told.run.path / "other.png")
    report.finish(told.run, heard.append)
    assert [line.partition(":")[0] for line in heard] == ["warning"]
    assert "picture.png was not made" in heard[0]


def test_nothing_that_is_damaged_ends_a_training_that_is_done(told):
    heard: list[str] = []
    (told.run.rollouts / "step-000003" / "rows.jsonl").write_text("3\n[]\n")
    report.finish(told.run, heard.append)
    assert heard == []
    assert "Step 3 cannot be read" in text((told.run.path / report.PAGE).read_text())
    told.run.metrics_file.write_text("3\n")
    report.finish(told.run, heard.append)
    assert [
        file for file in (report.PAGE, report.PICTURE) if any(f"{file} was not made" in line for line in heard)
    ] == [
        report.PAGE,
        report.PICTURE,
    ]


def test_a_runs_own_page_reads_a_few_recorded_steps_and_says_so(told, monkeypatch):
    monkeypatch.setattr(report, "AUDITED", 2)
    shutil.copytree(told.run.rollouts / "step-000001", told.run.rollouts / "step-000002")
    report.refresh(told.run, pytest.fail)
    words = text((told.run.path / report.PAGE).read_text())
    assert "Early is step 1, late is step 3" in words
    assert "no alarm in 2 of 3 recorded steps." in words[: words.index("Last written")]
    assert "made from 2 recorded steps; from all 3: corl report" in words
    whole = text(page(told.run.path))
    assert "recorded steps" not in whole[: whole.index("Last written")]
    (told.run.rollouts / "step-000002" / "rows.jsonl").unlink()
    damaged = text(page(told.run.path))
    assert "no alarm in 2 of 3 recorded steps." in damaged[: damaged.index("Last written")]
    assert "This page was made from" not in damaged


def test_looks_are_thinned_and_keep_both_ends():
    steps = looks.thinned(range(0, 500, 10), 8)
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (0, 490)
    assert steps == sorted(set(steps))
    assert looks.thinned(steps[:3], 8) == steps[:3]
    assert looks.thinned(steps, 2) == [0, 490]


def test_each_items_row_holds_its_samples_of_every_run(told, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(told.run.path, other)
    (item,) = looks.read(tell([told.run.path, other])).items
    assert {label: [cell.step for cell in row] for label, row in item.runs.items()} == {"run": [0, 3], "other": [0, 3]}
    assert item.runs["other"][1].right == 1


def test_a_run_of_a_shipped_recipe_says_what_it_changes(told):
    def compared():
        return account.differences([Story.read(told.run.path)])

    assert compared() == ("", [])
    from corl_cli.core.loader import dump, load

    told.run.recipe_file.write_text(dump(load("world/unified", ["train.max_steps=7"])))
    about, table = compared()
    assert "world/unified" in about
    assert table == [{"key": "train.max_steps", "shipped": "400", "here": "7"}]
    story = Story.read(told.run.path)
    assert account.steps(story) == "3 of 7 steps"
    assert not account.is_finished(story)
    assert json.loads(json.dumps(account.changes([story])))[0]["items"] == "9"
