"""The graphs of the studies, and tables made of readings that are known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import diff, load
from corl_cli.core.recipe import Recipe
from corl_cli.pipelines import study_report
from corl_cli.pipelines.study_arms import START, STUDIES, Study, corl, paradigms

SMALL = ["train.max_steps=10", "train.batch_size=4", "sampling.group_size=2", "eval.probes.items=4"]


def small(name: str, *overrides: str) -> Recipe:
    return load(f"study/{name}", [*SMALL, *overrides])


@pytest.mark.parametrize("kind", STUDIES)
def test_parents_come_first_and_every_row_reads_arms_that_are_made(kind: str) -> None:
    study = STUDIES[kind](small(kind))
    made: set[str] = set()
    for arm in study.arms.values():
        assert set(arm.parents) <= made
        made.add(arm.name)
    assert {arm for row in study.rows for arm in row.arms} <= made
    assert all(len(row.arms) == len(study.abilities) for row in study.rows)


def test_paradigms_take_the_same_number_of_samples() -> None:
    study = paradigms(small("paradigms"))
    budgets = {row.title: study.budget(row) for row in study.rows}
    assert budgets["start"] == (0, 0)
    assert budgets["unified"] == (10, 10 * 4 * 2 * 2)
    for paradigm in ("separate", "merging", "cycle"):
        assert budgets[paradigm] == (20, 10 * 4 * 2 * 2)
    assert budgets["separate: the model that draws"] == (10, 80)


def test_optimiser_steps_count_every_pass_over_a_batch() -> None:
    study = paradigms(small("paradigms", "algo.num_iterations=3", "algo.clip_eps=0.2"))
    budgets = {row.title: study.budget(row) for row in study.rows}
    assert budgets["unified"] == (30, 10 * 4 * 2 * 2)
    assert budgets["cycle"] == (60, 10 * 4 * 2 * 2)


def test_a_paradigm_differs_from_unified_in_its_tasks_alone() -> None:
    study = paradigms(small("paradigms", "algo.credit=joint"))
    unified = _recipe(study, "unified")
    assert unified.algo.credit == "joint"
    alone = diff(unified, _recipe(study, "separate-mm2t"))
    assert alone.pop("rewards.t2i")[1] == []  # no model of a reward of drawings is loaded to train answers
    assert alone.keys() - {key for key in alone if key.startswith("rewards.t2i")} == {
        "name", "train.tasks", "algo.credit"
    }  # fmt: skip
    turns = _recipe(study, "cycle")
    assert turns.train.cycle is not None
    assert turns.train.max_steps == 20
    assert all(arm.recipe.eval.probes is None for arm in study.arms.values() if arm.recipe)


def test_stages_follow_each_other_and_have_their_own_settings() -> None:
    study = corl(small("corl", "study.sft.optim.lr=1e-3"))
    second = _recipe(study, "corl-mcq")
    assert study.arms["corl-mcq"].parents == ("unified",)
    assert study.arms["refined-mcq"].parents == ()
    assert (second.algo.beta, second.sampling.group_size, second.data.answer_types) == (0.02, 16, ["mc"])
    assert _recipe(study, "unified").algo.beta == 0.0
    assert study.arms["corl-merged"].parents == ("corl-mcq", "corl-oe")
    sft = _recipe(study, "sft")
    assert (sft.train.method, sft.optim.lr) == ("sft", 1e-3)
    assert study.arms["sft"].samples == 0
    only = _recipe(study, "only-cycle-t2i")
    assert [spec.name for spec in only.rewards.t2i] == ["cycle"]
    assert study.arms["only-cycle-t2i"].parents == ("only-cycle-unified",)


def test_a_row_pays_for_all_that_its_models_stand_on_once() -> None:
    study = corl(small("corl"))
    budgets = {row.title: study.budget(row) for row in study.rows}
    first, second = 10 * 4 * 2 * 2, 10 * 4 * 16
    assert budgets["unified only"] == (10, first)
    assert budgets["refined only"] == (30, 3 * second)
    assert budgets["refined after unified"] == (40, first + 3 * second)
    assert budgets["refined after unified: merged"] == (30, first + 2 * second)
    assert budgets["cold SFT"] == (10, 0)


def test_every_reason_why_a_recipe_is_none_of_a_study_is_given() -> None:
    recipe = small("paradigms", "train.tasks=[t2i]", "algo.dynamic_sampling=2", "eval.probes.rewards.mm2t=[]")
    with pytest.raises(UsageError) as caught:
        paradigms(recipe)
    assert [line.split(":")[0].strip() for line in caught.value.message.splitlines()] == [
        "train", "eval.probes.rewards.mm2t", "algo.dynamic_sampling"
    ]  # fmt: skip


def test_a_wrong_key_of_stage_two_is_named() -> None:
    with pytest.raises(UsageError, match=r"optim\.lrr: unknown key; did you mean optim\.lr"):
        corl(small("corl", "study.refined.optim.lrr=1"))


def test_the_table_by_hand(tmp_path: Path) -> None:
    recipe = small("paradigms", "study.seeds=[0,1]")
    study = paradigms(recipe)
    _read(tmp_path, START, [0, 0, 1, 1], [0, 1, 0, None])
    for seed, draws in enumerate(([1, 1, 1, 1], [1, 1, 1, 0])):
        for arm in study.arms:
            answers = [1, 1, 1, None] if arm == "separate-mm2t" else [0, 0, 0, None]
            if arm != START:
                _read(tmp_path, f"{arm}-seed-{seed}", draws, answers)
    study_report.write(study, recipe, tmp_path, through=1)
    results = json.loads((tmp_path / study_report.RESULTS).read_text())
    rows = {row["title"]: row["cells"] for row in results["rows"] if row["temperature"] == "1"}
    assert rows["start"]["drawing"]["score"]["mean"] == 0.5
    assert rows["start"]["answering"]["score"]["mean"] == pytest.approx(1 / 3)
    assert rows["unified"]["drawing"]["score"]["mean"] == 7 / 8
    assert rows["unified"]["drawing"]["change"]["mean"] == 3 / 8
    assert rows["unified"]["answering"]["change"]["mean"] == pytest.approx(-1 / 3)
    assert rows["separate"]["answering"]["score"]["mean"] == 1  # of the model that learnt to answer
    assert rows["separate: the model that draws"]["answering"]["score"]["mean"] == 0
    assert rows["separate"]["mean"]["score"]["mean"] == pytest.approx((7 / 8 + 1) / 2)
    assert rows["separate"]["answering"]["change"]["low"] >= 0
    assert (results["seeds"], results["missing_seeds"]) == ([0, 1], [])
    text = (tmp_path / study_report.TABLE).read_text()
    assert "| unified | 1 | 10 | 160 | 0.875  +0.375 [" in text
    assert "2 seeds (0, 1) and 4 held-out items: drawing is checker, answering is accuracy" in text
    assert (tmp_path / study_report.FIGURE).stat().st_size > 10_000


def test_after_the_first_seed_there_is_a_table_of_it(tmp_path: Path) -> None:
    recipe = small("paradigms", "study.seeds=[5,6]")
    study = paradigms(recipe)
    for name in [START, *(f"{arm}-seed-5" for arm in study.arms if arm != START)]:
        _read(tmp_path, name, [0, 1], [1, 0])
    study_report.write(study, recipe, tmp_path, through=5)
    results = json.loads((tmp_path / study_report.RESULTS).read_text())
    assert (results["seeds"], results["missing_seeds"]) == ([5], [6])
    assert "held-out items alone" in results["caption"]


def _recipe(study: Study, arm: str) -> Recipe:
    recipe = study.arms[arm].recipe
    assert recipe is not None
    return recipe


def _read(folder: Path, name: str, draws: list[int], answers: list[int | None]) -> None:
    """A reading of both abilities, the same at both temperatures; the first half of the items is mc."""
    items = [f"test-{index}" for index in range(len(draws))]
    kinds = ["mc" if index < len(items) / 2 else "oe" for index in range(len(items))]
    scores = [
        {"task": task, "score": score, "temperature": t, "items": items, "answer_types": kinds, "values": values}
        for task, score, values in [("t2i", "checker", draws), ("mm2t", "accuracy", answers)]
        for t in (1.0, 0.3)
    ]
    file = study_report.reading_file(folder, name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"checkpoint": "x", "scores": scores}))
