"""Rewards on samples that a user brings: what is read, in which order scores come, what fails and why."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import load
from corl_cli.pipelines import samples, score
from corl_cli.pipelines.explain import check_folder, explain, lines, write
from corl_cli.pipelines.samples import Failure, Given, GivenTriplet
from corl_cli.pipelines.score import Panel, Scored

HERE = "tests_pipelines_rewards"
MINE = """
import torch
from corl_cli.core.requirements import Requirement
from corl_cli.rewards.base import Reward, Scores

seen = []

class Red(Reward):
    task, needs_policy = "t2i", False
    def score(self, samples, policy):
        seen.append(samples)
        return Scores(values=torch.tensor([float(image.getpixel((0, 0))[0]) for image in samples.outputs]))

class Peek(Red):
    def score(self, samples, policy):
        return Scores(values=torch.tensor([float(triplet.image.width) for triplet in samples.triplets]))

class Shared(Red):
    columns = ("image", "real")
    def score(self, samples, policy):
        first = samples.triplets[0].image
        return Scores(values=torch.tensor([float(triplet.image is first) for triplet in samples.triplets]))

class Picky(Red):
    def score(self, samples, policy):
        values = [float(image.getpixel((0, 0))[0]) for image in samples.outputs]
        if any(value > 100 for value in values):
            raise ValueError("too red")
        return Scores(values=torch.tensor(values))

class Asks(Reward):
    task, needs_policy, columns = "mm2t", False, ("gold",)
    def score(self, samples, policy):
        return Scores(values=torch.tensor([float(len(triplet.question)) for triplet in samples.triplets]))

class Lacking(Red):
    def requirements(self):
        return [Requirement(name="a violin", state="missing", detail="none in the attic", remedy="Buy one.")]
