"""Two results against each other: by hand, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import Result, question

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.eval.base import Item
from corl_cli.eval.compare import compare, compare_all, remarks, results, rows

COLOUR, COUNT = "abcdefgh", "ijklmnop"
GROUPS = dict.fromkeys(COLOUR, "colour") | dict.fromkeys(COUNT, "count")
BEFORE = Result(
    values={name: [1, 0] if name in "efgh" else [0, 0] for name in GROUPS},
    groups=GROUPS,
    weights={"colour": 3.0, "count": 1.0},
    image_size=8,
)
AFTER = replace(
    BEFORE,
    values={name: [1, 1] if name in "abcd" else [1, 0] for name in GROUPS},
    checkpoint="trained",
)


def test_a_difference_by_hand(tmp_path):
    found = compare(BEFORE.write(tmp_path / "a"), AFTER.write(tmp_path / "b"))
    # Items of colour: four 0 -> 1, four 0.5 -> 0.5; of count: all 0 -> 0.5. Groups: 0.25 -> 0.75, 0 -> 0.5, as 3 to 1.
    assert (found.overall.a, found.overall.b) == (0.75 * 0.25, 0.75 * 0.75 + 0.25 * 0.5)
    assert found.overall.change.mean == 0.5
    # Of 8 items that changed by 0 or 1, drawn anew, none changed in 0.4 % of the cases and at most one in 3.5 %.
    colour, count = found.groups
    assert (colour.group, colour.items, colour.change.low, colour.change.high) == ("colour", 8, 1 / 8, 7 / 8)
    assert (count.a, count.b, count.change.low, count.change.high) == (0, 0.5, 0.5, 0.5)
    ends = found.overall.change.low, found.overall.change.high
    assert ends == pytest.approx((0.75 / 8 + 0.125, 0.75 * 7 / 8 + 0.125))
    assert (found.a.checkpoint, found.b.checkpoint) == ("tiny-janus", "trained")
    assert not found.own_headline
    assert found.abilities == []


def test_groups_without_weights_count_item_by_item_on_the_benchmarks_scale(tmp_path):
    groups = dict.fromkeys(GROUPS, "colour") | {"p": "count"}
    a, b = (
        replace(result, weights=None, groups=groups, scale=100.0).write(tmp_path / name)
        for name, result in (("a", BEFORE), ("b", AFTER))
    )
    found = compare(a, b)
    assert (found.overall.a, found.overall.b) == (100 * 2 / 16, 100 * (4 + 2 + 4) / 16)
    assert found.overall.change.mean == 50
    assert found.overall.change.high > found.overall.change.low
    alone = found.groups[1]
    assert (alone.group, alone.items, alone.change.mean) == ("count", 1, 50)
    assert math.isnan(alone.change.low)
    assert rows(found)[2]["low"] is None
    assert any("no interval over fewer than 8 items" in line for line in remarks(found))


@pytest.mark.parametrize(("few", "known"), [(7, False), (8, True)])
def test_no_interval_is_told_of_fewer_than_eight_items(tmp_path, few, known):
    some = [*COLOUR, *COUNT[:few]]
    a, b = (
        replace(result, values={name: result.values[name] for name in some}).write(tmp_path / result.checkpoint)
        for result in (BEFORE, AFTER)
    )
    found = compare(a, b)
    assert [line.change.low == line.change.low for line in found.lines] == [known, True, known]
    assert [row["clear"] for row in rows(found)] == ["yes" if known else "", "yes", "yes" if known else ""]
    assert found.overall.change.mean == 0.5
    assert any("no interval" in line for line in remarks(found)) != known


def test_a_group_without_a_weight_in_the_number_does_not_take_its_interval(tmp_path):
    some = [*COLOUR, "i"]
    a, b = (
        replace(
            result, values={name: result.values[name] for name in some}, weights={"colour": 1.0, "count": 0.0}
        ).write(tmp_path / result.checkpoint)
        for result in (BEFORE, AFTER)
    )
    overall = compare(a, b).overall
    assert (overall.change.low, overall.change.high) == (1 / 8, 7 / 8)
    assert (overall.a, overall.b) == (0.25, 0.75)


def test_both_abilities_have_a_line_where_there_are_items_of_both(tmp_path):
    def asked(item: Item) -> Item:
        return question(item) if item.group == "count" else item

    groups = GROUPS | dict.fromkeys("ab", "shape")
    a, b = (
        replace(result, item=asked, groups=groups, weights=None).write(tmp_path / result.checkpoint)
        for result in (BEFORE, AFTER)
    )
    found = compare(a, b)
    assert [(line.group, line.items) for line in found.lines] == [
        *[("overall", 16), ("drawing", 8), ("answering", 8)],
        *[("shape", 2), ("colour", 6), ("count", 8)],
    ]
    drawing, answering = found.abilities
    assert (drawing.a, drawing.b, drawing.change.low, drawing.change.high) == (0.25, 0.75, 1 / 8, 7 / 8)
    assert (answering.a, answering.b, answering.change.low) == (0, 0.5, 0.5)
    assert not any("one in twenty" in line for line in remarks(found))  # of four


def test_many_intervals_are_told_to_exclude_0_by_chance(tmp_path):
    groups = {f"{group}{n}": f"group {group}" for group in range(4) for n in range(8)}
    result = Result(values={name: [n % 2] for n, name in enumerate(groups)}, groups=groups, image_size=8)
    found = compare(result.write(tmp_path / "a"), result.write(tmp_path / "b"))
    assert {row["clear"] for row in rows(found)} == {""}
    assert any("Of 5 intervals about one in twenty excludes 0 by chance" in line for line in remarks(found))


def test_limits_that_differ_are_named(tmp_path):
    a, b = replace(BEFORE, limit=16).write(tmp_path / "a"), AFTER.write(tmp_path / "b")
    assert any("A with --limit 16, B without --limit" in line for line in remarks(compare(a, b)))
    assert not any("--limit" in line for line in remarks(compare(a, a)))


def test_overall_is_that_of_the_result_where_nothing_is_left_out(tmp_path):
    a, b = BEFORE.write(tmp_path / "a"), AFTER.write(tmp_path / "b")
    found = compare(a, b)
    assert found.overall.a == pytest.approx(a.result()["overall"])
    assert found.overall.b == pytest.approx(b.result()["overall"])


def test_the_table_has_a_line_for_each_group(tmp_path):
    table = rows(compare(BEFORE.write(tmp_path / "a"), AFTER.write(tmp_path / "b")))
    assert [row["group"] for row in table] == ["overall", "colour", "count"]
    shown = {"group": "count", "items": 8, "A": 0, "B": 0.5, "B - A": 0.5, "low": 0.5, "high": 0.5, "clear": "yes"}
    assert table[2] == shown


def test_items_that_failed_or_are_in_one_alone_are_left_out_and_told(tmp_path):
    a = replace(BEFORE, values=dict(BEFORE.values) | {"b": [None, None], "x": [1], "y": [1]})
    b = replace(AFTER, values=dict(AFTER.values) | {"a": [1, None], "z": [1]})
    weights = {"colour": 3.0, "count": 1.0, "all": 1.0}
    a, b = replace(a, weights=weights), replace(b, weights=weights)
    found = compare(a.write(tmp_path / "a"), b.write(tmp_path / "b"))
    assert (found.failed, found.only_a, found.only_b) == (2, 2, 1)
    assert found.groups[0].items == 6
    assert found.groups[0].b == (2 * 1 + 4 * 0.5) / 6  # an item with a sample that failed is in no mean
    assert found.a.overall is None
    told = " ".join(remarks(found))
    assert "2 items left out because a sample in one of them has no value" in told
    assert "2 items in A alone; 1 item in B alone" in told
    assert "no overall number of its own" in told


def test_a_benchmarks_own_number_stands_beside_the_mean(tmp_path):
    a = replace(BEFORE, headline={"overall": 0.9}).write(tmp_path / "a")
    b = replace(AFTER, headline={"overall": 0.8}).write(tmp_path / "b")
    found = compare(a, b)
    assert found.own_headline
    assert any("0.9 in A, 0.8 in B" in line for line in remarks(found))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"benchmark": "wise", "title": "WISE"}, " of WISE"),
        ({"variant": "verified"}, " of GenEval verified"),
        ({"prompts": {"file": "other.jsonl"}}, r'prompts\.file is "prompts\.jsonl" in A, "other\.jsonl" in B'),
        ({"scorer": {"detector": "another"}}, r"scorer\.detector"),
        ({"sampling": {"seed": 0, "t2i": {"cfg_weight": 1.0}}}, r"sampling\.t2i\.cfg_weight is 5\.0 in A, 1\.0 in B"),
        ({"values": {"z": [1]}}, "no item in common"),
        ({"item": question}, "16 items of one name differ, a for one"),
    ],
)
def test_what_is_not_alike_is_refused_by_name(tmp_path, change, named):
    a, b = BEFORE.write(tmp_path / "a"), replace(AFTER, weights=None, **change).write(tmp_path / "b")
    with pytest.raises(UsageError, match=named) as refused:
        compare(a, b)
    assert "\n" not in refused.value.message


def test_two_results_without_a_common_value_cannot_be_compared(tmp_path):
    a = replace(BEFORE, values={"a": [1], "b": [None]}).write(tmp_path / "a")
    b = replace(AFTER, values={"a": [None], "b": [1]}).write(tmp_path / "b")
    with pytest.raises(CorlError, match="None of the 2 common items"):
        compare(a, b)


def test_parents_are_paired_by_benchmark_and_variant(tmp_path):
    for place, result in (("a", BEFORE), ("b", AFTER)):
        result.write(tmp_path / place / "eval" / "geneval")
        replace(result, benchmark="wise", title="WISE", variant="legacy").write(tmp_path / place / "eval" / "wise")
    replace(BEFORE, benchmark="dpg").write(tmp_path / "a" / "dpg")
    found = compare_all(tmp_path / "a", tmp_path / "b")
    assert [(each.title, each.variant) for each in found] == [("GenEval", ""), ("WISE", "legacy")]
    assert len(compare_all(tmp_path / "a" / "eval" / "wise", tmp_path / "b")) == 1
    with pytest.raises(UsageError, match="no benchmark in common: dpg in A, geneval, wise legacy in B"):
        compare_all(tmp_path / "a" / "dpg", tmp_path / "b")
    BEFORE.write(tmp_path / "a" / "once-more")
    with pytest.raises(UsageError, match="geneval twice"):
        compare_all(tmp_path / "a", tmp_path / "b")


def test_results_are_found_by_path_and_their_lack_says_what_to_do(tmp_path):
    for name in ("z", "b/c", "b/a"):
        BEFORE.write(tmp_path / "all" / name)
    found = results(tmp_path / "all")
    assert [str(store.folder.relative_to(tmp_path / "all")) for store in found] == ["b/a", "b/c", "z"]
    assert [store.folder for store in results(tmp_path / "all" / "z")] == [tmp_path / "all" / "z"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorlError, match="holds no result") as nothing:
        results(tmp_path / "empty")
    assert "corl eval" in (nothing.value.hint or "")
    with pytest.raises(CorlError, match="is no folder"):
        results(tmp_path / "absent")
    (tmp_path / "all" / "z" / "result.json").unlink()
    with pytest.raises(CorlError, match="no summary yet"):
        results(tmp_path / "all" / "z")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=8, max_size=14))
def test_exchanging_the_two_turns_the_difference_round(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("pairs")
    a, b = (
        Result(values={f"i{n}": [pair[side]] for n, pair in enumerate(pairs)}, image_size=8).write(folder / "ab"[side])
        for side in (0, 1)
    )
    there, back = compare(a, b).overall.change, compare(b, a).overall.change
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low <= there.mean + 1e-12
    assert there.mean <= there.high + 1e-12
    same = compare(a, a).overall.change
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_a_trained_model_is_asked_for_its_thoughts_and_compared_with_a_baseline_that_was_not(tmp_path):
    def worded(words: str) -> Callable[[Item], Item]:
        return lambda item: replace(item, task="mm2t", prompt=f"{item.id}? {words}", data={"doc": item.id})

    values = {"a": [0.0], "b": [1.0], "c": [0.0]}
    plain = {"prompts": {"set": "x", "prompt": "plain"}, "item": worded("Answer with a letter.")}
    think = {"prompts": {"set": "x", "prompt": "think-answer"}, "item": worded("Think first.")}
    a = Result(values=values, **plain).write(tmp_path / "a")
    b = Result(values=values | {"a": [1.0]}, **think).write(tmp_path / "b")
    comparison = compare(a, b)
    assert comparison.overall.change.mean == pytest.approx(1 / 3)
    assert any('prompts.prompt is "plain" in A, "think-answer" in B' in remark for remark in remarks(comparison))


def test_another_record_under_the_same_name_is_another_item(tmp_path):
    def record(number: int) -> Callable[[Item], Item]:
        return lambda item: replace(item, task="mm2t", data={"doc": number})

    a = Result(values={"a": [0.0]}, item=record(1)).write(tmp_path / "a")
    b = Result(values={"a": [1.0]}, item=record(2)).write(tmp_path / "b")
    with pytest.raises(UsageError, match="not asked the same"):
        compare(a, b)


def test_an_item_with_a_failed_sample_is_left_out_so_that_nothing_changes_by_what_is_missing(tmp_path):
    values = {name: [1.0, 0.0] for name in "abcdefghij"}
    a = Result(values=values).write(tmp_path / "a")
    b = Result(values=values | {"a": [1.0, None], "b": [1.0, None]}, allow_partial=True).write(tmp_path / "b")
    comparison = compare(a, b)
    assert (comparison.overall.change.mean, comparison.failed, comparison.overall.items) == (0.0, 2, 8)
    assert not comparison.own_headline
