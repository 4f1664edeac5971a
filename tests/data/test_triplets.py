from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data
from corl_cli.data.triplets import load

COLUMNS = {
    "image": "real_image",
    "question": "qa_problem",
    "answer": "qa_solution",
    "answer_type": "qa_type",
    "id": "idx",
}


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Two rows in the columns of the published stage-1 set (paper.md: mm-vl/x2x_rft_22k)."""
    rows = {
        "idx": [7, 8],
        "real_image": [Pictures.new("L", (20, 10), shade) for shade in (0, 255)],
        "prompt": ["a dark room", "a white wall"],
        "qa_problem": ["What is it?\nA. room\nB. wall", "What colour is it?"],
        "qa_solution": ["<answer> A </answer>", "white"],
        "qa_type": ["MC", "OE"],
    }
    kinds = {"idx": Value("int64"), "real_image": Image()} | {name: Value("string") for name in list(rows)[2:]}
    path = tmp_path / "triplets.parquet"
    Dataset.from_dict(rows, features=Features(kinds)).to_parquet(path)
    return path


def test_reads_the_published_columns(parquet: Path) -> None:
    first, second = load(Data(path=str(parquet), columns=COLUMNS), seed=0)
    assert (first.id, first.prompt, first.answer, first.answer_type) == ("7", "a dark room", "A", "mc")
    assert (second.question, second.answer, second.answer_type) == ("What colour is it?", "white", "oe")
    assert first.image.mode == "RGB"
    assert first.image.size == (20, 10)


def test_adds_the_instruction_of_the_type_once(parquet: Path) -> None:
    instruction = {"mc": "think-answer-letter", "oe": "think-answer-words"}
    data = Data.model_validate({"path": str(parquet), "columns": COLUMNS, "instruction": instruction})
    first, second = load(data, seed=0)
    assert first.question.startswith("What is it?\nA. room\nB. wall\nAnswer the question based on the image")
    assert first.question.endswith("<answer>option letter</answer>")
    assert second.question.endswith("<answer>concise answer</answer>")
    dressed = Dataset.from_dict(
        {name: [getattr(first, name)] for name in ("image", "prompt", "question", "answer", "answer_type")},
        features=Features(
            {"image": Image()} | {n: Value("string") for n in ("prompt", "question", "answer", "answer_type")}
        ),
    )
    dressed.to_parquet(parquet)
    again = load(Data.model_validate({"path": str(parquet), "instruction": instruction}), seed=0)[0]
    assert again.question == first.question


def test_limit_takes_the_first(parquet: Path) -> None:
    assert [t.id for t in load(Data(path=str(parquet), columns=COLUMNS, limit=1), seed=0)] == ["7"]
    assert len(load(Data(limit=5), seed=0)) == 5


def test_missing_columns_are_named_with_the_remedy(parquet: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks image \(column 'image'\), question") as caught:
        load(Data(path=str(parquet)), seed=0)
    assert "--set data.columns.question=" in str(caught.value.hint)


def test_data_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is not parquet")
    for path in (broken, tmp_path / "nowhere"):
        with pytest.raises(CorlError, match="No triplets could be read from") as caught:
            load(Data(path=str(path)), seed=0)
        assert "\n" not in caught.value.message


def test_a_split_or_type_that_is_not_there_is_said(parquet: Path) -> None:
    with pytest.raises(UsageError, match="no split 'dev'"):
        load(Data(split="dev"), seed=0)
    with pytest.raises(CorlError, match="answer type 'a dark room' is neither mc nor oe"):
        load(Data(path=str(parquet), columns=COLUMNS | {"answer_type": "prompt"}), seed=0)[0]


def test_world_seeds_give_other_triplets_and_the_same_ones_again() -> None:
    prompts = {seed: [t.prompt for t in load(Data(limit=20), seed=seed)] for seed in (0, 1)}
    assert prompts[0] != prompts[1]
    assert prompts[0] == [t.prompt for t in load(Data(limit=20), seed=0)]


def test_a_file_without_splits_does_not_pass_as_held_out(parquet: Path) -> None:
    data = Data(path=str(parquet), columns=COLUMNS)
    with pytest.raises(UsageError, match="has no splits, so it has no 'test'") as caught:
        load(data, seed=0, split="test")
    assert "data.holdout" in str(caught.value.hint)


def test_a_held_out_share_is_kept_from_training(tmp_path: Path) -> None:
    texts = ("prompt", "question", "answer", "answer_type", "id")
    rows = {name: [f"{number}" for number in range(200)] for name in texts} | {"answer_type": ["oe"] * 200}
    kinds = Features({"image": Image()} | {name: Value("string") for name in texts})
    picture = Pictures.new("RGB", (2, 2))
    path = tmp_path / "many.parquet"
    Dataset.from_dict(rows | {"image": [picture] * 200}, features=kinds).to_parquet(path)
    data = Data(path=str(path), holdout=0.2)
    kept = {split: {triplet.id for triplet in load(data, seed=0, split=split)} for split in ("train", "test")}
    assert kept["train"].isdisjoint(kept["test"])
    assert len(kept["train"] | kept["test"]) == 200
    assert 20 < len(kept["test"]) < 60
    fewer = load(Data(path=str(path), holdout=0.2, limit=7), seed=0, split="test")
    assert {triplet.id for triplet in fewer} < kept["test"]


@pytest.fixture
def partial(tmp_path: Path) -> Data:
    """Three rows: one to draw and to answer, one to draw only, one to answer only."""
    rows = {
        "image": [Pictures.new("RGB", (8, 8))] * 3,
        "prompt": ["a dark room", "a wall", " "],
        "question": ["Is it dark?", "", "What is it?"],
        "answer": ["yes", "", "a room"],
        "answer_type": ["oe"] * 3,
    }
    kinds = {"image": Image()} | {name: Value("string") for name in list(rows)[1:]}
    Dataset.from_dict(rows, features=Features(kinds)).to_parquet(tmp_path / "partial.parquet")
    return Data(path=str(tmp_path / "partial.parquet"))


def test_rows_that_lack_the_texts_of_a_task_are_left_to_the_others(partial: Data) -> None:
    def prompts(*tasks: str) -> list[str]:
        return [triplet.prompt for triplet in load(partial, seed=0, tasks=tasks)]  # type: ignore[arg-type]

    assert prompts() == ["a dark room", "a wall", " "]
    assert prompts("t2i") == ["a dark room", "a wall"]
    assert prompts("mm2t") == ["a dark room", " "]
    assert prompts("t2i", "mm2t") == ["a dark room"]
    assert [triplet.id for triplet in load(partial, seed=0, limit=1, tasks=["mm2t"])] == ["0"]


def test_data_without_any_question_say_how_to_train_on_them(tmp_path: Path, partial: Data) -> None:
    drawn = Dataset.from_parquet(partial.path).select([1])
    drawn.to_parquet(tmp_path / "drawn.parquet")
    data = Data(path=str(tmp_path / "drawn.parquet"))
    assert len(load(data, seed=0, tasks=["t2i"])) == 1
    with pytest.raises(UsageError, match="has question and answer, which mm2t needs") as caught:
        load(data, seed=0, tasks=["t2i", "mm2t"])
    assert "corl train separate --task t2i" in str(caught.value.hint)


def write(folder: Path, **columns: list[str]) -> Data:
    """A table with an image in each row and these columns."""
    rows = len(next(iter(columns.values())))
    kinds = {"image": Image()} | {name: Value("string") for name in columns}
    path = folder / f"{'-'.join(columns)}.parquet"
    pictures = [Pictures.new("RGB", (8, 8))] * rows
    Dataset.from_dict({"image": pictures, **columns}, features=Features(kinds)).to_parquet(path)
    return Data(path=str(path))


def test_only_the_columns_of_the_tasks_are_needed(tmp_path: Path) -> None:
    drawn = write(tmp_path, prompt=["a wall"])
    triplet = load(drawn, seed=0, tasks=["t2i"])[0]
    assert (triplet.prompt, triplet.question, triplet.answer, triplet.solution) == ("a wall", "", "", "")
    with pytest.raises(UsageError, match=r"lacks question .* answer .* answer_type"):
        load(drawn, seed=0, tasks=["mm2t"])
    asked = write(tmp_path, question=["What?"], answer=["A"], answer_type=["mc"])
    assert load(asked, seed=0, tasks=["mm2t"])[0].prompt == ""
    with pytest.raises(UsageError, match="lacks prompt"):
        load(asked, seed=0, tasks=["t2i", "mm2t"])


def test_a_table_without_types_is_of_the_one_type_that_is_trained(tmp_path: Path) -> None:
    data = write(tmp_path, question=["What?"], answer=["A"])
    with pytest.raises(UsageError, match="lacks answer_type"):
        load(data, seed=0, tasks=["mm2t"])
    for kind in ("mc", "oe"):
        single = data.model_copy(update={"answer_types": [kind]})
        assert load(single, seed=0, tasks=["mm2t"], answer_types=[kind])[0].answer_type == kind  # type: ignore[list-item]


def test_questions_of_one_type_are_chosen_before_the_limit(tmp_path: Path) -> None:
    data = write(tmp_path, question=["a", "b", "c", "d"], answer=["x"] * 4, answer_type=["MC", "oe", "oe", "mc"])
    assert [t.question for t in load(data, seed=0, tasks=["mm2t"], answer_types=["mc"])] == ["a", "d"]
    assert [t.question for t in load(data, seed=0, limit=1, tasks=["mm2t"], answer_types=["oe"])] == ["b"]
    trained = data.model_copy(update={"answer_types": ["mc"]})
    assert len(load(trained, seed=0, tasks=["mm2t"])) == 4, "held-out items are not filtered"
    none = write(tmp_path, question=["a"], answer=["x"], answer_type=["mc"])
    with pytest.raises(UsageError, match="is of type oe"):
        load(none, seed=0, tasks=["mm2t"], answer_types=["oe"])


def test_the_world_gives_as_many_questions_of_one_type() -> None:
    whole = load(Data(limit=6), seed=0)
    multiple, open_ended = (load(Data(limit=6), seed=0, answer_types=[kind]) for kind in ("mc", "oe"))  # type: ignore[list-item]
    assert len(multiple) == len(open_ended) == 6
    assert {t.answer_type for t in multiple} == {"mc"}
    assert [t.id for t in multiple[:3]] == [t.id for t in whole[::2]]
    assert [t.id for t in open_ended[:3]] == [t.id for t in whole[1::2]]


def test_a_column_of_solutions_is_read_where_there_is_one(tmp_path: Path) -> None:
    data = write(tmp_path, question=["What?"], answer=["A"], answer_type=["mc"], worked=["<think>b</think>"])
    assert load(data, seed=0, tasks=["mm2t"])[0].solution == ""
    named = data.model_copy(update={"columns": {"solution": "worked"}})
    assert load(named, seed=0, tasks=["mm2t"])[0].solution == "<think>b</think>"
