"""The paper's numbers: complete, and on the scale of the benchmark that they stand beside."""

from __future__ import annotations

import pytest

from corl_cli.eval import BENCHMARKS
from corl_cli.eval.paper import BASELINE, TRAINED, rows


def test_all_twelve_benchmarks_have_both_models_and_the_world_has_none():
    for name in BENCHMARKS:
        models = [row.model for row in rows(name)]
        assert models == ([] if name == "world" else [BASELINE, TRAINED])
    assert rows("my_package.mine:Mine") == []


def test_known_numbers_stand_in_their_place():
    before, after = rows("geneval")
    assert (before.overall, after.overall) == (0.73, 0.77)
    assert (before.groups["counting"], after.groups["counting"]) == (0.51, 0.71)
    assert [row.overall for row in rows("dpg")] == [82.63, 83.92]
    assert [row.overall for row in rows("wemath")] == [5.9, 21.1]


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "world"])
def test_training_helped_on_every_benchmark_and_groups_frame_what_is_overall(name):
    before, after = rows(name)
    assert before.overall < after.overall
    assert before.groups.keys() == after.groups.keys()
    assert "2505.17534" in before.source