"""


@pytest.fixture
def mixed(folder: Path) -> Path:
    """A file with a drawing and an answer."""
    Image.new("RGB", (4, 4), (7, 0, 0)).save(folder / "seven.png")
    rows = [{"id": "drawn", "image": "seven.png"}, {"id": "said", "gold": "red", "completion": "red"}, {"id": "lost"}]
    path = folder / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{HERE}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, HERE, raising=False)
    return tmp_path


def panel(*rewards: str) -> Panel:
    return Panel(load("world/unified"), rewards)


def jsonl(folder: Path, *rows: object) -> Path:
    file = folder / "samples.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def shades(folder: Path, values: list[int]) -> list[dict[str, str]]:
    for value in values:
        Image.new("RGB", (4, 4), (value, 0, 0)).save(folder / f"{value}.png")
    return [{"id": f"s{value}", "image": f"{value}.png"} for value in values]


def outcomes(panel: Panel, file: Path) -> list[Scored | Failure]:
    given = samples.read(file, panel.needs)
    panel.load()
    return list(panel.score(given))


def test_scores_keep_the_order_of_many_lines(folder):
    values = [(37 * row) % 256 for row in range(score.CHUNK + 9)]  # distinct, over more than one chunk
    found = outcomes(panel(f"{HERE}:Red"), jsonl(folder, *shades(folder, values)))
    assert [(one.id, one.scores) for one in found] == [(f"s{v}", {f"{HERE}:Red": float(v)}) for v in values]


def test_batched_scores_equal_single_ones(folder, triplets):
    for row, triplet in enumerate(triplets):
        triplet.image.save(folder / f"{row}.png")
    rows = [
        {"prompt": triplet.prompt, "image": f"{(row + 1) % 6}.png", "real": f"{row}.png"}
        for row, triplet in enumerate(triplets)
    ]
    shown = panel("cycle", "matching")
    batch = outcomes(shown, jsonl(folder, *rows))
    for row, found in zip(rows, batch, strict=True):
        (alone,) = shown.score([samples.single(row, shown.needs)])
        assert alone.scores == pytest.approx(found.scores, abs=1e-5)
        assert alone.notes == found.notes
    assert len({one.scores["cycle"] for one in batch}) > 1
    assert {"cycle", "cycle.pixel", "cycle.scene_graph", "matching"} == set(batch[0].scores)
    assert batch[0].scores["cycle"] == pytest.approx(
        batch[0].scores["cycle.pixel"] + batch[0].scores["cycle.scene_graph"], abs=1e-6
    )


def test_a_row_that_raises_fails_alone_also_when_its_whole_chunk_raises(folder):
    rows = shades(folder, [10, 200, 20])
    found = outcomes(panel(f"{HERE}:Picky"), jsonl(folder, *rows))
    assert [isinstance(one, Failure) for one in found] == [False, True, False]
    assert found[1].error.startswith(f"line 2: {HERE}:Picky: ValueError: too red")
    found = outcomes(panel(f"{HERE}:Picky"), jsonl(folder, *shades(folder, [200, 201])))
    for number, one in enumerate(found, 1):
        assert one.error.startswith(f"line {number}: {HERE}:Picky: ValueError: too red")


def test_a_reward_that_fails_leaves_the_scores_of_the_others(folder):
    whole, part = outcomes(panel(f"{HERE}:Red", f"{HERE}:Picky"), jsonl(folder, *shades(folder, [10, 200])))
    assert isinstance(whole, Scored)
    assert (whole.scores, whole.error) == ({f"{HERE}:Red": 10.0, f"{HERE}:Picky": 10.0}, "")
    assert isinstance(part, Scored)
    assert part.scores == {f"{HERE}:Red": 200.0}
    assert part.error.startswith(f"line 2: {HERE}:Picky: ValueError: too red")


def test_half_of_a_reward_is_no_score(folder, triplets):
    triplets[0].image.save(folder / "a.png")
    shown = panel("cycle", "matching")
    shown.load()
    row = {"prompt": "...", "image": "a.png", "real": "a.png"}
    (found,) = shown.score([samples.single(row, shown.needs)])
    assert set(found.scores) == {"matching"}
    assert found.error.startswith("cycle: ")


def test_a_question_is_empty_for_accuracy_alone(folder):
    row = {"gold": "red", "completion": "It is red."}
    asked, silent = outcomes(panel("accuracy", f"{HERE}:Asks"), jsonl(folder, row | {"question": "What?"}, row))
    assert asked.scores == {"accuracy": 1.0, f"{HERE}:Asks": 5.0}
    assert silent.scores == {"accuracy": 1.0}
    assert "'question' is not among its `columns`" in silent.error


def test_nothing_stands_in_for_a_real_image_that_is_not_among_the_columns(folder):
    rows = [row | {"real": "10.png"} for row in shades(folder, [10])]
    (found,) = outcomes(panel(f"{HERE}:Peek"), jsonl(folder, *rows))
    assert isinstance(found, Failure)
    assert "'real' is not among its `columns`" in found.error


def test_a_triplet_holds_what_was_given_and_no_more():
    triplet = GivenTriplet(id="a", prompt="p")
    assert triplet.prompt == "p"
    with pytest.raises(CorlError, match="'gold' is not among"):
        _ = triplet.answer
    with pytest.raises(AttributeError):
        _ = triplet.anything_else


def test_a_real_image_of_several_lines_is_one_object(folder):
    shades(folder, [10, 20])
    rows = [{"image": "10.png", "real": real} for real in ("20.png", "10.png", "20.png")]
    found = outcomes(panel(f"{HERE}:Shared"), jsonl(folder, *rows))
    assert [one.scores[f"{HERE}:Shared"] for one in found] == [1.0, 0.0, 1.0]


def test_what_a_reward_lacks_is_said_before_anything_is_loaded(folder):
    with pytest.raises(CorlError, match=r"needs a violin \(missing\): none in the attic") as caught:
        panel(f"{HERE}:Lacking").load()
    assert caught.value.hint == "Buy one."


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        ("{", "2", "this is not JSON"),
        ("[1]", "2", "a line is a JSON object"),
        ({"id": "b", "compltion": "x"}, "b", "unknown key 'compltion'; did you mean completion?"),
        ({"id": 3, "gold": 4, "completion": "4"}, "3", "gold: text in quotes is needed, not 4"),
        ({"completion": "4"}, "2", "reward 'accuracy' needs the column 'gold', which is missing"),
        ({"gold": "4", "completion": None}, "2", "needs the column 'completion', which is missing"),
        ({"gold": "4", "completion": " \n"}, "2", "the completion is empty"),
        ({"gold": "4", "completion": "4", "answer_type": "MC"}, "2", "answer_type: 'MC' is neither mc"),
        ({"id": "first", "gold": "4", "completion": "4"}, "first", "the id 'first' stands for line 1 already"),
        ({"id": "b", "gold": "4", "completion": "\ud800"}, "2", r"'completion': '\ud800' is half a character"),
        ({"id": "\udc00", "gold": "4", "completion": "4"}, "2", r"'id': '\udc00' is half a character"),
        ({"\ud800": "4"}, "2", "is half a character"),
    ],
)
def test_a_wrong_line_is_named_and_the_others_go_on(folder, row, name, words):
    right = {"question": "How many?", "gold": "4", "completion": "four"}
    found = outcomes(panel("accuracy"), jsonl(folder, right | {"id": "first"}, row, "", right))
    assert [one.id for one in found] == ["first", name, "4"]
    assert [getattr(one, "scores", None) for one in found] == [{"accuracy": 1.0}, None, {"accuracy": 1.0}]
    assert found[1].error.startswith("line 2: ")
    assert words in found[1].error
    found[1].error.encode()


@pytest.mark.parametrize(
    ("name", "words"), [("none.png", "there is no image"), ("bad.png", "cannot be read"), ("cut.png", "cannot be read")]
)
def test_an_image_that_cannot_be_read_fails_its_line(folder, name, words):
    row = shades(folder, [10])[0]
    (folder / "bad.png").write_text("not a picture")
    Image.effect_noise((64, 64), 50).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    first, second = outcomes(panel(f"{HERE}:Red"), jsonl(folder, {"image": name}, row))
    assert words in first.error
    assert name in first.error
    assert second.scores == {f"{HERE}:Red": 10.0}


@pytest.mark.parametrize(
    ("name", "words"), [("none.png", "there is no image"), ("inner", "is a folder"), ("a\0b", "there is no image")]
)
def test_an_image_that_is_not_there_is_noticed_before_anything_is_loaded(folder, name, words):
    (folder / "inner").mkdir()
    (found,) = samples.read(jsonl(folder, {"image": name}), panel(f"{HERE}:Red").needs)
    assert isinstance(found, Failure)
    assert words in found.error
    assert found.given is not None
    assert found.given.values == {"image": name}


def test_an_option_that_is_no_text_is_a_failure():
    found = samples.single({"gold": "red", "completion": "\udcff"}, panel("accuracy").needs)
    assert isinstance(found, Failure)
    assert "half a character" in found.error


def test_images_are_looked_for_beside_the_file(folder, monkeypatch):
    file = jsonl(folder, *shades(folder, [10]))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert outcomes(panel(f"{HERE}:Red"), file)[0].scores == {f"{HERE}:Red": 10.0}


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_file_without_lines_is_an_error(folder, content):
    (folder / "file.jsonl").write_bytes(content)
    with pytest.raises(CorlError, match=r"file\.jsonl"):
        samples.read(folder / "file.jsonl", {})


def test_options_that_a_reward_lacks_are_a_usage_error():
    with pytest.raises(UsageError, match="needs --image and --prompt and --real"):
        samples.single({"image": None, "question": "x"}, panel("cycle").needs)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(rows=st.lists(st.fixed_dictionaries({"gold": texts, "completion": texts}, optional={"question": texts})))
def test_every_line_is_read_as_it_was_written(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("lines") / "samples.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows) or " ", encoding="utf-8")
    if not rows:
        with pytest.raises(CorlError, match="is empty"):
            samples.read(file, {})
        return
    read = samples.read(file, {"accuracy": ["gold", "completion"]})
    assert [dict(one.values) for one in read if isinstance(one, Given)] == rows
    assert [one.id for one in read] == [str(number) for number in range(1, len(rows) + 1)]


def test_an_explanation_shows_the_score_its_facts_and_pictures(folder, triplets):
    triplets[0].image.save(folder / "a.png")
    shown = panel("cycle", "matching")
    row = {"prompt": triplets[0].prompt, "image": "a.png", "real": "a.png"}
    found = [samples.single(row, shown.needs), Failure(id="2", error="line 2: <broken>")]
    shown.load()
    explained = list(explain(shown, found))
    page = write(folder / "why", shown, explained).read_text()
    text = "\n".join(line for sample in explained for line in lines(sample))
    assert explained[0].explanations["cycle"].facts["matched"] in text
    assert f"cycle {explained[0].outcome.scores['cycle']:.4f}" in text
    assert "line 2: &lt;broken&gt;" in page
    assert "failed: line 2: <broken>" in text
    pictures = sum(len(why.pictures) for why in explained[0].explanations.values())
    assert page.count("data:image/png") == pictures == len(list((folder / "why").glob("0001-*.png")))
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('href="#sample-') == 2
    assert "2 samples, 1 failed" in page


def test_a_failed_sample_is_shown_with_what_was_given_and_its_own_picture(folder):
    shown = panel(f"{HERE}:Shared")
    rows = [row | {"real": "none.png"} for row in shades(folder, [10])]
    (explained,) = explain(shown, samples.read(jsonl(folder, *rows), shown.needs))
    assert explained.given == {"image": "10.png", "real": "none.png"}
    assert [(tile.text, tile.image.getpixel((0, 0))) for tile in explained.pictures] == [("drawing", (10, 0, 0))]
    page = write(folder / "why", shown, [explained]).read_text()
    assert page.count("data:image/png") == 1
    assert '<section class="box warning">' in page
    assert "no score" in page
    assert "10.png" in page
    assert "Overview" not in page


def test_the_page_lists_the_options_that_were_set(folder):
    shown = panel("{name: cycle, text_weight: 0.5}")
    page = write(folder / "why", shown, []).read_text()
    was_set, at_defaults = page.split("<details>")
    assert "text_weight" in was_set
    assert "perceptual_weight" not in was_set
    assert "captioner" in at_defaults


def test_an_earlier_page_is_replaced_whole(folder):
    shown = panel(f"{HERE}:Red")
    shown.load()
    given = samples.read(jsonl(folder, *shades(folder, [10, 20])), shown.needs)
    write(folder / "why", shown, list(explain(shown, given)))
    (folder / "why" / "notes.txt").write_text("mine")
    check_folder(folder / "why")
    write(folder / "why", shown, list(explain(shown, given[1:])))
    names = [path.name for path in (folder / "why").iterdir()]
    assert len(names) == 3
    assert {"notes.txt", "index.html"} < set(names)


def test_a_folder_of_other_things_and_a_file_are_refused(folder):
    check_folder(folder / "new" / "deep")
    (folder / "empty").mkdir()
    check_folder(folder / "empty")
    with pytest.raises(UsageError, match="holds something else"):
        check_folder(folder)
    (folder / "a.png").write_text("x")
    for place in (folder / "a.png", folder / "a.png" / "inner"):
        with pytest.raises(UsageError, match=r"a\.png is a file"):
            check_folder(place)


def test_a_reward_that_cannot_explain_says_why_beside_the_drawing(folder):
    shown = panel(f"{HERE}:Picky")
    given = samples.read(jsonl(folder, *shades(folder, [200])), shown.needs)
    shown.load()
    (explained,) = explain(shown, given)
    assert explained.explanations[f"{HERE}:Picky"].facts["failed"].startswith("ValueError: too red")
    assert [tile.text for tile in explained.explanations[f"{HERE}:Picky"].pictures] == ["drawing"]


def test_one_file_may_hold_drawings_and_answers(mixed: Path) -> None:
    panel = Panel(load("world/unified"), [f"{HERE}:Red", "accuracy", "format"])
    panel.load()
    given = samples.read(mixed, panel.needs)
    drawn, said, lost = panel.score(given)
    assert isinstance(drawn, Scored)
    assert drawn.scores == {f"{HERE}:Red": 7.0}
    assert isinstance(said, Scored)
    assert said.scores == {"accuracy": 1.0, "format": 0.0}
    assert isinstance(lost, Failure)
    assert "needs the column 'image'" in lost.error
    shown = [set(sample.explanations) for sample in explain(panel, given)]
    assert shown == [{f"{HERE}:Red"}, {"accuracy", "format"}, set()]
