"""Understanding benchmarks: requests, answers and scores that pass through lmms-eval in a process of its own."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import lmms_items
import pytest
from fake_judge import FakeJudge, error, settings, unused_port
from hypothesis import given
from hypothesis import strategies as st
from local_lmms import Shapes, save
from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.evaluation import Judge
from corl_cli.data.templates import INSTRUCTIONS
from corl_cli.eval import BENCHMARKS, bind, judge
from corl_cli.eval.base import Item, Setting, Work
from corl_cli.eval.understanding import bridge, data, judging
from corl_cli.eval.understanding.extraction import extract
from corl_cli.eval.understanding.tasks import TASKS

THINK = Setting(instructions={"mc": INSTRUCTIONS["think-answer-letter"], "oe": INSTRUCTIONS["think-answer-words"]})
with_lmms = pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed (corl[eval])")


def shapes(folder: Path, setting: Setting = THINK) -> Shapes:
    return Shapes("local_lmms:Shapes", Shapes.Options(data=str(folder)), setting)


# ---- the answer in an answer ----------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "tagged"),
    [
        ("B", "B", False),
        ("<think>A or B?</think><answer> B </answer>", "B", True),
        ("<think>x</think>\n<answer>A</answer> no: <answer>C</answer>", "C", True),
        ("<answer>A <answer>B</answer>", "B", True),
        ("<think>so it is</think> red.", "red.", False),
        ("<think>a <think>b</think> c</think> d", "d", False),
        ("<think>never ends", "<think>never ends", False),
        ("<answer>cut of", "<answer>cut of", False),
        ("<ANSWER>two\nlines</ANSWER>", "two\nlines", True),
        ("<answer></answer>", "", True),
        ("", "", False),
    ],
)
def test_the_last_answer_block_is_the_answer_else_what_follows_the_thought(text, answer, tagged):
    assert extract(text) == (answer, tagged)


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="<>"), max_size=20))
def test_an_answer_in_tags_is_found_after_any_text(thought, answer):
    assert extract(f"{thought}<answer>{answer}</answer>") == (answer.strip(), True)


# ---- what is needed ----------------------------------------


def test_all_nine_are_registered_and_say_how_they_ask_and_score():
    for name in TASKS:
        benchmark = bind(name, {}, Setting())
        assert json.loads(json.dumps(benchmark.protocol()))["prompt"] == "plain"
        assert json.loads(json.dumps(benchmark.scorer()))["metric"] == TASKS[name].headline
        assert benchmark.calls(5) == (5 if TASKS[name].judged else 0)
    assert set(TASKS) < set(BENCHMARKS)


def test_instructions_make_the_protocol_another_one():
    assert bind("mmmu", {}, THINK).protocol()["prompt"] == "think-answer"
    assert bind("mmmu", {}, THINK).protocol() != bind("mmmu", {}, Setting()).protocol()


def test_missing_data_are_named_with_the_next_thing_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    need = data.requirement("mmmu", None, TASKS["mmmu"])
    assert need.state == "missing"
    assert "--set eval.benchmarks.mmmu.data=DIR" in need.remedy
    assert data.requirement("mmmu", str(tmp_path / "none"), TASKS["mmmu"]).detail.startswith("there is no folder")
    assert "holds no records" in data.requirement("mmmu", str(tmp_path), TASKS["mmmu"]).detail
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert data.requirement("mmmu", None, TASKS["mmmu"]).state == "download"


def taken(folder: Path, name: str) -> list[str]:
    [found] = data.overrides(folder, TASKS[name])["dataset_kwargs"]["data_files"].values()
    return [Path(file).relative_to(folder).as_posix() for file in found]


@pytest.mark.parametrize(
    ("name", "files", "wanted"),
    [
        ("mathvision", ["data/test-00000-of-00001-ab12.parquet", "data/testmini-00000-of-00001-cd34.parquet"], [0]),
        ("mathverse", ["testmini_text_only.parquet", "testmini_vision_only.parquet", "testmini.parquet"], [1]),
        ("mathvista", ["data/test-0.parquet", "data/testmini-0.parquet", "data/testmini-1.parquet"], [1, 2]),
        ("mmmu", ["Art/dev-0.parquet", "Art/validation-0.parquet", "Music/validation-0.parquet"], [1, 2]),
        ("pope", ["Full/popular-0.parquet", "data/test-0.parquet"], [1]),
        ("mmmu", ["default/test/0000.parquet", "default/validation/0000.parquet"], [1]),
        ("mmstar", ["mmstar.parquet"], [0]),
        ("mmstar", ["mmstar-00000-of-00002.parquet", "mmstar-00001-of-00002.parquet"], [0, 1]),
        ("mmstar", ["0000.parquet", "0001.parquet"], [0, 1]),
    ],
)
def test_the_splits_own_files_are_taken_or_the_only_ones_where_these_name_none(name, files, wanted, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert taken(tmp_path, name) == [files[place] for place in wanted]


@pytest.mark.parametrize(
    ("name", "files", "told"),
    [
        ("mmmu", ["dev-0.parquet", "test-0.parquet", "test-1.parquet"], "holds dev, test, not the split validation"),
        ("mathvision", ["data/testmini-0.parquet"], "holds data/testmini, not the split test"),
        ("mathverse", ["testmini.parquet"], "holds testmini, not the split vision_only"),
        ("mmstar", ["english.parquet", "korean.parquet"], "holds english, korean, not the split val"),
    ],
)
def test_another_split_is_never_read_for_the_one_that_is_asked(name, files, told, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(CorlError, match=told) as raised:
        data.overrides(tmp_path, TASKS[name])
    assert "hf download" in raised.value.hint
    assert told in data.requirement(name, str(tmp_path), TASKS[name]).detail


def test_of_a_saved_set_its_own_files_are_taken_and_of_saved_splits_the_wanted_one(tmp_path):
    rows = datasets.Dataset.from_dict({"question": ["?"]})
    rows.save_to_disk(tmp_path / "one")
    (tmp_path / "one" / "cache-0123456789abcdef.arrow").touch()
    assert taken(tmp_path / "one", "mmmu") == ["data-00000-of-00001.arrow"]
    datasets.Dataset.from_dict({"question": ["?"]}, split="test").save_to_disk(tmp_path / "test")
    with pytest.raises(CorlError, match="holds test, not the split validation"):
        data.overrides(tmp_path / "test", TASKS["mmmu"])
    datasets.DatasetDict({"dev": rows, "test": rows}).save_to_disk(tmp_path / "two")
    with pytest.raises(CorlError, match="holds dev, test, not the split validation"):
        data.overrides(tmp_path / "two", TASKS["mmmu"])
    assert data.overrides(tmp_path / "two", TASKS["pope"])["dataset_kwargs"] == {"load_from_disk": True}


def test_the_papers_number_stands_beside_the_hubs_data_without_a_judge_of_ones_own(tmp_path):
    judged = Setting(judge=Judge(model="m", key_variable=None))
    unlike = {name for name in TASKS if not bind(name, {}, judged).comparable}
    assert unlike == {"mmvet", "mathvista", "mathverse"}
    here, there = (bind("mmmu", {"data": str(tmp_path / name)}, Setting()) for name in ("a", "b"))
    assert not here.comparable
    assert here.protocol() == there.protocol() != bind("mmmu", {}, Setting()).protocol()


@pytest.mark.parametrize("name", ["mmvet", "mathvista", "mathverse"])
def test_a_judged_benchmark_without_a_judge_says_so_and_how_to_give_one(name):
    [need] = [need for need in bind(name, {}, Setting()).scorers() if need.name == "a judge"]
    assert need.state == "missing"
    assert "eval.judge.model" in need.remedy
    given = bind(name, {}, Setting(judge=Judge(model="m", key_variable=None)))
    assert "a judge" not in [need.name for need in given.scorers()]
    assert given.scorer()["judge"]["model"] == "m"


# ---- what a judge says ----------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [("0.5", "0.5"), (" **1.0** ", "1.0"), ("| 0.0 |", "0.0"), ("Correctness: 0.7.", "0.7"), ("1", "1")],
)
def test_a_grade_is_read(said, meant):
    assert judging.grade(said) == meant


@pytest.mark.parametrize("said", ["5", "1.5", "0.5-0.7", "half", "", "-0.1", "0.5 out of 1", "1e0", "nan"])
def test_what_is_no_grade_is_refused(said):
    with pytest.raises(ValueError, match="no grade"):
        judging.grade(said)


@pytest.mark.parametrize("said", ["0 out of 1", "10", "yes", "", "0.1", "-1"])
def test_what_is_no_verdict_is_refused(said):
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        judging.verdict(said)


# ---- a small task of its own ----------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The small task, its result folder, and what it asks, with the paper's instruction."""
    folder = tmp_path_factory.mktemp("shapes")
    benchmark = shapes(save(folder / "data"))
    items = benchmark.items(folder)
    benchmark.prepare(items[:2], folder)
    return benchmark, folder, items


