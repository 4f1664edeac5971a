import json

import pytest

from corl_cli.core.errors import CorlError

QUESTION = {  # an entry as aokvqa_v1p0_train.json has it
    "split": "train",
    "image_id": 37777,
    "question_id": "22MexNkBPpdZGX6sxbxVBH",
    "question": "What is in the bowl?",
    "choices": ["apples", "oranges", "lemons", "bread"],
    "correct_choice_idx": 1,
    "direct_answers": ["fruit", "orange", "oranges", "Orange", "fruit", "orange", "food", "orange", "fruit", "fruit"],
    "difficult_direct_answer": False,
    "rationales": ["They are round.", "Oranges are orange.", "The bowl is full of oranges."],
}


def test_coco_offers_every_image_with_its_captions(read, coco):
    offered, dropped = read("coco", **coco)
    assert [(raw.id, raw.image.name, raw.captions, raw.question) for raw in offered] == [
        ("coco-397133", "000000397133.jpg", ("A man is in a kitchen making pizzas.",), ""),
        ("coco-37777", "000000037777.jpg", ("A kitchen with a table.", "A bowl of oranges on a table. "), ""),
        ("coco-252219", "000000252219.jpg", (), ""),
    ]
    assert not dropped


def test_coco_drops_images_that_are_none_and_leaves_out_captions_of_no_image(read, coco):
    content = json.loads(coco["captions"].read_text())
    content["images"] += [{"id": 1}, "x", {"id": 37777, "file_name": "again.jpg"}]
    content["annotations"] += [{"image_id": 99, "caption": "nowhere"}, {"image_id": 37777, "caption": None}, 5]
    coco["captions"].write_text(json.dumps(content))
    offered, dropped = read("coco", **coco)
    assert [len(raw.captions) for raw in offered] == [1, 2, 0]
    assert [(drop.id, drop.reason) for drop in dropped] == [
        ("coco-images-3", "entry lacks a field"),
        ("coco-images-4", "entry unreadable"),
        ("coco-images-5", "image listed twice"),
    ]


def test_instances_in_place_of_captions(read, coco):
    coco["captions"].write_text('{"info": {}}')
    with pytest.raises(CorlError, match="has no lists `images` and `annotations`"):
        read("coco", **coco)


def test_a_caption_file_cut_short_stops_at_once(read, coco):
    coco["captions"].write_text(coco["captions"].read_text()[:-40])
    with pytest.raises(CorlError, match=r"captions_val2017\.json cannot be read") as caught:
        read("coco", **coco)
    assert "cocodataset.org" in str(caught.value.hint)


def test_aokvqa_is_joined_with_cocos_captions(read, write, coco):
    path = write("aokvqa_v1p0_val.json", [QUESTION])
    (raw,), dropped = read("aokvqa", annotations=path, **coco)
    assert not dropped
    assert raw.id == "aokvqa-22MexNkBPpdZGX6sxbxVBH-mc"
    assert raw.image == coco["images"] / "000000037777.jpg"
    assert raw.captions == ("A kitchen with a table.", "A bowl of oranges on a table. ")
    assert (raw.question, raw.options) == ("What is in the bowl?", ("apples", "oranges", "lemons", "bread"))
    assert (raw.answer, raw.answer_type) == ("(B)", "mc")
    assert raw.solution == ""


def test_aokvqa_open_ended_takes_the_most_frequent_answer_of_several_the_first(read, write, coco):
    path = write("aokvqa_v1p0_val.json", [QUESTION])
    (raw,), _ = read("aokvqa", annotations=path, answers="oe", **coco)
    # fruit and orange (in either case) were given four times each, fruit first
    assert (raw.id, raw.answer, raw.options, raw.answer_type) == (
        "aokvqa-22MexNkBPpdZGX6sxbxVBH-oe",
        "fruit",
        (),
        "oe",
    )


def test_aokvqa_drops_what_it_cannot_use(read, write, coco):
    without = [{key: value for key, value in QUESTION.items() if key != gone} for gone in ("question", "choices")]
    entries = [QUESTION | {"image_id": 5}, *without, QUESTION | {"correct_choice_idx": 4}, "x", None, QUESTION]
    entries.append(QUESTION | {"correct_choice_idx": None, "question_id": 7})  # as in the test split
    offered, dropped = read("aokvqa", annotations=write("a.json", entries), **coco)
    assert [drop.reason for drop in dropped] == [
        "image not in the annotations",
        *["entry lacks a field"] * 3,
        *["entry unreadable"] * 2,
        "entry lacks a field",
    ]
    assert [raw.answer for raw in offered] == ["(B)"]
    assert dropped[-1].id == "aokvqa-7-mc"


def test_aokvqa_drops_open_ended_questions_without_an_agreed_answer(read, write, coco):
    path = write("a.json", [QUESTION | {"difficult_direct_answer": True}])
    assert [drop.reason for drop in read("aokvqa", annotations=path, answers="oe", **coco)[1]] == ["answers disagree"]
    assert len(read("aokvqa", annotations=path, **coco)[0]) == 1
