"""What answers come to: the original scorer's cases, dependencies, and the faults of a damaged file of questions."""

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError
from corl_cli.eval.dpg.questions import COLUMNS, Question, read, worth

CASES = json.loads((Path(__file__).parent / "cases" / "dpg.json").read_text())


@pytest.fixture
def file(tmp_path):
    """`file(rows)` writes dpg_bench.csv with the published columns; rows are as in the cases."""

    def write(rows, columns=COLUMNS):
        path = tmp_path / "dpg_bench.csv"
        with path.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["item_id", "text", "keywords", *columns[1:]] if columns is COLUMNS else columns)
            writer.writerows([row[0], "a prompt, with a comma", "", *row[1:]] for row in rows)
        return path

    return write


@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_the_original_scorers_cases(case, compatible, file):
    questions = read(file(CASES["rows"]), compatible=compatible)[case["item"]]
    rights = [{q.id: answers[q.text] == "yes" for q in questions} for answers in case["answers"]]
    values = [fmean(worth(questions, right).values()) for right in rights]
    expected = case["expected"]
    assert values == pytest.approx(expected["per_image"])
    assert fmean(values) == pytest.approx(expected["score"])
    assert {str(number): float(right) for number, right in rights[-1].items()} == expected["returned_for_categories"]


def test_the_original_skips_the_first_row_and_so_loses_the_item_that_needs_it(file):
    path = file(CASES["rows"])
    assert {item: [q.id for q in own] for item, own in read(path, compatible=False).items()} == {
        "item_first": [1, 2],
        "a": [1, 2, 3, 4, 5, 6],
    }
    assert list(read(path, compatible=True)) == ["a"]


def test_an_item_that_does_not_need_the_first_row_keeps_the_others(file):
    path = file([["x", 1, "0", "entity - whole (dog)", "A dog?"], ["x", 2, "0", "global - (photo)", "A photo?"]])
    assert [q.id for q in read(path, compatible=True)["x"]] == [2]


def question(number, *parents, about="entity - whole (dog)"):
    return Question(id=number, parents=parents, about=about, text=f"Q{number}?")


def test_a_no_takes_its_descendants_with_it():
    chain = [question(1), question(2, 1), question(3, 2), question(4)]
    assert worth(chain, {1: False, 2: True, 3: True, 4: True}) == {1: False, 2: False, 3: False, 4: True}
    assert worth(chain, {1: True, 2: False, 3: True, 4: False}) == {1: True, 2: False, 3: False, 4: False}


def test_a_parent_that_stands_later_counts_as_it_was_answered():
    asked = [question(1, 2), question(2, 3), question(3)]  # 2 falls with 3, but 1 has been looked at by then
    assert worth(asked, {1: True, 2: True, 3: False}) == {1: True, 2: False, 3: False}


@given(st.data())
def test_what_counts_was_answered_with_yes_and_so_were_all_it_depends_on(data):
    size = data.draw(st.integers(1, 8))
    asked = [
        question(n, *data.draw(st.sets(st.integers(1, n - 1), max_size=3) if n > 1 else st.just(set())))
        for n in range(1, size + 1)
    ]
    right = {q.id: data.draw(st.booleans()) for q in asked}
    counts = worth(asked, right)

    def holds(number):
        return right[number] and all(holds(parent) for parent in asked[number - 1].parents)

    assert counts == {q.id: holds(q.id) for q in asked}


@pytest.mark.parametrize(
    ("about", "broad", "detailed"),
    [
        ("entity - whole (apple)", "entity", "entity - whole"),
        ("relation - non-spatial (dog, cat, chase)", "relation", "relation - non-spatial"),
        ("global - (photo)", "global", "global"),
        ('other - text (sign, "STOP (now)")', "other", "other - text"),
    ],
)
def test_categories_of_both_levels(about, broad, detailed):
    assert (question(1, about=about).broad, question(1, about=about).detailed) == (broad, detailed)


def test_questions_survive_json():
    asked = question(4, 1, 3)
    assert Question.from_json(json.loads(json.dumps(asked.to_json()))) == asked


ROW = ["x", 1, "0", "entity - whole (dog)", "A dog?"]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([["x", 1, "3", *ROW[3:]]], "x: question 1 depends on 3, which is not there"),
        ([["x", 1, "2", *ROW[3:]], ["x", 2, "1", *ROW[3:]]], "circle: [12] -> [12] -> [12]"),
        ([["x", 1, "1", *ROW[3:]]], "circle: 1 -> 1"),
        ([ROW, ROW], "x has two questions 1"),
        ([["x", "one", *ROW[2:]]], "line 2: proposition_id and dependency must be whole numbers"),
        ([["x", 1, "1;2", *ROW[3:]]], "line 2: proposition_id and dependency must be whole numbers"),
        ([["x", 1, "", *ROW[3:]]], "line 2: dependency is empty"),
        ([["../x", *ROW[1:]]], "cannot be a file's name"),
    ],
)
def test_a_damaged_row_is_told_in_one_line(rows, fault, file):
    with pytest.raises(CorlError, match=fault) as error:
        read(file([*rows, ["y", *ROW[1:]]]), compatible=False)
    assert "\n" not in error.value.message
    assert error.value.hint


def test_a_column_that_is_missing_is_named(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text("item_id,proposition_id,dependency,tuple\nx,1,0,entity - whole (dog)\n")
    with pytest.raises(CorlError, match="has no column question_natural_language"):
        read(path, compatible=False)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "dpg_bench.csv"
    if content:
        path.write_bytes(content)
    with pytest.raises(CorlError, match="cannot be read") as error:
        read(path, compatible=False)
    assert "\n" not in error.value.message


def test_the_original_keeps_what_it_can_score(file):
    stranger, circle = ["b", 1, "7", *ROW[3:]], ["c", 1, "1", *ROW[3:]]
    assert list(read(file([ROW, stranger, circle, ["d", *ROW[1:]]]), compatible=True)) == ["c", "d"]