@pytest.fixture(scope="module")
def scored(asked):
    benchmark, folder, items = asked
    texts = {
        "00000": ["<think>it is</think><answer>RED</answer>", "red", "<think>hm</think> blue"],
        "00001": ["<answer>(A)</answer>", "<answer>B. right</answer>"],
        "00002": ["<answer>3 m</answer>"],
    }
    work = [Work(item=item, sample=sample, output=text) for item in items for sample, text in enumerate(texts[item.id])]
    return list(benchmark.score(work, folder))


@with_lmms
def test_questions_are_asked_in_the_recipes_words_with_their_images_in_one_picture(asked):
    _, folder, items = asked
    assert [item.group for item in items] == ["oe", "mc", "oe"]
    assert items[0].prompt == f"What colour?\n{INSTRUCTIONS['think-answer-words']}"
    assert items[1].prompt.endswith(INSTRUCTIONS["think-answer-letter"])
    assert all(item.max_new_tokens is None for item in items)
    with Image.open(folder / items[0].image) as one, Image.open(folder / items[1].image) as two:
        assert one.size == (20, 10)
        assert two.size == (20 + 16 + 8, 12)
        assert [two.getpixel(place) for place in [(0, 0), (25, 5), (40, 11)]] == [(255, 0, 0), (255,) * 3, (0, 0, 255)]
    assert {path.name for path in (folder / "inputs").iterdir()} == {"00000.png", "00001.png"}  # the chosen ones


