"""The page about evaluations: what it tells, what it must not hide, and how large it may get."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from results import Result, question

from corl_cli.core.errors import CorlError
from corl_cli.pipelines.eval_report import PICTURES, rows, write
from corl_cli.pipelines.eval_samples import PROMPTS, common_ending, mark, spread

TAGS = {"a": "two_object", "b": "two_object", "c": "counting"}
GENEVAL = Result(values={"a": [1, 0], "b": [1, 1], "c": [0, 0]}, groups=TAGS, reason="found one clock")


def page(folder) -> str:
    """The text of the page with runs of white space as one blank, and without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", write(folder).read_text(), flags=re.DOTALL))


def test_a_result_stands_beside_the_papers_with_its_groups(tmp_path):
    GENEVAL.write(tmp_path)
    text = page(tmp_path)
    assert "GenEval: tiny-janus" in text
    assert "overall 3 0.500 0.73 0.77" in text
    assert "Janus-Pro-1B (paper) ULM-R1 (paper)" in text
    assert re.search(r"two_object 2 0\.750 0\.82 0\.85", text)
    assert re.search(r"counting 1 0\.000 0\.51 0\.71", text)
    assert "Prompts: file prompts.jsonl. Scorer: detector a tiny one." in text
    assert "generated 4 samples/s scored 8 samples/s" in text
    assert "Not comparable" not in text
    assert "Overview" not in text


def test_a_number_without_a_group_of_its_own_is_of_no_number_of_items(tmp_path):
    replace(GENEVAL, headline={"correct prompts": 0.25}).write(tmp_path)
    assert re.search(r"overall 3 0\.500 .*correct prompts 0\.250 two_object 2 ", page(tmp_path))


def test_a_stand_in_says_that_it_is_one(tmp_path):
    replace(GENEVAL, comparable=False).write(tmp_path)
    text = page(tmp_path)
    why = "other prompts or another scorer than the paper's"
    assert f"Not comparable with published numbers The reason: {why.replace(chr(39), '&#39;')}." in text
    assert "beside numbers that are not comparable with them" in text
    assert "items only" not in text
    assert rows(tmp_path)[0]["comparable"] == f"no: {why}"


def test_a_part_of_the_items_says_how_many_they_are(tmp_path):
    replace(GENEVAL, limit=3, items_of=553).write(tmp_path)
    text = page(tmp_path)
    assert "The reason: 3 of 553 items only." in text
    assert "another scorer" not in text
    assert rows(tmp_path)[0]["comparable"] == "no: 3 of 553 items only"


def test_both_reasons_are_told(tmp_path):
    replace(GENEVAL, comparable=False, limit=3, items_of=553).write(tmp_path)
    assert rows(tmp_path)[0]["comparable"] == (
        "no: 3 of 553 items only, and other prompts or another scorer than the paper's"
    )


def test_what_the_paper_does_not_report_warns_of_nothing(tmp_path):
    replace(GENEVAL, benchmark="world", title="World", comparable=False, limit=3, items_of=9).write(tmp_path)
    text = page(tmp_path)
    assert "omparable" not in text
    assert "3 of 9" in text
    assert rows(tmp_path)[0]["comparable"] is None


def test_prompts_and_scorer_are_named_once_and_without_their_digests(tmp_path):
    prompts = {"source": f"the world's, sha256 {'0123456789' * 4}"}
    scorer = {**prompts, "threshold": 0.3, "clip": "x", "deep": {"detector": "x"}}
    replace(GENEVAL, prompts=prompts, scorer=scorer).write(tmp_path)
    assert "Prompts: the world&#39;s, sha256 01234567. Scorer: clip x, detector x." in page(tmp_path)


def test_the_page_stands_alone_and_shows_prompts_as_text(tmp_path):
    item = lambda item: replace(item, prompt="<script>alert(1)</script>")  # noqa: E731
    replace(GENEVAL, item=item, reason='<img src="http://elsewhere">').write(tmp_path)
    html = write(tmp_path).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert all(address.startswith("data:image/") for address in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"@import|url\(http", html)


def test_all_samples_of_a_drawn_prompt_are_marked_with_their_reason(tmp_path):
    GENEVAL.write(tmp_path)
    html = write(tmp_path).read_text()
    assert html.count("<img") == 6
    assert re.findall(r'var\(--\w+\)">(\w+)</span> found one clock', html) == [
        *("right", "wrong", "right", "right", "wrong", "wrong")
    ]


def test_a_drawing_that_cannot_be_read_does_not_stop_the_page(tmp_path):
    store = GENEVAL.write(tmp_path)
    store.image("a", 0).write_bytes(b"torn")
    store.image("a", 1).unlink()
    assert page(tmp_path).count("no picture") == 2


