"""DPG-Bench from its published folder to its number: asked of a judge, of real tiny models, and with bad input."""

import csv
import io
import json
from importlib.util import find_spec
from pathlib import Path

import fake_judge
import pytest
import torch
from fake_judge import FakeJudge
from PIL import Image
from tiny_vqa import tiny_blip_vqa, tiny_chat

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.evaluation import Drawing
from corl_cli.eval import bind
from corl_cli.eval.base import Score, Setting, Work
from corl_cli.eval.dpg.questions import COLUMNS

CASES = json.loads((Path(__file__).parent / "cases" / "dpg.json").read_text())


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CORL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    """The published layout, with the rows of the cases: item_first (2 questions), then a (6)."""
    folder = tmp_path / "dpg_bench"
    (folder / "prompts").mkdir(parents=True)
    with (folder / "dpg_bench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *CASES["rows"]])
    (folder / "prompts" / "item_first.txt").write_text("A red apple.\n")
    (folder / "prompts" / "a.txt").write_text("A red dog left of a cat.")
    return folder


def dpg(data, *, judge=None, images=None, **options):
    setting = Setting(judge=judge and fake_judge.settings(judge), drawing=Drawing(images=images))
    return bind("dpg", {"data": data and str(data), **options}, setting)


def drawn(items, folder, colour=lambda item, sample: (sample, 0, 0)):
    """A plain drawing of each sample of each item."""
    work = []
    for item in items:
        for sample in range(item.samples):
            path = folder / f"{item.id}-{sample}.png"
            Image.new("RGB", (8, 8), colour(item, sample)).save(path)
            work.append(Work(item=item, sample=sample, output=path))
    return work


def scored(benchmark, items, folder):
    return sorted(benchmark.score(drawn(items, folder), folder), key=lambda score: (score.item, score.sample))


def test_items_are_as_published(data, tmp_path):
    first, second = dpg(data).items(tmp_path)
    assert (first.id, first.prompt, first.samples, first.task) == ("item_first", "A red apple.", 4, "t2i")
    assert second.prompt == "A red dog left of a cat."
    assert [question["text"] for question in second.data["questions"]] == [f"Q{n}?" for n in range(1, 7)]
    assert json.loads(json.dumps(second.data)) == second.data
    assert [item.id for item in dpg(data, compatible=True).items(tmp_path)] == ["a"]
    assert [item.samples for item in dpg(data, images=2).items(tmp_path)] == [2, 2]


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_the_original_scorers_cases_by_a_judge(case, data, tmp_path):
    def answer(request):
        sample = Image.open(io.BytesIO(request.images[0])).getpixel((0, 0))[0]
        return case["answers"][sample][request.text.split(" ")[0]]

    with FakeJudge(answer) as judge:
        benchmark = dpg(data, judge=judge, scorer="judge", compatible=True, images=len(case["answers"]))
        items = benchmark.items(tmp_path)
        scores = scored(benchmark, items, tmp_path)
        assert len(judge.requests) == 6 * len(scores) == benchmark.calls(len(scores))
    numbers = benchmark.headline(items, scores, tmp_path)
    expected = case["expected"]
    assert [score.value for score in scores] == pytest.approx(expected["per_image"])
    assert numbers["overall"] == pytest.approx(100 * expected["score"])
    returned = expected["returned_for_categories"]
    assert numbers["entity"] == pytest.approx(100 * (returned["1"] + returned["3"]) / 2)
    assert numbers["attribute - color"] == pytest.approx(100 * returned["2"])
    assert {"relation", "relation - spatial", "global", "other", "other - count"} <= numbers.keys()


def by_hand(items, answers):
    """Scores whose details are as the benchmark writes them: an answer to each question of each (item, sample)."""
    return [
        Score(item=item, sample=sample, value=value, details={"answers": dict(zip("123456", said, strict=False))})
        for (item, sample), (value, said) in answers.items()
    ]


def test_the_tables_are_of_all_images_and_prompts_count_alike(data, tmp_path):
    benchmark = dpg(data, images=2)
    items = benchmark.items(tmp_path)
    yes, no = ["yes"] * 6, ["no"] * 6
    scores = by_hand(
        items,
        {
            ("item_first", 0): (1.0, ["yes", "yes"]),
            ("item_first", 1): (0.5, ["yes", "no"]),
            ("a", 0): (1.0, yes),
            ("a", 1): (0.0, no),
        },
    )
    numbers = benchmark.headline(items, scores, tmp_path)
    assert numbers["overall"] == pytest.approx(100 * (0.75 + 0.5) / 2)
    assert numbers["entity"] == pytest.approx(100 * 4 / 6)  # apple twice; dog and cat once each of twice
    assert numbers["attribute"] == pytest.approx(100 * 2 / 4)
    assert numbers["other - count"] == pytest.approx(50)
    without = benchmark.headline(items, scores[:1] + scores[2:], tmp_path)  # one drawing of item_first failed
    assert without["overall"] == pytest.approx(100 * (1.0 + 0.5) / 2)
    compatible = dpg(data, images=2, compatible=True)
    last = compatible.headline(compatible.items(tmp_path), scores[2:], tmp_path)
    assert last["overall"] == pytest.approx(50)
    assert last["entity"] == last["relation"] == 0.0


def test_a_judge_that_is_neither_yes_nor_no_fails_one_drawing_only(data, tmp_path):
    def answer(request):
        sample = Image.open(io.BytesIO(request.images[0])).getpixel((0, 0))[0]
        return "I am not sure." if sample == 1 and request.text.startswith("Q5") else "**Yes**"

    with FakeJudge(answer) as judge:
        benchmark = dpg(data, judge=judge, scorer="judge", images=2)
        scores = scored(benchmark, benchmark.items(tmp_path), tmp_path)
    assert [score.value for score in scores] == [1.0, None, 1.0, 1.0]
    assert "neither yes nor no" in scores[1].reason


def test_a_judge_that_refuses_fails_the_drawing(data, tmp_path):
    with FakeJudge(lambda request: fake_judge.refused() if "apple" in request.text else "no") as judge:
        benchmark = dpg(data, judge=judge, scorer="judge", images=1)
        refused, other = sorted(scored(benchmark, benchmark.items(tmp_path), tmp_path), key=lambda s: s.item)[::-1]
    assert (refused.item, refused.value) == ("item_first", None)
    assert other.value == 0.0


def test_calls_are_the_largest_that_so_many_drawings_can_take(data):
    with FakeJudge() as judge:
        benchmark = dpg(data, judge=judge, scorer="judge", images=2)
        assert [benchmark.calls(n) for n in (0, 1, 2, 3, 4)] == [0, 6, 12, 14, 16]
        assert dpg(None, judge=judge, scorer="judge").calls(3) > 18
    assert dpg(data).calls(4) == 0


def test_a_real_blip_answers_each_drawing(data, tmp_path):
    benchmark = dpg(data, scorer=str(tiny_blip_vqa(tmp_path / "blip")), images=1)
    assert [need.state for need in benchmark.scorers()] == ["ok"]
    benchmark.load(torch.device("cpu"))
    scores = scored(benchmark, benchmark.items(tmp_path), tmp_path)
    assert {score.reason for score in scores} == {"an answer is neither yes nor no"}  # it is random: words of the world
    assert [score.value for score in scores] == [None, None]
    assert all(score.details["answers"]["1"] for score in scores)
    assert not any(check.passed for check in benchmark.self_test())
    original = dpg(data, scorer=str(tmp_path / "blip"), images=1, compatible=True)
    original.load(torch.device("cpu"))
    items = original.items(tmp_path)
    literal = scored(original, items, tmp_path)
    assert [score.value for score in literal] == [0.0]  # what is not yes is no
    assert original.headline(items, literal, tmp_path)["overall"] == 0.0
    assert original.scorer()["answer"] != benchmark.scorer()["answer"]


@pytest.mark.skipif(find_spec("torchvision") is None, reason="chat models read images with it")
@pytest.mark.parametrize(("says", "value"), [("yes", 1.0), ("no", 0.0), ("maybe", None)])
def test_a_real_chat_model_answers_each_drawing(says, value, data, tmp_path):
    benchmark = dpg(data, scorer=str(tiny_chat(tmp_path / "chat", says=says)), images=3)
    benchmark.load(torch.device("cpu"))
    scores = scored(benchmark, benchmark.items(tmp_path), tmp_path)
    assert [(score.item, score.sample) for score in scores] == [(i, n) for i in ("a", "item_first") for n in range(3)]
    assert {score.value for score in scores} == {value}
    assert [check.passed for check in benchmark.self_test()] == [says == "yes", says == "no"]


@pytest.mark.skipif(find_spec("torchvision") is None, reason="chat models read images with it")
def test_a_damaged_drawing_fails_and_the_others_go_on(data, tmp_path):
    benchmark = dpg(data, scorer=str(tiny_chat(tmp_path / "chat", says="yes")), images=2)
    benchmark.load(torch.device("cpu"))
    work = drawn(benchmark.items(tmp_path), tmp_path)
    work[1].output.write_bytes(work[1].output.read_bytes()[:40])
    scores = list(benchmark.score(work, tmp_path))
    assert [score.value for score in scores] == [1.0, None, 1.0, 1.0]
    assert scores[1].reason == "the drawing cannot be read"


def test_what_a_result_says_of_itself(data):
    with FakeJudge() as judge:
        judged, theirs = dpg(data, judge=judge, scorer="judge"), dpg(data, scorer="some/vqa", compatible=True)
        assert judged.scorer()["judge"]["model"] == "fake-judge"
    assert judged.variant != theirs.variant
    assert theirs.scorer()["vqa model"] == "some/vqa"
    assert judged.protocol() != theirs.protocol()
    assert not judged.comparable


def test_data_that_are_not_there_are_asked_for_with_their_layout(data, tmp_path):
    assert [need.state for need in dpg(data).requirements()] == ["ok"]
    [nothing], [elsewhere] = dpg(None).requirements(), dpg(tmp_path / "nowhere").requirements()
    assert nothing.state == elsewhere.state == "missing"
    assert "dpg_bench.csv" in nothing.remedy
    assert "prompts" in nothing.remedy
    (data / "dpg_bench.csv").unlink()
    [half] = dpg(data).requirements()
    assert half.detail.endswith("lacks dpg_bench.csv")


def test_a_judge_that_no_recipe_names_is_asked_for():
    [need] = dpg(None, scorer="judge").scorers()
    assert need.state == "missing"
    assert "eval.judge.model" in need.remedy


def test_a_prompt_that_is_missing_and_one_too_many(data, tmp_path):
    (data / "prompts" / "spare.txt").write_text("A cat.")
    with pytest.raises(CorlError, match=r"prompts without questions \(1, spare for one\)"):
        dpg(data).items(tmp_path)
    assert len(dpg(data, compatible=True).items(tmp_path)) == 1
    (data / "prompts" / "a.txt").unlink()
    with pytest.raises(CorlError, match=r"lacks 1 of 2 prompts, a\.txt for one"):
        dpg(data).items(tmp_path)


def test_a_file_without_questions(data, tmp_path):
    (data / "dpg_bench.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(CorlError, match="has no questions"):
        dpg(data).items(tmp_path)


def test_an_unknown_option_is_named(data):
    with pytest.raises(UsageError, match="scorers"):
        dpg(data, scorers="judge")
