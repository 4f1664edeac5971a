"""WISE: its two versions, how a judge's answer is read, and what the scores come to, counted by hand."""

import json

import pytest
from fake_judge import FakeJudge, error, settings
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.eval import bind, judge_endpoint
from corl_cli.eval.base import Setting, Work
from corl_cli.eval.wise import VERSIONS
from corl_cli.eval.wise_template import LEGACY, VERIFIED

PARTS = {"legacy": (400, 700, 1000), "verified": (400, 640, 1000)}  # the last id of each file


@pytest.fixture(autouse=True)
def kept_here(monkeypatch, tmp_path):
    monkeypatch.setenv("CORL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judge_endpoint, "FIRST_WAIT", 0.005)


def row(number):
    return {
        "prompt_id": number,
        "Prompt": f"thing {number}",
        "Explanation": f"It is {{braces}} {number}.",
        "Category": "c",
        "Subcategory": "s",
    }


def write(folder, version="legacy", rows=None):
    """Synthetic prompts under the published names, in the published schema."""
    rows = [row(number) for number in range(1, 1001)] if rows is None else rows
    folder.mkdir(exist_ok=True)
    first = 0
    for name, last in zip(VERSIONS[version].files, PARTS[version], strict=True):
        (folder / name).write_text(json.dumps([entry for entry in rows if first < entry["prompt_id"] <= last]))
        first = last
    return folder


@pytest.fixture
def make(tmp_path):
    """A WISE over synthetic prompts; `server` judges it."""

    def made(server=None, version="legacy", prompts=None, **setting):
        judge = None if server is None else settings(server)
        folder = write(tmp_path / version, version) if prompts is None else prompts
        options = {"version": version, "prompts": str(folder) if not isinstance(folder, list) else folder}
        return bind("wise", options, Setting(judge=judge, **setting))

    return made


def test_the_ids_have_the_groups_and_weights_of_the_paper(make, tmp_path):
    wise = make()
    items = wise.items(tmp_path)
    groups = {int(item.id): item.group for item in items}
    edges = {1: "culture", 400: "culture", 401: "time", 567: "time", 568: "space", 700: "space", 701: "biology"}
    edges |= {800: "biology", 801: "physics", 900: "physics", 901: "chemistry", 1000: "chemistry"}
    assert {number: groups[number] for number in edges} == edges
    weights = {"culture": 0.4, "time": 0.167, "space": 0.133, "biology": 0.1, "physics": 0.1, "chemistry": 0.1}
    assert wise.weights(list(weights)) == weights
    assert wise.weights(["time"]) == {"time": 0.167}
    assert [item.id for item in items] == [f"{number:04}" for number in range(1, 1001)]
    assert {item.samples for item in items} == {1}
    assert items[41].prompt == "thing 42"
    assert items[41].data["Explanation"] == "It is {braces} 42."


def test_verified_has_its_own_groups_and_weights(make, tmp_path):
    wise = make(version="verified")
    sizes = {}
    for item in wise.items(tmp_path):
        sizes[item.group] = sizes.get(item.group, 0) + 1
    assert sizes == {"culture": 400, "time": 120, "space": 120, "biology": 120, "physics": 120, "chemistry": 120}
    # weights in proportion: the overall number is the mean over all prompts
    assert {name: size / 1000 for name, size in sizes.items()} == pytest.approx(wise.weights(list(sizes)))


def test_the_versions_tell_themselves_apart(make, tmp_path):
    legacy, verified = make(), make(version="verified")
    assert (legacy.variant, verified.variant) == ("legacy", "verified")
    assert legacy.protocol() != verified.protocol()
    assert legacy.scorer() != verified.scorer()
    assert legacy.protocol()["version"] == legacy.scorer()["version"] == "legacy"


def test_one_version_does_not_take_the_other_s_files(make, tmp_path):
    wise = make(version="verified", prompts=write(tmp_path / "mixed", "legacy"))
    (need,) = wise.requirements()
    assert not need.met
    assert "natural_science_verified.json" in need.detail
    with pytest.raises(CorlError, match=r"natural_science_verified\.json"):
        wise.items(tmp_path)


def test_other_prompts_are_another_protocol(make, tmp_path):
    before = make().protocol()
    wise = make(prompts=write(tmp_path / "other", rows=[{**row(n), "Prompt": "x"} for n in range(1, 1001)]))
    assert wise.protocol() != before


def test_an_unknown_version_is_refused():
    with pytest.raises(UsageError, match="version"):
        bind("wise", {"version": "newest"}, Setting())


def test_without_prompts_the_requirement_says_where_to_get_them(tmp_path):
    wise = bind("wise", {}, Setting())
    (need,) = wise.requirements()
    assert need.state == "missing"
    assert "no licence" in need.detail
    assert "github.com/PKU-YuanGroup/WISE" in need.remedy
    assert "cultural_common_sense.json" in need.remedy
    assert "eval.benchmarks.wise.prompts=" in need.remedy
    with pytest.raises(CorlError, match="WISE needs"):
        wise.items(tmp_path)


def test_files_may_be_named_one_by_one(make, tmp_path):
    folder = write(tmp_path / "files")
    wise = make(prompts=[str(path) for path in sorted(folder.iterdir(), reverse=True)])
    assert wise.requirements()[0].met
    assert len(wise.items(tmp_path)) == 1000
    assert not make(prompts=[str(folder / "natural_science.json")]).requirements()[0].met


def test_missing_and_repeated_ids_are_named(make, tmp_path):
    rows = [row(number) for number in range(1, 1001) if number not in (7, 405)] + [row(9)]
    with pytest.raises(CorlError, match=r"missing: 7, 405; there more than once: 9\.") as failure:
        make(prompts=write(tmp_path / "gaps", rows=rows)).items(tmp_path)
    assert "--limit" in failure.value.hint


def test_many_missing_ids_are_counted(make, tmp_path):
    rows = [row(number) for number in range(1, 401)]
    with pytest.raises(CorlError, match=r"missing: 401, 402, .*, 410 and 590 more"):
        make(prompts=write(tmp_path / "gaps", rows=rows)).items(tmp_path)


def test_ids_beyond_the_benchmark_are_named(make, tmp_path):
    folder = write(tmp_path / "more")
    (folder / "natural_science.json").write_text(json.dumps([row(n) for n in (*range(701, 1001), 1001)]))
    with pytest.raises(CorlError, match="not of WISE: 1001"):
        make(prompts=folder).items(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[{", "cannot be read as JSON"),
        ("{}", "no list of prompts"),
        ('[{"Prompt": "x"}]', "entry 0 has no whole number as prompt_id"),
        ('[{"prompt_id": true, "Prompt": "x", "Explanation": "y"}]', "entry 0 has no whole number"),
        ('[{"prompt_id": 701, "Prompt": "x", "Explanation": " "}]', "prompt_id 701 has no Explanation"),
        ('[{"prompt_id": 701, "Explanation": "y"}]', "prompt_id 701 has no Prompt"),
    ],
)
def test_a_damaged_file_is_told_of_in_one_line(make, tmp_path, content, reason):
    folder = write(tmp_path / "damaged")
    (folder / "natural_science.json").write_text(content)
    with pytest.raises(CorlError, match=reason) as failure:
        make(prompts=folder).items(tmp_path)
    assert "\n" not in failure.value.message


CLEAN = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
READ = {"Consistency": 2, "Realism": 1, "Aesthetic Quality": 0}


@pytest.mark.parametrize(
    "text",
    [
        CLEAN,
        "Here are the scores:\n\n" + CLEAN,
        "**Consistency:** 2\n**Realism**: 1\n**Aesthetic Quality: 0**",
        "- Consistency: 2\n- Realism: **1**\n- Aesthetic Quality: 0",
        "* **Consistency**: 2\n* **Realism**: 1\n* **Aesthetic Quality**: 0",
        "1. Consistency: 2\n2. Realism: 1\n3. Aesthetic Quality: 0",
        "### Consistency: 2\n\n### Realism: 1\n\n### Aesthetic Quality: 0\n",
        "```\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0\n```",
        "consistency: 2\r\nREALISM : 1\r\nAesthetic  quality=0",
        "Consistency (0-2): 2\nRealism (0-2): 1\nAesthetic Quality (0-2): 0",
        "Consistency: 2/2\nRealism: 1 / 2\nAesthetic Quality: 0/2",
        "Consistency: 2.0\nRealism: 1.\nAesthetic Quality: 0",
        "Consistency：2\nRealism：1\nAesthetic Quality：0",
        CLEAN + "\n" + CLEAN,
        "<think>Consistency: 0? Consistency: 1-2?</think>\n" + CLEAN,
    ],
)
def test_the_same_scores_in_other_clothes_are_read(text):
    assert LEGACY.read(text) == READ


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no score for Consistency, Realism, Aesthetic Quality"),
        ("I'm sorry, but I can't assist with that.", "no score"),
        ("Consistency: 2\nRealism: 1", "no score for Aesthetic Quality"),
        ("2\n1\n0", "no score"),
        (CLEAN.replace("1", "1-2"), "Realism is '1-2', no single score"),
        (CLEAN.replace("1", "1–2"), "no single score"),
        (CLEAN.replace("1", "1 or 2"), "no single score"),
        (CLEAN.replace("1", "1, maybe 2"), "no single score"),
        (CLEAN.replace("1", "1.5"), "no single score"),
        (CLEAN.replace("1", "12"), "Realism is 12, outside 0..2"),
        (CLEAN.replace("1", "3"), "outside 0..2"),
        (CLEAN.replace("1", "-1"), "no single score"),
        (CLEAN.replace("1", "1/10"), "no single score"),
        (CLEAN.replace("1", "one"), "no single score"),
        (CLEAN.replace("1", "²"), "no single score"),
        (CLEAN.replace("1", "N/A"), "no single score"),
        (CLEAN.replace("1", ""), "no single score"),
        (CLEAN + "\nConsistency: 1", "Consistency is given as 2 and as 1"),
        ("Consistency (0-5): 2\nRealism: 1\nAesthetic Quality: 0", "no score for Consistency"),
        ('{"Consistency": 2, "Realism": 1, "Aesthetic Qua', "no score"),
        ("Consistency: 2, Realism: 1, Aesthetic Quality: 0", "no single score"),
        ("<think>\n" + CLEAN + "\n</think>\n", "no score"),
    ],
)
def test_what_is_no_set_of_three_scores_is_rejected(text, reason):
    with pytest.raises(ValueError, match=reason):
        LEGACY.read(text)


