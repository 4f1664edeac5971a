"""The public sets, as far as their schemas could be read: small files of the same form."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PNG = b"\x89PNG not decoded by a source"
IMAGE = {"bytes": PNG, "path": "0.png"}


def parquet(folder, rows, name="data/train-00000-of-00001.parquet"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return folder


def test_scienceqa(read, write, tmp_path):
    problem = {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona"],
        "answer": 0,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "West Virginia is farthest north.",
        "split": "train",
    }
    problems = {
        "1": problem,
        "2": problem | {"image": None},
        "3": problem | {"split": "test"},
        "4": problem | {"hint": "Read the passage.", "answer": 2},
        "5": problem | {"answer": 3},
        "6": [],
    }
    (tmp_path / "images").mkdir()
    options = {"problems": write("problems.json", problems), "images": tmp_path / "images"}
    offered, dropped = read("scienceqa", **options)
    assert [(raw.id, raw.answer, raw.answer_type) for raw in offered] == [
        ("scienceqa-1", "(A)", "mc"),
        ("scienceqa-4", "(C)", "mc"),
    ]
    assert offered[0].image == tmp_path / "images" / "train" / "1" / "image.png"
    assert offered[0].options == ("West Virginia", "Louisiana", "Arizona")
    assert offered[1].question == "Read the passage.\nWhich of these states is farthest north?"
    assert [drop.reason for drop in dropped] == ["no image", "entry lacks a field", "entry unreadable"]


def test_m3cot(read, tmp_path):
    row = {
        "id": "physical-commonsense-1",
        "category": "physical-commonsense",
        "image_id": "x",
        "question": "What will happen?",
        "choices": ["it falls", "it flies"],
        "context": "",
        "answer": "A",
        "rationale": "Gravity.",
        "split": "train",
        "image": IMAGE,
        "domain": "commonsense",
        "topic": "physical-commonsense",
    }
    rows = [row, row | {"id": "2", "context": "On the moon.", "image": None}, row | {"id": "3", "choices": None}]
    (raw,), dropped = read("m3cot", path=parquet(tmp_path, rows))
    assert (raw.id, raw.image, raw.options) == ("m3cot-physical-commonsense-1", PNG, ("it falls", "it flies"))
    assert (raw.answer, raw.answer_type, raw.solution) == ("(A)", "mc", "Gravity.")
    assert [drop.reason for drop in dropped] == ["no image", "entry lacks a field"]


def test_arxivqa(read, write, tmp_path):
    entry = {
        "id": "cond-mat-1",
        "image": "images/2211.02201_2.jpg",
        "options": ["A) It rises.", "B) It falls.", "C) It stays.", "D) None"],
        "question": "What does the curve do?",
        "label": "B",
        "rationale": "The line goes down.",
    }
    (tmp_path / "images").mkdir()
    lines = [entry, entry | {"id": "2", "options": ["-"], "label": None}, entry | {"id": "3", "image": ""}]
    path = write("arxivqa.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines) + '{"id": "4", "ima')
    (raw,), dropped = read("arxivqa", path=path, images=tmp_path)
    assert (raw.id, raw.answer, raw.options[0]) == ("arxivqa-cond-mat-1", "(B)", "It rises.")
    assert raw.image == tmp_path / "images" / "2211.02201_2.jpg"
    assert [drop.reason for drop in dropped] == ["entry lacks a field", "no image", "entry unreadable"]


def test_tabmwp(read, write, tmp_path):
    free = {
        "question": "How much money does Ben need?",
        "choices": None,
        "answer": "1,250",
        "unit": "$",
        "table_title": None,
        "table": "toy | $4.00",
        "table_for_pd": {},
        "row_num": 2,
        "column_num": 2,
        "solution": "Add them.",
        "ques_type": "free_text",
        "ans_type": "integer_number",
        "grade": 2,
        "split": "train",
    }
    choice = free | {"choices": ["yes", "no"], "answer": "no", "unit": None, "ques_type": "multi_choice"}
    problems = {"18": free, "34": choice, "35": choice | {"choices": None}}
    (tmp_path / "tables").mkdir()
    options = {"problems": write("problems_train.json", problems), "images": tmp_path / "tables"}
    offered, dropped = read("tabmwp", **options)
    assert [(raw.id, raw.question, raw.options, raw.answer, raw.answer_type) for raw in offered] == [
        ("tabmwp-18", "How much money does Ben need? (Unit: $)", (), "1,250", "oe"),
        ("tabmwp-34", "How much money does Ben need?", ("yes", "no"), "(B)", "mc"),
    ]
    assert offered[0].image == tmp_path / "tables" / "18.png"
    assert [(drop.id, drop.reason) for drop in dropped] == [("tabmwp-35", "entry lacks a field")]
    assert [raw.id for raw in read("tabmwp", answers="oe", **options)[0]] == ["tabmwp-18"]


def test_geomverse(read, write, tmp_path):
    entry = {
        "question": "Compute the area. Round computations to 2 decimal places.",
        "cot": "The area is 3 * 4 = 12.",
        "label": 12.5,
        "image_path": "GeomVerse/TRAIN/TRAIN_MIX/TRAIN_MIX_1/images/1.jpeg",
        "tikz": "\\draw (0, 0);",
    }
    path = write("data.jsonl", f"{json.dumps(entry)}\n{json.dumps(entry | {'label': None})}\n")
    (raw,), dropped = read("geomverse", path=path, images=tmp_path)
    assert (raw.id, raw.answer, raw.answer_type, raw.solution) == (
        "geomverse-0",
        "12.5",
        "oe",
        "The area is 3 * 4 = 12.",
    )
    assert raw.image == tmp_path / "GeomVerse/TRAIN/TRAIN_MIX/TRAIN_MIX_1/images/1.jpeg"
    assert [drop.reason for drop in dropped] == ["entry lacks a field"]


def test_rcot(read, write, tmp_path):
    def entry(reply, image="Your_path/R-CoT-main/GeoMM/polygon/1.png"):
        asked = {"from": "user", "value": "<ImageHere> What is the length of AB?"}
        return {"id": "0", "image": [image], "conversations": [asked, {"from": "assistant", "value": reply}]}

    (tmp_path / "GeoMM").mkdir()
    entries = [entry("AB is twice CD.\nAnswer: 8"), entry("AB is long."), entry("Answer: 8", image="")]
    (raw,), dropped = read("rcot", path=write("GeoMM.json", entries), images=tmp_path / "GeoMM")
    assert (raw.id, raw.question, raw.answer) == ("rcot-0-0", "What is the length of AB?", "8")
    assert raw.solution == "AB is twice CD."
    assert raw.image == tmp_path / "GeoMM" / "polygon" / "1.png"
    assert [drop.reason for drop in dropped] == ["no final answer", "no image"]


@pytest.mark.parametrize("name", ["rcot", "mavis"])
def test_a_turn_without_a_final_answer_is_dropped_by_itself(read, write, tmp_path, name):
    turns = []
    for reply in ("Answer: 8", "It is long.", "Answer: 9"):
        turns += [{"from": "human", "value": "How long?"}, {"from": "gpt", "value": reply}]
    (tmp_path / "GeoMM").mkdir()
    if name == "rcot":
        path = write("GeoMM.json", [{"image": ["GeoMM/1.png"], "conversations": turns}])
        offered, dropped = read(name, path=path, images=tmp_path / "GeoMM")
    else:
        offered, dropped = read(name, path=parquet(tmp_path / "set", [{"image": IMAGE, "conversations": turns}]))
    assert [(raw.id[-4:], raw.answer) for raw in offered] == [("-0-0", "8"), ("-0-2", "9")]
    assert [(drop.id[-4:], drop.reason) for drop in dropped] == [("-0-1", "no final answer")]


def test_mavis(read, tmp_path):
    def row(asked, reply):
        turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": reply}]
        return {"id": "1", "image": IMAGE, "conversations": turns, "data_source": "mavis_math_rule_geo"}

    rows = [
        row("Please reason, e.g., Answer: xxx.\nQuestion: What is x?\nChoices:\nA: 30\nB: 60", "Sum.\nAnswer: B"),
        row("Please reason, e.g., The answer is xxx\nQuestion: How long is AB?", "Add.\nThe answer is 5.2"),
        row("Question: How long?", "Unknown."),
    ]
    path = parquet(tmp_path, rows, "rule_geo/train-00000-of-00001.parquet") / "rule_geo"
    offered, dropped = read("mavis", path=path)
    assert [(raw.id, raw.question, raw.options, raw.answer, raw.answer_type) for raw in offered] == [
        ("mavis-rule_geo-0-0", "What is x?", ("30", "60"), "B", "mc"),
        ("mavis-rule_geo-1-0", "How long is AB?", (), "5.2", "oe"),
    ]
    assert [drop.reason for drop in dropped] == ["no final answer"]
    assert [raw.answer for raw in read("mavis", path=path, answers="mc")[0]] == ["B"]


@pytest.mark.parametrize("as_file", [True, False])
def test_published(read, tmp_path, as_file):
    row = {
        "idx": 12,
        "real_image": IMAGE,
        "prompt": "A red bus on a street.",
        "qa_problem": "What colour is the bus?\nA. red\nB. blue",
        "qa_solution": "<answer>A</answer>",
        "qa_type": "MC",
    }
    folder = parquet(tmp_path, [row, row | {"idx": 13, "qa_type": "OE"}, row | {"idx": 14, "qa_type": "?"}])
    path = next(folder.rglob("*.parquet")) if as_file else folder
    offered, dropped = read("published", path=str(path))
    assert [(raw.id, raw.image, raw.captions, raw.answer_type) for raw in offered] == [
        ("x2x-12", PNG, ("A red bus on a street.",), "mc"),
        ("x2x-13", PNG, ("A red bus on a street.",), "oe"),
    ]
    assert (offered[0].question, offered[0].answer) == (row["qa_problem"], "<answer>A</answer>")
    assert [(drop.id, drop.reason) for drop in dropped] == [("x2x-14", "unknown answer type")]


def test_published_from_a_hub_that_is_not_reached(read):
    from corl_cli.core.errors import CorlError

    with pytest.raises(CorlError, match="cannot be read from the Hub") as caught:
        read("published", path="mm-vl/x2x_rft_22k")
    assert "local copy" in str(caught.value.hint)


def test_the_world_offers_what_it_trains_on(read):
    from corl_cli.world.items import WorldTriplets

    offered, dropped = read("world", size=6, seed=3)
    assert not dropped
    assert [(raw.id, raw.captions[0], raw.question, raw.answer, raw.answer_type) for raw in offered] == [
        (t.id, t.prompt, t.question, t.answer, t.answer_type) for t in WorldTriplets("train", 6, seed=3)
    ]
    assert read("world", size=2)[0][0].id == "world-train-0-0"  # the recipe's seed


def test_the_world_offers_as_many_different_items_as_wanted(read):
    offered, dropped = read("world", size=2000)
    assert not dropped
    asked = {(raw.image, raw.question.split("?")[0], frozenset(raw.question.split("?")[1].split())) for raw in offered}
    assert len(offered) == len({raw.id for raw in offered}) == len(asked) == 2000
    assert offered[:300] == read("world", size=300)[0]
    assert offered[-1].id != "world-train-0-1999"  # there were repeats


def test_the_world_says_when_it_has_no_more(read, monkeypatch):
    from corl_cli.data.sources import world

    monkeypatch.setattr(world, "PATIENCE", 0)
    offered, (last,) = read("world", size=3000)
    assert 0 < len(offered) < 3000
    assert (last.source, last.reason) == ("world", "no further scene")
    assert last.id not in {raw.id for raw in offered}
