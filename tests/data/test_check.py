"""Each fault is put into a sound set by hand; the check finds it, and nothing else."""

import io
import json

import pytest
from datasets import Dataset, Features, Image, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data
from corl_cli.data.check import _equal, check, text_faults

MC = {"prompt": "a cat", "question": "What?\nA. cat\nB. dog", "answer": "A", "answer_type": "mc"}
OE = {"prompt": "a cat", "question": "What is it?", "answer": "cat", "answer_type": "oe"}


ALIKE = "images of several splits that look alike"
OF_THE_WORLD = ("remark", 1, ["train 2 ~ test 0"])  # simple drawings: these two differ in 4 bits


def report(path, **data):
    return check(Data(path=str(path), **data))


def found(path, **data):
    """{what: (severity, count, examples)}, without what the set has by nature."""
    findings = {each.what: (each.severity, each.count, each.examples) for each in report(path, **data).findings}
    return {what: finding for what, finding in findings.items() if (what, finding) != (ALIKE, OF_THE_WORLD)}


def at(split, number, **values):
    """A change of one row."""

    def change(own, index, row):
        if (own, index) == (split, number):
            row |= values

    return change


def picture(shade=0, size=(32, 32)):
    file = io.BytesIO()
    image = Pictures.linear_gradient("L").resize(size).point(lambda value: (value + shade) % 256)
    image.convert("RGB").save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_a_sound_set(built_set):
    sound = report(built_set())
    assert (sound.rows, [each.what for each in sound.findings], sound.unchecked) == (
        {"train": 12, "test": 4},
        [ALIKE],
        [],
    )
    assert sound.sound


@pytest.mark.parametrize(
    ("row", "faults"),
    [
        (MC, []),
        (OE, []),
        (MC | {"question": "", "answer": ""}, [("remark", "no question: nothing to answer")]),
        (OE | {"prompt": " "}, [("remark", "no prompt: nothing to draw")]),
        (OE | {"prompt": "", "question": "", "answer": ""}, [("fault", "neither a prompt nor a question")]),
        (OE | {"answer": "  "}, [("fault", "no answer")]),
        (
            OE | {"question": ""},
            [("remark", "no question: nothing to answer"), ("fault", "an answer without a question")],
        ),
        (OE | {"answer_type": "yes/no"}, [("fault", "the answer type is neither mc nor oe")]),
        (MC | {"answer": "C"}, [("fault", "answer not among the options")]),
        (MC | {"answer": "horse"}, [("fault", "answer not among the options")]),
        (MC | {"answer": "dog"}, [("remark", "the answer is not the bare letter")]),
        (MC | {"answer": "<answer> B </answer>"}, []),
        (MC | {"question": "What is it?"}, [("fault", "multiple choice without options")]),
        (MC | {"question": "What?\nA. cat\nB. dog\nC. Cat."}, [("remark", "two options say the same")]),
        (MC | {"answer_type": "oe"}, [("remark", "open-ended, but the answer is one of the options")]),
        (OE | {"prompt": "a\x07cat"}, [("remark", "control characters")]),
        (OE | {"answer": "x" * 1001}, [("fault", "the answer is too long to compare with")]),
    ],
)
def test_texts(row, faults):
    assert list(text_faults(row)) == faults


@given(st.fixed_dictionaries({name: st.text(max_size=40) for name in MC}))
def test_no_text_is_too_strange_to_judge(row):
    assert all(severity in ("fault", "remark") for severity, _ in text_faults(row))


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ({"bytes": b"no picture", "path": None}, "image unreadable"),
        ({"bytes": picture()["bytes"][:-40], "path": None}, "image truncated"),
        (None, "image missing"),
    ],
)
def test_images_that_do_not_decode(built_set, image, what):
    assert found(built_set(at("test", 2, image=image))) == {what: ("fault", 1, ["test 2"])}


def test_an_image_whose_file_is_gone(built_set, tmp_path):
    file = tmp_path / "own.png"
    file.write_bytes(picture()["bytes"])
    folder = built_set(at("test", 2, image={"bytes": None, "path": str(file)}))
    assert found(folder) == {}
    file.unlink()
    assert found(folder) == {"image missing": ("fault", 1, ["test 2"])}


def test_the_same_id_twice(built_set):
    assert found(built_set(at("test", 1, id="world-train-0-3"))) == {
        "the same id twice": ("fault", 1, ["train 3 = test 1"])
    }


def test_a_question_asked_again_of_the_same_image(built_set):
    def change(split, number, row):
        if split == "train" and number in (1, 2, 3):
            row |= {"image": picture(), **OE, "answer": "the cat" if number == 2 else "dog" if number == 3 else "cat"}

    # "the cat" and "cat" are one answer, "dog" is another: all three rows contradict each other as one question
    assert found(built_set(change)) == {
        "one question, one image, several answers": ("fault", 2, ["train 1 = train 2", "train 1 = train 3"])
    }


