import subprocess
import sys

import pytest

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import RewardSpec
from corl_cli.rewards import REWARDS, bind, resolve
from corl_cli.rewards.base import Reward


@pytest.mark.parametrize("name", REWARDS)
def test_every_registered_reward_binds_with_its_defaults(name):
    reward = bind(RewardSpec(name=name), resolve(name).task)
    assert isinstance(reward, Reward)


def test_importing_the_registry_costs_no_torch():
    code = "import sys, corl_cli.rewards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_faults_of_the_options_are_named_with_a_suggestion():
    spec = RewardSpec.model_validate({"name": "cycle", "perceptul": "pixel", "text": "spise", "max_new_tokens": True})
    with pytest.raises(UsageError) as caught:
        bind(spec, "t2i")
    lines = caught.value.message.splitlines()
    assert len(lines) == 3
    assert "rewards.t2i.cycle.perceptul: unknown key; did you mean perceptual?" in lines
    assert any("rewards.t2i.cycle.text" in line and "scene_graph" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "task", "words"),
    [
        ("acuracy", "mm2t", "Did you mean accuracy?"),
        ("accuracy", "t2i", "Move it to rewards.mm2t"),
        ("nowhere.mod:Mine", "t2i", "No module named 'nowhere'"),
        ("os.path:join", "t2i", "is not a reward"),
        ("corl_cli.rewards.base:Reward", "t2i", "does not define score, task"),
    ],
)
def test_wrong_names_are_usage_errors(name, task, words):
    with pytest.raises(UsageError) as caught:
        bind(RewardSpec(name=name), task)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_reward_of_ones_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "from corl_cli.rewards.base import Reward, Scores\n"
        "class Mine(Reward):\n"
        "    task = 't2i'\n"
        "    def score(self, rollout, policy): ...\n"
        "raising = 1\n"
    )
    (tmp_path / "my_broken.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.chdir(tmp_path)
    assert type(bind(RewardSpec(name="my_rewards:Mine"), "t2i")).__name__ == "Mine"
    with pytest.raises(UsageError, match="no luck"):
        resolve("my_broken:Mine")


OWN = """
from corl_cli.rewards.base import Options, Reward, Scores

class Base(Reward):
    task = "t2i"
    def score(self, samples, policy): ...

class Elsewhere(Base):
    task = "image"

class Heavy(Options):
    weight: float = 5.0

class Greedy(Base):
    Options = Heavy

class Fragile(Base):
    def __init__(self, options):
        raise FileNotFoundError("weights.pt")
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Elsewhere", "scores the task 'image'"),
        ("Greedy", "options called weight, which every reward has"),
        ("Fragile", "cannot be made: FileNotFoundError: weights.pt"),
    ],
)
def test_a_class_that_no_recipe_can_use_is_a_usage_error(tmp_path, monkeypatch, name, words):
    (tmp_path / "own_rewards_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=words):
        bind(RewardSpec(name=f"own_rewards_of_a_test:{name}"), "t2i")


@pytest.mark.parametrize(("key", "meant"), [("weigt", "weight"), ("normalize", "normalise"), ("on_eror", "on_error")])
def test_keys_that_every_reward_has_are_suggested_too(key, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant}"):
        bind(RewardSpec.model_validate({"name": "cycle", key: 1}), "t2i")
