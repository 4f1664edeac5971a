"""`corl generate` and `corl ask` on the shipped tiny Janus, and on a run of adapters beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import corl, overrides
from numpy.typing import NDArray
from PIL import Image

from corl_cli.core.pictures import MARGIN, TILE, Tile
from corl_cli.data.templates import INSTRUCTIONS

PAIR = "a red circle left of a blue square"
SETTINGS = {
    "train.max_steps": 1,
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "sampling.t2i.cfg_weight": 3,
    "sampling.mm2t.max_new_tokens": 20,
    "data.instruction.oe": "think-answer-words",
    "model.lora.rank": 2,
    "optim.lr": 0.5,  # so large that everything is another model's
    "optim.warmup_steps": 0,
    "eval.probes.items": 2,
    "eval.batch_size": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands are typed: a run of one step is in runs/first, and a picture of one red circle in circle.png."""
    from corl_cli.world.drawing import draw
    from corl_cli.world.scenes import Placed, Thing

    folder = tmp_path_factory.mktemp("hands")
    sets = overrides(SETTINGS)
    corl("train", "unified", *sets, "--out", "runs/first", cwd=folder, code=0)
    draw((Placed(Thing("red", "circle"), "top-left"),)).save(folder / "circle.png")
    return folder


def generate(folder: Path, *words: str | Path) -> dict[str, Any]:
    return dict(json.loads(corl("generate", *words, "--json", cwd=folder, code=0).stdout))


def ask(folder: Path, *words: str | Path) -> dict[str, Any]:
    return dict(json.loads(corl("ask", *words, "--json", cwd=folder, code=0).stdout))


def pixels(folder: Path, *words: str | Path) -> NDArray[np.uint8]:
    """The page that a command makes."""
    corl("generate", *words, "--out", "page.png", cwd=folder, code=0)
    return np.asarray(Image.open(folder / "page.png"))


def block(page: NDArray[np.uint8], columns: int, *, number: int = 0) -> NDArray[np.uint8]:
    """The first tiles of a block, without head and title."""
    left = number * (4 * (TILE + MARGIN) + MARGIN)
    return page[80:, left + MARGIN : left + columns * (TILE + MARGIN)]


def test_a_drawing_depends_on_its_prompt_seed_and_number_alone(folder: Path) -> None:
    four = pixels(folder, PAIR, "--seed", "1")
    eight = pixels(folder, PAIR, "--seed", "1", "--n", "8")
    assert (block(four, 4) == block(eight, 4)).all()
    among = pixels(folder, PAIR, "three green crosses, a red circle and a black square", "--seed", "1")
    assert (block(four, 4)[:150] == block(among, 4)[:150]).all()
    assert (block(four, 4) != block(pixels(folder, PAIR, "--seed", "2"), 4)).any()
    assert (block(four, 4) != block(pixels(folder, PAIR, "--seed", "1", "--cfg", "4"), 4)).any()


def test_two_checkpoints_are_drawn_with_the_same_noise_and_settings(folder: Path) -> None:
    alone = pixels(folder, PAIR)
    done = corl("generate", PAIR, "--compare", "runs/first", "--out", "both.png", cwd=folder, code=0)
    both = np.asarray(Image.open(folder / "both.png"))
    assert (block(both, 4) == block(alone, 4)).all()
    assert (block(both, 4, number=1) != block(both, 4)).any()
    assert "runs/first (step-000001) is sampled as world is" in done.stderr
    assert [line.removeprefix(PAIR).split()[0] for line in done.stdout.splitlines()[2:]] == ["world", "runs/first"]
    assert "both.png shows 8 drawings (CFG 1, temperature 1, seed 0)" in done.stderr


def test_a_run_is_drawn_as_it_was_trained_in_pieces_of_any_size(folder: Path) -> None:
    one = generate(folder, PAIR, "--checkpoint", "runs/first", "--out", "run.png")
    assert one["settings"] == {"seed": 0, "cfg_weight": 3.0, "temperature": 1.0, "top_p": 1.0}
    assert [drawing["sample"] for drawing in one["drawings"]] == [0, 1, 2, 3]
    inside = generate(folder, PAIR, "--checkpoint", "runs/first/checkpoints/step-000001", "--out", "inside.png")
    assert inside["settings"] == one["settings"]
    shutil.copytree(folder / "runs/first", folder / "runs/whole")
    recipe = folder / "runs/whole/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("batch_size: 3", "batch_size: 64"))
    generate(folder, PAIR, "--checkpoint", "runs/whole", "--out", "whole.png")
    pages = [np.asarray(Image.open(folder / name)) for name in ("run.png", "inside.png", "whole.png")]
    assert (block(pages[0], 4) == block(pages[1], 4)).all()
    assert (block(pages[0], 4) == block(pages[2], 4)).all()