def test_a_question_with_one_answer_given_twice(built_set):
    def change(split, number, row):
        if split == "train" and number in (1, 2):
            row |= {"image": picture(), **OE, "answer": "grey" if number == 1 else "Gray."}

    assert found(built_set(change)) == {"the same question about the same image": ("remark", 1, ["train 1 = train 2"])}


def test_images_that_leak_into_another_split(built_set):
    def change(split, number, row):
        if number == 1:
            row["image"] = picture()
        if number == 2:
            row["image"] = picture(size=(64, 64) if split == "test" else (48, 48))

    findings = found(built_set(change))
    assert findings["the same image in several splits"] == ("fault", 1, ["train 1 = test 1"])
    assert findings[ALIKE] == ("remark", 1, ["train 2 ~ test 2"])


@pytest.mark.parametrize(("bits", "remarks"), [(0, 1), (4, 1), (5, 0)])
def test_images_are_alike_that_the_builder_would_keep_together(bits, remarks):
    from corl_cli.data.check import _alike_elsewhere, _Seen

    seen, look = _Seen(), 0xFEDCBA9876543210
    for split, image, its in (("train", "a", 3), ("train", "b", look), ("test", "c", look ^ (1 << bits) - 1)):
        if split not in dict(seen.splits):
            seen.begin(split)
        seen.add(None, image, f"{its:016x}", "", "")
    assert _alike_elsewhere(seen, []) == [(1, 2)] * remarks
    assert _alike_elsewhere(seen, [1]) == []


def test_files_that_are_not_those_of_the_manifest(built_set):
    folder = built_set()
    data = folder / "data"
    (data / "test-00000-of-00001.parquet").rename(data / "test-00000-of-00002.parquet")
    findings = found(folder)
    assert findings["a file of the manifest is missing"] == ("fault", 1, ["data/test-00000-of-00001.parquet"])
    assert findings["a file that the manifest does not know"][2] == ["data/test-00000-of-00002.parquet"]
    assert len(findings) == 2


def test_a_damaged_file_is_a_fault_and_the_rest_is_checked(built_set):
    folder = built_set(at("test", 0, answer=""))
    file = folder / "data" / "train-00001-of-00003.parquet"
    file.write_bytes(file.read_bytes()[:200])
    findings = found(folder)
    assert findings["a file is not the one of the manifest"][2] == ["data/train-00001-of-00003.parquet"]
    assert findings["no answer"] == ("fault", 1, ["test 0"])
    assert findings["rows are more or fewer than the manifest says"][0] == "fault"


def test_rows_are_counted_against_the_manifest(built_set):
    folder = built_set()
    record = json.loads((folder / "manifest.json").read_text())
    record["splits"]["test"]["rows"] = 5
    (folder / "manifest.json").write_text(json.dumps(record))
    assert found(folder) == {
        "rows are more or fewer than the manifest says": ("fault", 1, ["test: 4 of 5"]),
        "splits do not add up to what was kept": ("fault", 1, ["17 of 16"]),
    }


def test_a_parquet_of_other_columns_and_no_manifest(tmp_path):
    rows = {
        "real_image": [Pictures.new("RGB", (8, 8), colour) for colour in ("red", "blue")],
        "prompt": ["a red square", "a blue square"],
        "qa_problem": [MC["question"], OE["question"]],
        "qa_solution": ["<answer> A </answer>", "cat"],
        "qa_type": ["MC", "OE"],
    }
    features = Features({name: Value("string") for name in rows} | {"real_image": Image()})
    file = tmp_path / "own.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(file)
    columns = {"image": "real_image", "question": "qa_problem", "answer": "qa_solution", "answer_type": "qa_type"}
    sound = report(file, columns=columns)
    assert (sound.rows, sound.findings) == ({"train": 2}, [])
    assert sound.unchecked == [
        "counts and hashes of files: there is no manifest",
        "duplicate ids: there is no column of ids",
    ]
    assert found(file)["no column 'image', 'question', 'answer', 'answer_type'"][0] == "fault"


def test_a_saved_dataset_is_read_too(built_set, tmp_path):
    folder = built_set()
    own = Dataset.from_parquet(str(folder / "data" / "test-00000-of-00001.parquet"), cache_dir=str(tmp_path / "cache"))
    own.save_to_disk(tmp_path / "saved")
    assert report(tmp_path / "saved").rows == {"train": 4}


def test_what_is_not_there(tmp_path):
    with pytest.raises(CorlError, match="No triplets could be read"):
        report(tmp_path / "nothing")
    with pytest.raises(UsageError, match="embedded world"):
        report("world")


@given(st.lists(st.integers(0, 5)))
def test_equal_hashes_are_grouped(values):
    from array import array

    groups = list(_equal(array("Q", values)))
    expected = [[i for i, v in enumerate(values) if v == value] for value in dict.fromkeys(values)]
    assert groups == [group for group in expected if len(group) > 1]