def test_pictures_are_few_however_many_there_are(tmp_path):
    names = [f"{number:03d}" for number in range(90)]
    values = {name: [1, 0] for name in names}
    one = Result(values=values, groups={name: f"tag {int(name) % 2}" for name in names}, image_size=8)
    one.write(tmp_path / "one")
    assert write(tmp_path / "one").read_text().count("<img") == 2 * 2 * PROMPTS
    many = replace(one, values={name: [1] * 8 for name in names}, groups={name: f"tag {name}" for name in names})
    many.write(tmp_path / "many")
    assert 0 < write(tmp_path / "many").read_text().count("<img") <= PICTURES


def test_large_pictures_are_made_small(tmp_path):
    replace(GENEVAL, image_size=512).write(tmp_path)
    html = write(tmp_path).read_text()
    assert html.count('src="data:image/webp') == 6
    assert html.count('class="large"') == 6


def test_what_failed_is_told_by_reason_with_examples(tmp_path):
    values = {"a": [None, 1], "b": [None, 1], "c": [0, 0]}
    replace(GENEVAL, values=values).write(tmp_path / "refused")
    text = page(tmp_path / "refused")
    assert "2 of 6 samples have no value" in text
    assert "2 samples: the detector broke For example a: a photo of a; b: a photo of b" in text
    assert "There is no overall number" in text
    assert rows(tmp_path / "refused")[0]["overall"] is None
    replace(GENEVAL, values=values, allow_partial=True).write(tmp_path / "partial")
    assert "over fewer than all samples" in page(tmp_path / "partial")


def test_wrong_answers_stand_with_question_answer_and_reason(tmp_path):
    values = {"x": [0], "y": [1]} | {name: [0.5] for name in "zabcde"}
    Result(benchmark="mmmu", title="MMMU", scale=100.0, values=values, item=question, reason="no").write(tmp_path)
    text = page(tmp_path)  # the error is 100 times the root of (0.25 + 0.25) / 7 / 8
    assert "overall 8 50.0 ± 9.4 36.3 42.3" in text
    assert re.search(r"What is x\? wrong no all answer to x", text)
    assert re.search(r"What is z\? 0\.50 no all answer to z", text)
    assert "What is y?" not in text


def test_checkpoints_of_one_protocol_stand_side_by_side(tmp_path):
    GENEVAL.write(tmp_path / "before")
    replace(GENEVAL, values={"a": [1, 1], "b": [1, 1], "c": [1, 0]}, checkpoint="trained").write(tmp_path / "after")
    replace(GENEVAL, scorer={"detector": "another"}).write(tmp_path / "other")
    text = page(tmp_path)
    assert "Overview" in text
    assert re.search(r"GenEval yes 3 0\.833 0\.500 0\.73 0\.77 GenEval yes 3 0\.500", text)
    assert [row["checkpoint"] for row in rows(tmp_path)] == ["trained", "tiny-janus", "tiny-janus"]
    GENEVAL.write(tmp_path / "again")
    assert "trained tiny-janus (again) tiny-janus (before)" in page(tmp_path)


def test_rows_are_numbers_beside_the_papers(tmp_path):
    replace(GENEVAL, benchmark="world", title="World").write(tmp_path / "world")
    GENEVAL.write(tmp_path / "geneval")
    first, second = rows(tmp_path)
    assert (first["benchmark"], first["overall"], first["ULM-R1"], first["comparable"]) == ("GenEval", 0.5, 0.77, "yes")
    assert (second["benchmark"], second["ULM-R1"], second["comparable"]) == ("World", None, None)
    assert list(first)[2:4] == ["overall", "comparable"]
    assert "Janus-Pro-1B (paper)" in page(tmp_path)
    assert "(paper)" not in page(tmp_path / "world")


def test_a_folder_without_a_result_is_one_clear_line(tmp_path):
    with pytest.raises(CorlError, match="holds no result"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("value", "word"), [(None, "failed"), (0.0, "wrong"), (0.25, "0.25"), (1.0, "right"), (0.999, "1.00")]
)
def test_marks(value, word):
    assert mark(value).word == word
    assert (mark(value).colour == "good") == (value == 1)


def test_things_are_spread_evenly():
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([], 5) == []


def test_an_instruction_that_all_questions_share_is_found_word_by_word():
    instruction = "Answer with the option's letter, and nothing else."
    assert common_ending([f"How many? {instruction}", f"Which colour?\n{instruction}"]) == instruction
    assert common_ending([f"Is it red? {instruction}", instruction]) == "with the option's letter, and nothing else."
    assert common_ending([instruction, instruction]) == ""
    assert common_ending(["Is it red? Say.", "Is it blue? Say."]) == ""
    assert common_ending([]) == ""