def test_the_checker_says_what_is_right_where_it_can(folder: Path) -> None:
    done = corl("generate", PAIR, "a dog", "--n", "2", "--out", "checked.png", cwd=folder, code=0)
    lines = done.stdout.splitlines()
    assert "right (checker)" in lines[0]
    assert "of 2" in lines[2]
    assert lines[3].split()[-1] == "-"
    assert "world has no word for dog" in done.stderr
    assert not corl("generate", "a dog", "--n", "1", "--out", "dog.png", cwd=folder, code=0).stdout


def test_prompts_come_from_a_file_too_each_once(folder: Path) -> None:
    (folder / "prompts.txt").write_text(f"\ufeffthree green crosses\n\n  {PAIR}  \n{PAIR}\n", encoding="utf-8")
    found = generate(folder, "a red circle", "--file", "prompts.txt", "--n", "1", "--out", "file.png")
    assert [drawing["prompt"] for drawing in found["drawings"]] == ["a red circle", "three green crosses", PAIR]


def test_nothing_is_overwritten_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "drawings.png").write_bytes(b"mine")
    assert generate(tmp_path, "a red circle", "--n", "1")["picture"] == "drawings-2.png"
    assert (tmp_path / "drawings.png").read_bytes() == b"mine"
    done = corl("generate", "a red circle", "--n", "1", "--out", "drawings.png", cwd=tmp_path, code=0)
    assert "drawings.png now shows 1 drawing (" in done.stderr
    assert "No --checkpoint was given" in done.stderr
    corl("generate", "a red circle", "--n", "1", "--out", "new/folder/a.png", cwd=tmp_path, code=0)
    assert Image.open(tmp_path / "new/folder/a.png").width >= TILE


def test_an_answer_is_shown_as_it_was_written_and_as_it_is_taken(folder: Path) -> None:
    done = corl("ask", "--image", "circle.png", "What colour is the circle?", cwd=folder, code=0)
    written, taken = done.stdout.splitlines()
    assert written.startswith("<think>")
    assert written.endswith("<answer> red </answer>")
    assert taken == "answer: red"
    assert "is read as 'what colour is the circle?'" in done.stderr
    assert "greedy" in done.stderr


def test_a_prompt_without_quotes_is_remarked_upon(folder: Path) -> None:
    done = corl("generate", "red", "circle", "--n", "1", "--out", "apart.png", cwd=folder, code=0)
    assert "for one prompt: corl generate 'red circle'" in done.stderr


def test_several_answers_are_a_table(folder: Path) -> None:
    words = ["where is the red circle?", "how many objects are there?", "--image", "circle.png", "--n", "2"]
    rows = corl("ask", *words, "--compare", "runs/first", cwd=folder, code=0).stdout.splitlines()
    assert rows[0].split() == ["question", "checkpoint", "sample", "answer", "written"]
    found = ask(folder, *words)
    assert found["settings"] == {"seed": 0, "temperature": 1.0, "top_p": 1.0}
    assert [answer["sample"] for answer in found["answers"]] == [0, 1, 0, 1]
    assert {answer["answer"] for answer in found["answers"][2:]} <= {"one", "two", "three", "four", None}
    more = ask(folder, *words[:-1], "4")["answers"]
    assert [more[n]["written"] for n in (0, 1, 4, 5)] == [answer["written"] for answer in found["answers"]]


def test_a_run_is_asked_in_the_words_it_was_trained_with(folder: Path) -> None:
    question = "what colour is the circle?"
    done = corl("ask", "--image", "circle.png", question, "--compare", "runs/first", "--json", cwd=folder, code=0)
    plain, dressed = json.loads(done.stdout)["answers"]
    assert plain["asked"] == question
    assert dressed["asked"].startswith(f"{question}\n")
    assert dressed["asked"].split()[-5:] == INSTRUCTIONS["think-answer-words"].split()[-5:]
    assert "different instructions" in done.stderr
    choice = ask(folder, "--image", "circle.png", f"{question} red A blue B", "--checkpoint", "runs/first")
    assert choice["answers"][0]["asked"] == f"{question} red A blue B"  # multiple choice has none in this run