@given(
    scores=st.tuples(*[st.integers(0, 2)] * 3),
    bold=st.sampled_from(["", "**", "__"]),
    bullet=st.sampled_from(["", "- ", "* ", "• ", "1. ", "  2) "]),
    order=st.permutations(range(3)),
)
def test_any_scores_written_in_any_of_these_ways_come_back(scores, bold, bullet, order):
    given_scores = dict(zip(LEGACY.labels, scores, strict=True))
    lines = [f"{bullet}{bold}{label}:{bold} {score}" for label, score in given_scores.items()]
    assert LEGACY.read("\n".join(lines[place] for place in order)) == given_scores


@given(st.text(max_size=60))
def test_no_text_makes_the_reader_fail_otherwise_than_by_rejecting_it(text):
    try:
        found = VERIFIED.read(f"{text}\nScore: 1")
    except ValueError:
        return
    assert found == {"Score": 1}


@pytest.mark.parametrize(("text", "score"), [("Score: 1", 1), ("**Score:** 0", 0), ("- Score: 1/1", 1)])
def test_verified_s_one_score_is_read(text, score):
    assert VERIFIED.read(text) == {"Score": score}


@pytest.mark.parametrize("text", ["Score: 2", "Score: 0.5", "1", "Score: 0-1", "Score: 1\nScore: 0"])
def test_verified_takes_0_and_1_only(text):
    with pytest.raises(ValueError):
        VERIFIED.read(text)


