"""Every command that the README shows is run, in order, in one fresh folder: as written, except that most trainings
have smaller groups and fewer held-out items.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from commands import corl, process

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
CORL = [command for command in COMMANDS if command.startswith("corl ")]
EXPECTED = {
    "corl train unified --recipe unified/janus-pro-1b --out runs/janus-pro-1b": (2, "cannot run here"),
    "corl prepare-data --recipe prepare/stage1 --dry-run": (1, "data/raw/coco/train2017 is missing"),
    "corl eval geneval --recipe eval/janus-pro-1b --self-test": (1, "geneval needs object detector (missing)"),
    "corl recipe diff world/unified world/checker": (1, ""),  # they differ
    "corl doctor --for train unified/janus-pro-1b": (1, ""),  # weights, data and rewards' models are not here
}  # what needs a network says so; everything else exits 0
WHOLE = "corl train unified --set train.max_steps=20 --out runs/first"  # is run as it is
APART = "corl train unified --dry-run"  # in a process of its own, as what starts several is
FEWER = ["--set", "eval.probes.items=4", "--set", "sampling.group_size=2"]


def test_the_readme_shows_only_commands_that_are_tested() -> None:
    assert len(CORL) >= 10
    assert set(COMMANDS) - set(CORL) == {"make demo", "make test"}
    assert {*EXPECTED, WHOLE, APART} <= set(CORL)


def test_the_readmes_pictures_and_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if not target.startswith(("https://", "#")):
            assert (ROOT / target).is_file(), target
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"(?m)^#+ (.*)$", README)
    }
    assert {target[1:] for target in re.findall(r"\]\((#[^)]+)\)", README)} <= heads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.mark.parametrize("command", CORL)
def test_the_readmes_commands_run(command: str, folder: Path) -> None:
    code, words = EXPECTED.get(command, (0, ""))
    typed = shlex.split(command)[1:]
    if typed[0] in ("train", "study") and "--set" in typed and not command.startswith(WHOLE):
        typed += FEWER
    apart = "--num-processes" in typed or command == APART
    done = (process if apart else corl)(*typed, cwd=folder)
    assert done.returncode == code, done.stderr
    assert words in done.stderr


def test_the_readmes_reward_scores_drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from corl_cli.core.recipe import RewardSpec
    from corl_cli.rewards import bind

    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "readme_reward.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    reward = bind(RewardSpec(name="readme_reward:Dark"), "t2i")
    outputs = [Image.new("RGB", (4, 4), shade) for shade in ("black", "white")]
    assert reward.score(type("R", (), {"outputs": outputs})(), None).values.tolist() == [1.0, 0.0]  # type: ignore[arg-type]


def test_the_readmes_recipe_takes_its_reward(tmp_path: Path) -> None:
    for name, language in (("mine.py", "python"), ("mine.yaml", "yaml")):
        (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        (tmp_path / name).write_text(code)
    done = process("train", "unified", "--recipe", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_make_demo_trains_the_demonstration_and_goes_on() -> None:
    shown = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "corl train unified --out runs/demo --resume" in shown