@with_lmms
def test_a_record_without_an_image_is_named(tmp_path):
    folder = save(tmp_path / "data")
    rows = datasets.Dataset.from_parquet(str(folder / "test-00000.parquet")).to_list()
    features = datasets.Dataset.from_parquet(str(folder / "test-00000.parquet")).features
    rows[2]["first"] = None
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test-00000.parquet")
    item = Item(id="00002", task="mm2t", prompt="?", group="oe", image="inputs/00002.png", data={"doc": 2})
    with pytest.raises(CorlError, match=r"record 2 of .* cannot be asked: ValueError: it has no image"):
        shapes(folder).prepare([item], tmp_path)


@with_lmms
def test_answers_are_scored_by_the_task_after_its_filters_and_a_record_that_fails_stops_no_other(scored):
    values = {(score.item, score.sample): score.value for score in scored}
    assert values == {
        ("00000", 0): 1.0,
        ("00000", 1): 1.0,
        ("00000", 2): 0.0,
        ("00001", 0): 1.0,
        ("00001", 1): 0.0,
        ("00002", 0): None,
    }
    assert "ValueError: this record has no answer" in scored[-1].reason
    assert [score.details["tagged"] for score in scored[:3]] == [True, False, False]


@with_lmms
def test_the_headline_is_the_tasks_own_aggregate_of_what_was_kept(asked, scored):
    benchmark, folder, items = asked
    good = [score for score in scored if score.value is not None]
    numbers = benchmark.headline(items, good, folder)
    # red, red, blue, A, B: 3 of 5 are right; (3 + 3 + 4 + 1 + 1) / 5 letters; 2 of 5 had no tags
    assert numbers == pytest.approx({"overall": 60.0, "exact": 60.0, "letters": 2.4, "untagged": 40.0})