def test_the_formulas_by_hand():
    legacy = VERSIONS["legacy"]
    assert legacy.value({"Consistency": 2, "Realism": 2, "Aesthetic Quality": 2}) == pytest.approx(1.0)
    assert legacy.value({"Consistency": 2, "Realism": 1, "Aesthetic Quality": 0}) == pytest.approx(0.8)
    assert legacy.value({"Consistency": 1, "Realism": 0, "Aesthetic Quality": 2}) == pytest.approx(0.45)
    assert legacy.value({"Consistency": 0, "Realism": 1, "Aesthetic Quality": 1}) == pytest.approx(0.15)
    assert [VERSIONS["verified"].value({"Score": score}) for score in (0, 1)] == [0.0, 1.0]


def drawings(wise, folder, numbers):
    """One piece of work for each id; the drawing's bytes are told apart by it."""
    items = {int(item.id): item for item in wise.items(folder)}
    work = []
    for number in numbers:
        image = folder / f"{number}.png"
        image.write_bytes(b"drawing %d" % number)
        work.append(Work(item=items[number], sample=0, output=image))
    return work


def test_a_judge_scores_drawings_and_failed_ones_are_no_zeros(make, tmp_path):
    def script(request):
        if "thing 3\n" in request.text:
            return error(400, "bad image")
        if "thing 4\n" in request.text:
            return "I am sorry, I cannot judge this."
        return "**Consistency:** 1\n**Realism:** 2\n**Aesthetic Quality:** 1"

    with FakeJudge(script) as server:
        wise = make(server)
        work = drawings(wise, tmp_path, [1, 3, 4, 999])
        scores = {score.item: score for score in wise.score(work, tmp_path)}
    # (0.7 * 1 + 0.2 * 2 + 0.1 * 1) / 2
    assert scores["0001"].value == scores["0999"].value == pytest.approx(0.6)
    assert scores["0001"].details == {
        "consistency": 1,
        "realism": 2,
        "aesthetic": 1,
        "answer": "**Consistency:** 1\n**Realism:** 2\n**Aesthetic Quality:** 1",
    }
    assert scores["0003"].value is None
    assert "bad image" in scores["0003"].reason
    assert scores["0004"].value is None
    assert "I am sorry" in scores["0004"].reason
    asked = next(request for request in server.requests if "thing 999\n" in request.text)
    assert asked.images == [b"drawing 999"]
    assert "It is {braces} 999." in asked.text