def test_a_transparent_picture_is_seen_on_white(folder: Path) -> None:
    circle = Image.open(folder / "circle.png").convert("RGB")
    seen = np.asarray(circle).astype(int)
    ground = (seen > 200).all(-1)  # the background, painted red and then made transparent
    layer = np.dstack([np.where(ground[..., None], (255, 0, 0), seen), np.where(ground, 0, 255)])
    Image.fromarray(layer.astype(np.uint8), "RGBA").save(folder / "layer.png")
    white = np.where(ground[..., None], 255, seen)
    Image.fromarray(white.astype(np.uint8)).save(folder / "white.png")
    words = ["how many objects are there?", "what colour is the circle?"]
    layered, plain = (ask(folder, "--image", f"{name}.png", *words)["answers"] for name in ("layer", "white"))
    assert layered == plain


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["generate"], 2, "There is no prompt"),
        (["generate", " "], 2, "A prompt is empty"),
        (["generate", "x", "--n", "0"], 2, "--n"),
        (["generate", "x", "--cfg", "nan"], 2, "finite"),
        (["generate", "x", "--temperature", "0"], 2, "all 4 samples are the same"),
        (["generate", "x", "--out", "x.jpg"], 2, "--out x.png"),
        (["generate", "x \udcff"], 2, "is no text"),
        (["generate", "a red circle " * 300], 1, "too long"),
        (["generate", "x", "--file", "nothing.txt"], 1, "nothing.txt cannot be read"),
        (["generate", "--file", "blank.txt"], 1, "holds no prompt"),
        (["generate", "x", "--compare", "world"], 2, "the same checkpoint"),
        (["generate", "x", "--checkpoint", "runs/nothing"], 2, "There is no folder runs/nothing"),
        (["generate", "x", "--checkpoint", "runs/first@best"], 1, "has no best checkpoint"),
        (["ask", "x", "--image", "nothing.png"], 1, "There is no image nothing.png"),
        (["ask", "x", "--image", "runs"], 1, "runs is a folder"),
        (["ask", "x", "--image", "blank.txt"], 1, "blank.txt cannot be asked about"),
        (["ask", "x", "--image", "huge.png"], 1, "image too large"),
        (["ask", "", "--image", "circle.png"], 2, "A question is empty"),
        (["ask", "what ? " * 100, "--image", "circle.png"], 1, "too long"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folder: Path, words: list[str], code: int, said: str) -> None:
    (folder / "blank.txt").write_text("\n")
    if "huge.png" in words:
        Image.new("1", (9000, 9000)).save(folder / "huge.png")
    done = corl(*words, cwd=folder, code=code)
    assert said in done.stderr
    assert "Loading" not in done.stderr


def test_large_drawings_keep_their_size_and_many_go_on_in_the_next_line() -> None:
    from corl_cli.pipelines.shown import lay_out

    def page(size: int, number: int) -> Image.Image:
        return lay_out("head", ["a"], [("prompt", [[Tile(Image.new("RGB", (size, size)), "")] * number])])

    assert page(384, 8).width - page(384, 4).width == 4 * (384 + MARGIN)
    assert page(32, 9).width == page(32, 8).width
    assert page(32, 9).height - page(32, 8).height == TILE + MARGIN
    assert page(1024, 2).width == page(384, 2).width


def test_many_prompts_stand_in_several_columns() -> None:
    from corl_cli.pipelines.shown import lay_out

    def page(prompts: int) -> Image.Image:
        tiles = [Tile(Image.new("RGB", (24, 24), (index // 256, index % 256, 99)), "") for index in range(prompts)]
        return lay_out("head", ["a"], [(f"prompt {index}", [[tile]]) for index, tile in enumerate(tiles)])

    few, many = page(20), page(400)
    assert many.height < 32_767 < 20 * few.height
    assert many.width > 2 * few.width
    assert len({colour for _, colour in many.getcolors(10_000) if colour[2] == 99}) == 400, "each drawing once"