@with_lmms
def test_other_data_than_were_asked_about_and_a_wrong_split_are_refused_in_one_line(asked, tmp_path):
    _, _, items = asked
    other = save(tmp_path / "data")
    rows = datasets.Dataset.from_parquet(str(other / "test-00000.parquet"))
    rows.select([1, 0, 2]).to_parquet(other / "test-00000.parquet")
    work = [Work(item=items[0], sample=0, output="red")]
    with pytest.raises(CorlError, match="record 0 of the data is not the one that was asked"):
        list(shapes(other).score(work, tmp_path))
    rows.remove_columns("question").to_parquet(other / "test-00000.parquet")
    with pytest.raises(CorlError, match=r"is not what local_shapes reads: KeyError: 'question'") as raised:
        shapes(other).items(tmp_path / "out")
    assert "\n" not in raised.value.message


def test_the_process_ends_when_the_one_that_began_it_was_killed():
    """Its stdin stays open, and it waits for a job there: only the watch ends it."""
    begin = """if True:
        import os, subprocess, sys
        child = subprocess.Popen([sys.executable, "-m", sys.argv[1], str(os.getpid())])
        print("begun", flush=True)
        child.wait()
    """
    command = [sys.executable, "-c", begin, bridge.MODULE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout.readline() == b"begun\n"
        parent.kill()
        assert parent.stdout.read() == b""  # to its end: when the last process that could write there is gone


# ---- a judge behind lmms-eval ----------------------------------------


def grader(request):
    """Knows one right answer, cannot grade another, and fails on a third."""
    asked = request.text.rpartition("|")[0].rpartition("\n")[2]
    if "spaghetti | It" in asked:
        return "**0.8**"
    return "5 out of 1" if "bread" in asked else error(400, "too long") if "toast" in asked else "0.0"


@with_lmms
def test_a_judge_is_asked_through_corls_and_what_it_cannot_answer_is_no_wrong_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("CORL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    lmms_items.dataset("mmvet").save_to_disk(tmp_path / "data")
    with FakeJudge(grader) as fake:
        benchmark = bind("mmvet", {"data": str(tmp_path / "data")}, Setting(judge=settings(fake, retries=0)))
        items = benchmark.items(tmp_path)
        assert items[1].prompt.startswith("First please perform reasoning")
        assert items[1].max_new_tokens == 1024
        texts = ["It is spaghetti.", "bread", "toast", "soup"]
        work = [Work(item=items[1], sample=sample, output=text) for sample, text in enumerate(texts)]
        scores = {score.sample: score for score in benchmark.score(work, tmp_path)}
        assert [scores[sample].value for sample in range(4)] == [0.8, None, None, 0.0]
        assert "no grade" in scores[1].reason
        assert "too long" in scores[2].reason
        assert {request.body["model"] for request in fake.requests} == {"fake-judge"}


def test_a_judge_that_is_down_is_told_apart_from_one_call_that_failed(tmp_path):
    down = Judge(base_url=f"http://127.0.0.1:{unused_port()}/v1", model="m", key_variable=None, retries=0)
    desk = judging.Desk(judge.Judge(down, cache=tmp_path), "mmvet", "template")
    found = []
    for number in range(12):
        desk.answer([{"role": "user", "content": f"question {number}"}])
        found.append(desk.collect())
    assert [type(failure) for failure in found].count(CorlError) == 3  # from the tenth in a row on
    assert "is down" in str(found[-1])
    assert desk.collect() is None


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match=r"eval.benchmarks.mmmu"):
        bind("mmmu", {"folder": "x"}, Setting())