def test_verified_asks_another_question_and_scores_0_or_1(make, tmp_path):
    with FakeJudge(lambda request: "Score: 1" if "thing 1\n" in request.text else "Score: 0") as server:
        wise = make(server, version="verified")
        work = drawings(wise, tmp_path, [1, 2])
        scores = {score.item: score.value for score in wise.score(work, tmp_path)}
    assert scores == {"0001": 1.0, "0002": 0.0}
    assert "Aesthetic" not in server.requests[0].text


def test_a_drawing_that_is_gone_fails_alone(make, tmp_path):
    with FakeJudge([CLEAN]) as server:
        wise = make(server)
        work = drawings(wise, tmp_path, [1, 2])
        work[0].output.unlink()
        scores = {score.item: score for score in wise.score(work, tmp_path)}
    assert scores["0001"].value is None
    assert "cannot be read" in scores["0001"].reason
    assert scores["0002"].value == pytest.approx(0.8)


def test_scoring_again_costs_nothing(make, tmp_path):
    with FakeJudge([CLEAN]) as server:
        wise = make(server)
        work = drawings(wise, tmp_path, [1, 2, 3])
        first = sorted(score.value for score in wise.score(work, tmp_path))
        asked = len(server.requests)
        assert sorted(score.value for score in wise.score(work, tmp_path)) == first
        assert len(server.requests) == asked == 3
    assert wise.calls(3) == 3


def test_without_a_judge_scoring_says_what_to_set(make):
    (need,) = make().scorers()
    assert need.state == "missing"
    assert "eval.judge.model" in need.remedy


def test_only_the_paper_s_version_and_judge_stand_beside_the_paper_s_numbers():
    def comparable(version, model):
        return bind("wise", {"version": version}, Setting(judge=evaluation.Judge(model=model))).comparable

    assert comparable("legacy", "gpt-4o-2024-05-13")
    assert comparable("legacy", "openai/gpt-4o")
    assert not comparable("legacy", "gpt-4o-mini")
    assert not comparable("legacy", "Qwen3.5-35B-A3B")
    assert not comparable("verified", "gpt-4o-2024-05-13")
    assert not bind("wise", {}, Setting()).comparable


def test_more_drawings_of_each_prompt_on_demand(make, tmp_path):
    wise = make(drawing=evaluation.Drawing(images=2))
    assert {item.samples for item in wise.items(tmp_path)} == {2}
