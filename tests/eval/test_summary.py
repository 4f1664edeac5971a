"""Means over groups, their errors, and what failed: worked by hand."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from corl_cli.core.errors import CorlError
from corl_cli.core.section import Section
from corl_cli.eval.base import Benchmark, Item, Score, Setting, Work
from corl_cli.eval.store import Store
from corl_cli.eval.summary import summarise


class Plain(Benchmark):
    title, tasks, measure, scale = "Plain", ("t2i",), "the share of right ones", 100.0
    group_weights: dict[str, float] | None = None
    own: dict[str, float] = {}  # noqa: RUF012

    def items(self, folder: Path) -> list[Item]:
        return []

    def protocol(self) -> dict[str, str]:
        return {}

    def scorer(self) -> dict[str, str]:
        return {}

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        yield from ()

    def weights(self, groups: Sequence[str]) -> dict[str, float] | None:
        return self.group_weights

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        return self.own


VALUES = {("a", 0): 1.0, ("a", 1): 0.0, ("b", 0): 1.0, ("b", 1): 1.0, ("c", 0): 0.0, ("c", 1): 0.0}


def result(tmp_path: Path, values: dict[tuple[str, int], float | None], plain: type[Plain] = Plain, **options: bool):
    store = Store(tmp_path / "result")
    items = [Item(id=name, task="t2i", prompt=name, group="cd" if name > "b" else "ab", samples=2) for name in "abc"]
    facts = dict.fromkeys(("checkpoint", "sampling", "prompts", "scorer"), "it")
    store.create(facts | {"benchmark": "plain", "variant": "", "limit": None, "items_of": 3}, items, "")
    with store.scoring(0) as append:
        for (item, sample), value in values.items():
            append(Score(item=item, sample=sample, value=value, reason="" if value is not None else "it was torn"))
    benchmark = plain("plain", Section(), Setting())
    return summarise(benchmark, store, **({"allow_partial": False} | options))


def test_every_sample_counts_alike_without_weights(tmp_path):
    found = result(tmp_path, VALUES)
    assert found["overall"] == found["mean"] == pytest.approx(100 * 3 / 6)
    ab, cd = found["groups"]
    assert (ab["mean"], cd["mean"]) == (75.0, 0.0)
    assert ab["stderr"] is cd["stderr"] is found["stderr"] is None  # so few items may be alike by chance


def test_groups_are_weighed_where_the_benchmark_weighs_them(tmp_path):
    class Weighed(Plain):
        group_weights = {"ab": 1.0, "cd": 3.0}  # noqa: RUF012

    assert result(tmp_path, VALUES, Weighed)["overall"] == pytest.approx(75.0 / 4)


def test_a_number_of_the_benchmarks_own_takes_the_means_place(tmp_path):
    class Own(Plain):
        own = {"overall": 12.0, "f1": 0.5}  # noqa: RUF012

    found = result(tmp_path, VALUES, Own)
    assert (found["overall"], found["mean"], found["metrics"]) == (12.0, 50.0, {"f1": 0.5})


def test_one_failure_leaves_the_overall_out_until_a_part_is_asked_for(tmp_path):
    values = VALUES | {("a", 1): None}
    found = result(tmp_path, values)
    assert (found["overall"], found["mean"], found["metrics"]) == (None, None, {})
    assert (found["failed"], found["failures"], found["partial"]) == (1, {"it was torn": 1}, False)
    partial = result(tmp_path / "again", values, allow_partial=True)
    assert partial["overall"] == pytest.approx(100 * 3 / 5)
    assert partial["partial"] is True


def test_what_was_not_scored_failed(tmp_path):
    found = result(tmp_path, {key: value for key, value in VALUES.items() if key[0] != "c"})
    assert found["failures"] == {"it was not scored yet": 2}
    assert found["overall"] is None


def test_nothing_scored_is_no_result(tmp_path):
    with pytest.raises(CorlError, match="Nothing in"):
        result(tmp_path, {})


EIGHT = math.sqrt(8 * 0.25 / 7 / 8)  # four of eight items are right


def test_the_error_of_a_mean_of_items_and_of_a_group(tmp_path):
    found = eights(tmp_path, Plain)
    assert [group["stderr"] for group in found["groups"]] == pytest.approx([100 * EIGHT, 0.0])
    assert found["stderr"] == pytest.approx(100 * math.sqrt((12 * 0.25**2 + 4 * 0.75**2) / 15 / 16))  # 4 of 16 right


def test_the_error_of_a_mean_of_groups(tmp_path):
    class Weighed(Plain):
        group_weights = {"x": 1.0, "y": 3.0}  # noqa: RUF012

    assert eights(tmp_path, Weighed)["stderr"] == pytest.approx(100 * EIGHT / 4)


def eights(tmp_path: Path, plain: type[Plain]):
    store = Store(tmp_path / "result")
    items = [Item(id=f"{group}{n}", task="t2i", prompt="", group=group) for group in "xy" for n in range(8)]
    facts = dict.fromkeys(("checkpoint", "sampling", "prompts", "scorer"), "it")
    store.create(facts | {"benchmark": "plain", "variant": "", "limit": None, "items_of": 16}, items, "")
    with store.scoring(0) as append:
        for item in items:
            append(Score(item=item.id, sample=0, value=float(item.id in ("x0", "x1", "x2", "x3"))))
    return summarise(plain("plain", Section(), Setting()), store, allow_partial=False)


def test_another_number_than_the_mean_has_no_error_that_is_not_its_own(tmp_path):
    class Other(Plain):
        own = {"overall": 12.0}  # noqa: RUF012

    class Told(Plain):
        own = {"overall": 12.0, "stderr": 3.0}  # noqa: RUF012

    assert eights(tmp_path / "other", Other)["stderr"] is None
    assert eights(tmp_path / "told", Told)["stderr"] == 3.0
