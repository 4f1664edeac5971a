"""`corl data` as a user types it, on a small set in the builder's format."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.models.prompts import Frame
from corl_cli.world import checkpoint


def corl(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


def test_check_of_a_sound_set(built_set):
    result = corl("check", built_set())
    assert result.exit_code == 0, result.output
    assert "(12 train, 4 test): no fault." in " ".join(result.stderr.split())
    assert "fault" not in result.stdout  # drawings of the world may look alike: a remark


def test_check_exits_1_when_there_are_faults(built_set):
    def change(split, number, row):
        if number == 2:
            row["answer"] = ""

    folder = built_set(change)
    result = corl("check", folder, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["rows"] == {"train": 12, "test": 4}
    assert found["sound"] is False
    assert [each for each in found["findings"] if each["severity"] == "fault"] == [
        {"severity": "fault", "what": "no answer", "count": 2, "examples": ["train 2", "test 2"]}
    ]
    table = corl("check", folder)
    assert table.exit_code == 1
    assert "no answer" in table.stdout
    assert "train 2, test 2" in table.stdout


def test_show_gives_the_chat_text_and_counts_tokens(built_set, tmp_path):
    folder = built_set()
    result = corl("show", folder, "--index", "3", "--out", tmp_path / "new" / "three.png")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:2] == [f"world-train-0-3, number 3 of 12, from {folder}", "image: 32 x 32 pixels"]
    assert "t2i: 10 tokens of text, then 16 of the drawing: 26 of 128" in lines
    assert "mm2t: 11 tokens of text and 16 of the image, then at most 40 of the answer: 67 of 128" in lines
    assert "<begin_of_image> <image_placeholder> x 16 <end_of_image> where is the red triangle?" in result.stdout
    assert lines[-1] == "answer (oe): bottom-left"
    assert Image.open(tmp_path / "new" / "three.png").size == (32, 32)


def test_show_says_when_a_prompt_does_not_fit(built_set):
    settings = ["--set", "data.instruction.oe=think-answer-words", "--set", "sampling.mm2t.max_new_tokens=100"]
    result = corl("show", built_set(), "--split", "test", "--index", "-1", *settings, "--json")
    shown = json.loads(result.stdout)
    assert (shown["id"], shown["index"], shown["rows"]) == ("world-test-0-3", 3, 4)
    drawing, answering = shown["views"]
    assert drawing["fits"] is True
    assert answering["fits"] is False
    assert answering["total"] == answering["text_tokens"] + 16 + 100
    assert "thinking process" in shown["question"]


def test_show_leaves_out_the_task_that_has_no_text(built_set):
    result = corl("show", built_set(lambda split, number, row: row.update(question="", answer="")), "--json")
    assert [view["task"] for view in json.loads(result.stdout)["views"]] == ["t2i"]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["show", "SET", "--index", "12"], 2, "error: There is no triplet 12: SET has 12 in train."),
        (["show", "SET", "--out", "image.jpg"], 2, "error: image.jpg: the image is saved as PNG."),
        (["show", "SET", "--set", "model.checkpoint=nowhere"], 1, "error: No Janus checkpoint could be read"),
        (["check", "nowhere"], 1, "error: No triplets could be read from nowhere"),
        (["check", "world"], 2, "error: The embedded world has no files to check."),
    ],
)
def test_what_a_user_can_mend(built_set, words, code, error):
    folder = str(built_set())
    result = corl(*(folder if word == "SET" else word for word in words))
    assert result.exit_code == code
    assert result.stderr.splitlines()[-2].startswith(error.replace("SET", folder))
    assert result.stderr.splitlines()[-1].startswith("hint: ")


def test_the_frame_is_that_of_the_policy(policy, triplets):
    frame = Frame.load(checkpoint())
    assert frame.num_drawing_tokens == policy.num_drawing_tokens
    assert frame.image_token_id == policy.image_token_id
    assert frame.room == policy.model.config.text_config.max_position_embeddings
    questions = [triplet.question for triplet in triplets]
    for ours, theirs in zip(frame.prompts.ask(questions), policy.prompts.ask(questions), strict=True):
        assert torch.equal(ours, theirs)


def test_shards_are_merged_into_one_set(tmp_path):
    def build(*words):
        result = CliRunner().invoke(
            app,
            ["prepare-data", "--limit", "40", "--num-proc", "1", "--set", "prepare.shard_size=10", *map(str, words)],
        )
        assert result.exit_code == 0, result.output

    build("--out", tmp_path / "whole")
    for shard in (1, 2):
        build("--out", tmp_path / str(shard), "--shard", f"{shard}/2")
    result = corl("merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "both", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["total"]["offered"] == 40
    whole, both = (
        {file.name: file.read_bytes() for file in (tmp_path / name / "data").iterdir()} for name in ("whole", "both")
    )
    assert whole == both
    assert corl("check", tmp_path / "both").exit_code == 0
    missing = corl("merge", tmp_path / "2", "--out", tmp_path / "half")
    assert missing.exit_code == 2
    assert "Shards are missing: 1/2." in missing.stderr


def test_the_cost_of_building_is_measured_in_fresh_processes(tmp_path):
    words = ["bench", "data", "--items", "12", "--items", "4", "--scratch", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert (first["items"], first["kept"], second["items"], second["kept"]) == (4, 4, 12, 12)
    assert first["ms_per_further_item"] is None
    assert second["peak_mib"] > 50
    assert not list(tmp_path.iterdir())
