"""`corl reward` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from corl_cli.cli.app import app
from corl_cli.rewards import REWARDS

ACCURACY = ["--reward", "accuracy", "--question", "What colour?", "--gold", "red"]


def reward(*words: str) -> Result:
    return CliRunner().invoke(app, ["reward", *words])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, triplets) -> Path:
    for row, triplet in enumerate(triplets):
        triplet.image.save(tmp_path / f"{row}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ls_tells_what_each_reward_needs_and_whether_it_is_here():
    listed = {entry["name"]: entry for entry in json.loads(reward("ls", "--json").stdout)}
    assert set(listed) == set(REWARDS)
    assert listed["accuracy"]["task"] == "mm2t"
    assert listed["matching"]["policy"] == "policy"
    assert listed["cycle"]["policy"] == "frozen policy"
    assert listed["cycle"]["state"] == "ok"
    choices = {(choice["option"], choice["value"]): choice for choice in listed["cycle"]["choices"]}
    assert {option for option, _ in choices} == {"perceptual", "text", "captioner"}
    assert choices["perceptual", "pixel"]["state"] == "ok"
    for choice in [("perceptual", "lpips-vgg"), ("text", "spice"), ("text", "embedding")]:
        assert choices[choice]["needs"]
    table = reward("ls").stdout
    assert all(name in table for name in [*REWARDS, "perceptual: lpips-squeeze", "captioner: policy"])


def test_show_prints_formula_options_and_needs():
    shown = reward("show", "cycle").stdout
    for words in ("arXiv 2505.17534", "pixel | lpips-vgg", "int | null", "A sample holds: image, prompt, real"):
        assert words in shown
    assert json.loads(reward("show", "matching", "--json").stdout)["options"][0]["values"] == "policy | reference"
    assert "Did you mean cycle?" in reward("show", "cycel").stderr


def test_show_a_reward_of_ones_own_with_a_required_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown_reward.py").write_text(
        "from corl_cli.rewards.base import Options, Reward\n"
        "class Mine(Reward):\n"
        "    '''Pays for nothing.'''\n"
        "    task = 'mm2t'\n"
        "    class Options(Options):\n"
        "        depth: int\n"
        "    def score(self, samples, policy): ...\n"
    )
    shown = reward("show", "shown_reward:Mine").stdout
    assert "Pays for nothing." in shown
    assert "required" in shown


def test_show_prints_remedies_whole_and_below():
    cycle = next(one for one in json.loads(reward("ls", "--json").stdout) if one["name"] == "cycle")
    shown = reward("show", "cycle").stdout
    for need in [need for choice in cycle["choices"] for need in choice["needs"] if need["remedy"]]:
        assert f"  {need['name']}: {need['remedy']}" in shown


def test_show_tells_what_is_read_where_it_is_given():
    words = "A sample holds: completion, gold; and, where there is one, question, answer_type"
    assert words in reward("show", "accuracy").stdout


def test_a_choice_need_not_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graded_reward.py").write_text(
        "from typing import Literal\n"
        "from corl_cli.core.requirements import Requirement\n"
        "from corl_cli.rewards.base import Options, Reward\n"
        "class Graded(Reward):\n"
        "    'Pays for nothing.'\n"
        "    task = 'mm2t'\n"
        "    class Options(Options):\n"
        "        k: Literal[1, 2, False, 'a'] | None = 1\n"
        "    def requirements(self):\n"
        "        return [Requirement(name=f'needed for {self.options.k!r}', state='ok', detail='here')]\n"
        "    def score(self, samples, policy): ...\n"
    )
    found = json.loads(reward("show", "graded_reward:Graded", "--json").stdout)
    assert found["options"][0]["values"] == "1 | 2 | false | a | null"
    needs = {choice["value"]: choice["needs"][0]["name"] for choice in found["choices"]}
    assert needs == {
        value: f"needed for {python}" for value, python in [("1", 1), ("2", 2), ("false", False), ("a", "'a'")]
    }


@pytest.mark.parametrize("kind", [[], ["--answer-type", "oe"]])
def test_score_one_answer(kind):
    found = reward("score", *ACCURACY, "--completion", "It is red.", *kind, "--json")
    assert found.exit_code == 0
    scored = json.loads(found.stdout)
    assert scored["failed"] == []
    assert scored["samples"][0]["id"] == "1"
    assert scored["samples"][0]["scores"] == {"accuracy": 1.0}
    assert "It is red." in scored["samples"][0]["notes"]["accuracy"]
    assert set(scored["samples"][0]) == {"id", "scores", "notes"}
    assert "accuracy" in reward("score", *ACCURACY, "--completion", "blue").stdout


def test_score_one_drawing_with_the_shipped_policy(folder, triplets):
    words = ["--image", "0.png", "--real", "0.png", "--prompt", triplets[0].prompt]
    found = reward("score", "--reward", "cycle", *words, "--json")
    assert "policy: world (the shipped tiny Janus)" in found.stderr
    scores = json.loads(found.stdout)["samples"][0]["scores"]
    assert scores["cycle.pixel"] == 1.0
    assert scores["cycle"] == pytest.approx(scores["cycle.pixel"] + scores["cycle.scene_graph"])
    weighted = reward("score", "--reward", "{name: cycle, text_weight: 0}", *words, "--json")
    assert json.loads(weighted.stdout)["samples"][0]["scores"]["cycle"] == 1.0


def test_a_reward_by_name_is_the_recipes(folder):
    words = ["--reward", "checker", "--image", "0.png", "--prompt", "a red circle", "--json"]
    plain = json.loads(reward("score", "--recipe", "world/checker", *words).stdout)["samples"][0]["scores"]
    half = ["--recipe", "world/checker", "--set", "rewards.t2i.checker.partial_weight=0.5"]
    scores = json.loads(reward("score", *half, *words).stdout)["samples"][0]["scores"]
    assert plain["checker"] == pytest.approx(plain["checker.correct"] + plain["checker.partial"])
    assert scores["checker"] == pytest.approx(plain["checker.correct"] + 0.5 * plain["checker.partial"])
    assert plain["checker.partial"] > 0


def test_score_a_file_goes_on_past_wrong_lines(folder):
    rows = [{"id": f"q{n}", "gold": "yes", "completion": "yes" if n % 2 else "no"} for n in range(12)]
    lines = [json.dumps(row) for row in rows]
    (folder / "many.jsonl").write_text("\n".join([*lines[:5], "oops", *lines[5:]]))
    words = ["--reward", "accuracy", "--reward", "format", "--file", "many.jsonl"]
    found = reward("score", *words, "--json")
    scored = json.loads(found.stdout)
    assert found.exit_code == 1
    assert [one["id"] for one in scored["samples"]] == [f"q{n}" for n in range(12)]
    assert [one["scores"]["accuracy"] for one in scored["samples"]] == [float(n % 2) for n in range(12)]
    assert [one["id"] for one in scored["failed"]] == ["6"]
    assert "error: 1 of 13 samples failed:\n  line 6: this is not JSON" in found.stderr
    table = reward("score", *words)
    assert (table.exit_code, "q11" in table.stdout, "line 6" in table.stderr) == (1, True, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--image", "0.png"], 2, "No reward is named."),
        (["--reward", "cycel", "--image", "0.png"], 2, "Did you mean cycle?"),
        (["--reward", "{name: cycle, perceptual: lpips}"], 2, "lpips-vgg"),
        (["--reward", "cycle", "--image", "0.png"], 2, "needs --prompt and --real"),
        (["--reward", "cycle", "--file", "none.jsonl"], 1, "There is no file none.jsonl"),
        (["--reward", "cycle", "--file", "x.jsonl", "--image", "0.png"], 2, "--file and --image exclude each other"),
        (["--reward", "{name: accuracy, weight: 2}", *ACCURACY[2:], "--completion", "red"], 2, "would do nothing"),
        (["--reward", "cycle", "--image", ".", "--real", "0.png", "--prompt", "x"], 1, "the image . is a folder"),
        ([*ACCURACY, "--completion", ""], 1, "the completion is empty"),
        ([*ACCURACY, "--completion", "red", "--answer-type", "yes"], 2, "'mc', 'oe'"),
        (["--reward", "matching", "--image", "0.png", "--prompt", "x", "--checkpoint", "nowhere"], 1, "nowhere"),
        (["--reward", "cycle", "--image", "0.png", "--real", "none.png", "--prompt", "x"], 1, "no image none.png"),
        (["--reward", "cycle", "--image", "odd.png", "--real", "0.png", "--prompt", "x"], 1, "the drawing is 40x30"),
    ],
)
def test_bad_input_is_one_line(folder, words, code, says):
    from PIL import Image

    Image.new("RGB", (40, 30)).save("odd.png")
    found = reward("score", *words)
    assert (found.exit_code, found.stdout) == (code, "")
    assert says in found.stderr
    assert "Traceback" not in found.stderr


def test_one_failing_reward_leaves_the_others(folder):
    words = ["--reward", "matching", "--reward", "cycle", "--image", "0.png", "--real", "0.png", "--prompt", "..."]
    found = reward("score", *words, "--json")
    scored = json.loads(found.stdout)
    assert found.exit_code == 1
    assert [set(one["scores"]) for one in scored["samples"]] == [{"matching"}]
    assert set(scored["samples"][0]) == {"id", "scores", "notes"}
    assert [one["id"] for one in scored["failed"]] == ["1"]
    assert scored["failed"][0]["error"].startswith("cycle: ")
    table = reward("score", *words)
    assert (table.exit_code, "matching" in table.stdout, "error: cycle: " in table.stderr) == (1, True, True)


def test_a_missing_image_is_noticed_before_the_models_load(folder):
    found = reward("score", "--reward", "cycle", "--image", "none.png", "--real", "0.png", "--prompt", "a red circle")
    assert (found.exit_code, found.stdout) == (1, "")
    assert "policy: " not in found.stderr


def test_what_ran_is_said(folder, triplets):
    words = ["--image", "0.png", "--real", "0.png", "--prompt", triplets[0].prompt]
    found = reward("score", "--reward", "cycle", *words)
    assert "options of cycle: perceptual pixel, text scene_graph" in found.stderr
    assert "captioner policy" in found.stderr


def test_explain_refuses_a_place_before_scoring(folder):
    for out, says in (("0.png", "is a file"), (".", "holds something else")):
        found = reward("explain", *ACCURACY, "--completion", "red", "--out", out)
        assert (found.exit_code, found.stdout) == (2, "")
        assert says in found.stderr


def test_a_single_sample_that_fails_is_in_the_json_too():
    found = reward("score", *ACCURACY, "--completion", " ", "--json")
    error = "the completion is empty; reward 'accuracy' has nothing to score"
    assert found.exit_code == 1
    assert json.loads(found.stdout) == {"samples": [], "failed": [{"id": "1", "error": error}]}


def test_explain_writes_a_page_and_says_it(folder, triplets):
    rows = [{"prompt": t.prompt, "image": f"{n}.png", "real": f"{n}.png"} for n, t in enumerate(triplets)]
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = reward("explain", "--reward", "cycle", "--file", "many.jsonl", "--limit", "2", "--out", "why")
    assert found.exit_code == 0
    assert "caption by policy" in found.stdout
    assert found.stdout.rstrip().endswith("page: why/index.html")
    assert "the first 2 of 6 samples" in found.stderr
    assert (folder / "why" / "index.html").read_text().count("<h2 id=") == 2
    assert len(list((folder / "why").glob("*.png"))) == 6


def test_explain_an_answer(folder):
    found = reward("explain", *ACCURACY, "--completion", "It is red.")
    assert "accuracy 1.0000" in found.stdout
    assert "It is red." in (folder / "explain" / "index.html").read_text()
