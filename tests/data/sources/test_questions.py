import pytest

from corl_cli.core.errors import CorlError
from corl_cli.data.items import Unusable
from corl_cli.data.sources import conversations


def pair(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_plain_keys(read, write, images):
    lines = (
        '{"image": "a.jpg", "question": "What is it?", "answer": "a cat", "caption": "A cat.", "rationale": "Ears."}'
        "\n"
        '{"image": "b.jpg", "question": "Which?", "options": ["A. red", "B. blue"], "answer": "B", "answer_type": "MC",'
        ' "captions": ["Blue.", "A sky."], "question_id": 77}\n'
    )
    offered, dropped = read("questions", path=write("qa.jsonl", lines), images=images, label="gpt-vqa")
    assert not dropped
    first, second = offered
    assert (first.id, first.source, first.image) == ("gpt-vqa-0", "gpt-vqa", images / "a.jpg")
    assert (first.question, first.answer, first.answer_type) == ("What is it?", "a cat", None)
    assert (first.captions, first.solution) == (("A cat.",), "Ears.")
    assert (second.id, second.options, second.answer, second.answer_type) == ("gpt-vqa-77", ("red", "blue"), "B", "mc")
    assert second.captions == ("Blue.", "A sky.")


def test_llava_conversations_are_a_question_for_every_pair_of_turns(read, write, coco):
    entries = [
        {
            "id": "000000037777",
            "image": "coco/train2017/000000037777.jpg",
            "conversations": pair("<image>\nWhat is in the bowl?", "Oranges") + pair("How many?", "3"),
        }
    ]
    offered, _ = read("questions", path=write("llava.json", entries), **coco)
    assert [(raw.id, raw.question, raw.answer) for raw in offered] == [
        ("questions-0-0", "What is in the bowl?", "Oranges"),
        ("questions-0-1", "How many?", "3"),
    ]
    assert {raw.image for raw in offered} == {coco["images"] / "000000037777.jpg"}
    assert {len(raw.captions) for raw in offered} == {2}


def test_a_bad_turn_is_dropped_by_itself(read, write, images):
    turns = [*pair("One?", "1"), {"from": "human", "value": "Two?"}, {"from": "gpt"}, *pair("Three?", "3")]
    entries = [{"image": "a.jpg", "conversations": [*turns, {"from": "human", "value": "Four?"}]}]
    offered, dropped = read("questions", path=write("llava.json", entries), images=images)
    assert [(raw.id, raw.answer) for raw in offered] == [("questions-0-0", "1"), ("questions-0-2", "3")]
    assert [(drop.id, drop.reason) for drop in dropped] == [
        ("questions-0-1", "entry lacks a field"),
        ("questions-0-3", "entry lacks a field"),
    ]


def test_captions_are_found_by_image_id_or_by_file_name(read, write, coco):
    ask = {"question": "What?", "answer": "this"}
    entries = [ask | {"image_id": 397133}, ask | {"image_id": "397133"}, ask | {"image": "val2017/000000397133.jpg"}]
    entries += [ask | {"image_id": 1}, ask | {"image": "elsewhere.jpg"}, ask]
    offered, dropped = read("questions", path=write("qa.json", entries), **coco)
    assert [raw.captions for raw in offered] == [("A man is in a kitchen making pizzas.",)] * 3
    assert [drop.reason for drop in dropped] == ["image not in the annotations"] * 3


def test_several_answers_are_their_majority(read, write, images):
    ten = [{"answer": word, "answer_confidence": "yes", "answer_id": i} for i, word in enumerate(["no", "yes", "Yes"])]
    entries = [
        {"image": "a.jpg", "question": "Is it?", "answers": ten},
        {"image": "a.jpg", "question": "What?", "answers": ["dog", "cat"]},
        {"image": "a.jpg", "question": "What?", "answers": []},
    ]
    offered, dropped = read("questions", path=write("vqa.json", entries), images=images)
    assert [raw.answer for raw in offered] == ["yes", "dog"]
    assert [drop.reason for drop in dropped] == ["entry lacks a field"]


def test_bad_entries_are_dropped_with_a_reason(read, write, images):
    entries = [
        {"question": "What?", "answer": "x"},
        {"image": "a.jpg", "answer": "x"},
        {"image": "a.jpg", "question": "What?", "answer": {"text": "x"}},
        {"image": "a.jpg", "conversations": pair("Q", "A")[:1]},
        {"image": "a.jpg", "conversations": list(reversed(pair("Q", "A")))},
        {"image": "a.jpg", "question": "What?", "answer": "x", "answer_type": "essay"},
        ["no record"],
        {"image": "a.jpg", "question": "What?", "answer": 3},
    ]
    offered, dropped = read("questions", path=write("qa.json", entries), images=images)
    assert [drop.reason for drop in dropped] == [
        "no image",
        *["entry lacks a field"] * 4,
        "unknown answer type",
        "entry unreadable",
    ]
    assert [raw.answer for raw in offered] == ["3"]
    assert len({item.id for item in [*offered, *dropped]}) == len(entries)


def test_a_zip_where_the_images_should_be(read, write, tmp_path):
    write("images.zip", "PK")
    with pytest.raises(CorlError, match=r"images\.zip is an archive"):
        read("questions", path=write("qa.json", []), images=tmp_path / "images")


@pytest.mark.parametrize(
    ("reply", "reasoning", "answer"),
    [
        ("It is round.\nAnswer: B", "It is round.", "B"),
        ("So the answer is 12.5.", "So", "12.5"),
        ("The answer is 3, no. The answer is 4.", "The answer is 3, no.", "4"),
        ("Answer:C", "", "C"),
    ],
)
def test_the_final_answer_of_a_reply(reply, reasoning, answer):
    assert conversations.final(reply) == (reasoning, answer)


@pytest.mark.parametrize("reply", ["", "It is round.", "Answer:", "Answer: ."])
def test_a_reply_without_a_final_answer(reply):
    with pytest.raises(Unusable, match="no final answer"):
        conversations.final(reply)


def test_a_question_without_its_instruction_and_its_choices():
    asked = (
        "According to the question shown in the image, please first perform reasoning, then finally select the right "
        "answer from the choices, e.g., Answer: xxx.\nQuestion: What is angle ABC?\nChoices:\nA: 30°\nB: 60°"
    )
    assert conversations.bare(asked) == ("What is angle ABC?", ("30°", "60°"))
    assert conversations.bare("How long is AB?") == ("How long is AB?", ())
