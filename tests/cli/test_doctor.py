"""`corl doctor`: true of this machine, whatever it has, and of one mind with the command it is asked about."""

import json
import os
import socket
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from commands import corl, process
from fake_hub import FakeHub, lay_cache
from huggingface_hub import constants

from corl_cli import world
from corl_cli.core.requirements import Requirement
from corl_cli.pipelines import installed
from corl_cli.pipelines.doctor import gather

SPICE = "{name: cycle, text: spice}"
NOWHERE = "{name: cycle, captioner: ./nowhere/at/all}"
FEW = "train.micro_batch_size=5"  # no divisor of 12
DARK = f"eval.probes.rewards.t2i=[{NOWHERE}]"


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No hub, and nothing of it kept here."""
    lay_cache(monkeypatch, tmp_path / "home")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def looked(*words, cwd):
    """What `corl doctor --json` finds, by name."""
    return {finding["name"]: finding for finding in json.loads(corl("doctor", *words, "--json", cwd=cwd).stdout)}


def test_it_looks_at_everything_once(alone):
    findings = json.loads(corl("doctor", "--json", cwd=alone, code=0).stdout)
    found = {finding["name"]: finding for finding in findings}
    assert len(found) == len(findings)
    assert torch.__version__ in found["torch"]["detail"]
    threads = torch.get_num_threads()
    assert found["torch"]["detail"].endswith(", 1 thread" if threads == 1 else f", {threads} threads")
    assert found["GPU"]["state"] == ("ok" if torch.cuda.is_available() else "missing")
    assert found["torchvision"]["state"] in ("ok", "broken")
    assert "HF_HUB_OFFLINE" in found["hub"]["detail"]
    assert "OPENAI_API_KEY" in found["judge key"]["detail"]
    assert found["judge key"]["state"] == "missing"
    assert found["accelerate"]["state"] == found["datasets"]["state"] == "ok"
    wanted = {"python", "peft", "flash-attn", "lmms-eval", "Java", "Stanford CoreNLP 3.6.0", "lpips-vgg backbone"}
    assert wanted <= found.keys()
    assert {"disk for runs", "disk for the hub's cache"} <= found.keys()
    assert "cycle (text: spice)" in found["Java"]["purpose"]
    assert found["CLIP model"]["purpose"] == "clip, geneval"
    for finding in findings:
        assert finding["detail"]
        assert finding["purpose"]
        assert finding["state"] == "ok" or finding["remedy"] or finding["state"] == "download"


@pytest.mark.parametrize("width", [50, 80])
def test_the_list_is_grouped_and_fits_a_terminal(alone, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    done = corl("doctor", cwd=alone, code=0)
    lines = done.stdout.splitlines()
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads == ["This machine", "Libraries", "Rewards", "Benchmarks"]
    for line in lines:
        shown = line.strip()
        assert len(line) <= width or shown.startswith(">") or " " not in shown.split(": ")[-1]
    assert "missing" in done.stderr


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("world/unified", []),
        ("world/sft", []),
        ("world/refined-mcq", []),
        ("world/unified", [FEW]),
        ("world/unified", ["rewards.t2i=[{name: clip}]"]),
        ("world/unified", [DARK]),
        ("world/unified", ["model.checkpoint=nowhere/at/all"]),
        ("world/unified", ["data.path=nowhere/at/all"]),
        ("unified/janus-pro-1b", []),
    ],
)
def test_a_training_can_run_where_its_dry_run_says_so(alone, recipe, changes):
    options = [word for change in changes for word in ("--set", change)]
    kind = recipe.partition("/")[2].partition("-")[0] if recipe.startswith("world/") else "unified"
    dry = corl("train", kind, "--recipe", recipe, "--dry-run", *options, cwd=alone)
    asked = corl("doctor", "--for", "train", recipe, *options, cwd=alone)
    assert asked.returncode == (1 if dry.returncode else 0), dry.stderr
    assert ("cannot run here" if dry.returncode else "can run here") in asked.stderr
    again = corl("doctor", "--for", "train", "--recipe", recipe, *options, cwd=alone)
    assert again.stdout == asked.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("world", []),
        ("geneval", []),
        ("geneval", ["--set", "eval.benchmarks.geneval.detector=facebook/mask2former-swin-small-coco-instance"]),
        ("mmmu", []),
        ("wise", []),
        ("dpg", ["--checkpoint", "deepseek-community/Janus-Pro-1B"]),
    ],
)
def test_a_benchmark_can_run_where_its_dry_run_needs_nothing_more(alone, name, options):
    dry = corl("eval", name, "--dry-run", "--json", *options, cwd=alone)
    ready = not dry.returncode and json.loads(dry.stdout)[0]["needs"] == "nothing more"
    assert corl("doctor", "--for", "eval", name, *options, cwd=alone).returncode == (0 if ready else 1)
    if not ready:
        assert corl("eval", name, *options, cwd=alone).returncode in (1, 2)


def test_without_a_name_all_benchmarks_of_the_recipe_are_meant(alone):
    assert corl("doctor", "--for", "eval", cwd=alone).returncode == 0
    found = looked("--for", "eval", "--recipe", "eval/janus-pro-1b", "--checkpoint", "world", cwd=alone)
    assert {"CLIP model", "a judge", "the data of DPG-Bench"} <= found.keys()
    assert corl("doctor", "--for", "eval", "--recipe", "eval/janus-pro-1b", cwd=alone).returncode == 1


@pytest.mark.parametrize("reward", ["accuracy", "matching", "clip", SPICE, NOWHERE, "cycle"])
def test_a_reward_can_run_where_it_scores(alone, reward):
    picture = alone / "a.png"
    corl("world", "show", "--n", 1, "--out", picture, cwd=alone, code=0)
    text = ["--question", "What colour?", "--gold", "red", "--completion", "It is red."]
    given = text if reward == "accuracy" else ["--image", picture, "--real", picture, "--prompt", "a red circle"]
    scored = corl("reward", "score", "--reward", reward, *given, cwd=alone)
    assert corl("doctor", "--for", "reward", reward, cwd=alone).returncode == scored.returncode, scored.stderr
    assert scored.returncode in (0, 1)


def test_only_what_the_command_needs_is_shown(alone):
    assert looked("--for", "reward", "accuracy", cwd=alone).keys() == {"python", "torch"}
    found = looked("--for", "reward", SPICE, cwd=alone)
    assert {"Java", "pycocoevalcap", "Stanford CoreNLP 3.6.0"} <= found.keys()
    assert not {"GPU", "CLIP model", "lpips-vgg heads"} & found.keys()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--for", "train", "world/unifed"], "world/unified"),
        (["--for", "eval", "genevl"], "geneval"),
        (["--for", "reward", "cycl"], "cycle"),
        (["--for", "train", "world/unified", "--set", "train.max_step=3"], "max_steps"),
        (["world/unified"], "corl doctor --for train world/unified"),
        (["--for", "train", "world/sft", "--recipe", "world/unified"], "one of them"),
        (["--for", "sleep"], "train"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(alone, words, hint):
    done = corl("doctor", *words, cwd=alone, code=2)
    assert hint in done.stderr
    assert not done.stdout


def test_things_of_one_name_are_told_apart():
    one = Requirement(name="captioner", state="ok", detail="here")
    other = Requirement(name="captioner", state="missing", detail="not there")
    found = gather({"all": [(one, "a"), (other, "b"), (one, "c")]})
    assert [(finding.state, finding.purpose) for finding in found] == [("ok", "a, c"), ("missing", "b")]


def test_the_hub_is_asked_where_something_has_to_come_from_there(tmp_path):
    models = {"corl/janus": world.checkpoint(), "corl/gated": world.checkpoint()}
    with FakeHub(models, {}) as hub, pytest.MonkeyPatch.context() as patch:
        hub.reach(patch, tmp_path / "home")
        hub.gated = {"corl/gated"}
        assert looked(cwd=tmp_path)["hub"]["state"] == "ok"
        asked = len(hub.asked)
        corl("doctor", "--for", "train", cwd=tmp_path, code=0)
        assert len(hub.asked) == asked

        def weights(name, code):
            words = ("--for", "train", "--checkpoint", name)
            assert corl("doctor", *words, cwd=tmp_path).returncode == code
            return looked(*words, cwd=tmp_path)["the policy's weights"]

        assert weights("corl/janus", 0)["state"] == "download"
        assert "is gated" in weights("corl/gated", 1)["detail"]
        assert "no model corl/absent" in weights("corl/absent", 1)["detail"]
        assert not [path for _, path, _ in hub.asked if path.endswith("model.safetensors")]
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert looked(cwd=tmp_path)["hub"]["state"] == "missing"
        done = corl("doctor", "--for", "train", "--checkpoint", "corl/janus", cwd=tmp_path, code=1)
        assert "http://127.0.0.1:9 cannot be reached" in " ".join(done.stdout.split())


def test_a_hub_that_says_nothing_is_not_waited_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        found = installed.hub(0.2)
    assert found.state == "missing"
    assert found.remedy


def test_a_package_of_another_version_than_corl_asks_for_is_broken(monkeypatch):
    assert installed.package("accelerate").state == "ok"
    monkeypatch.setattr(installed, "version", lambda name: "0.1")
    found = installed.package("accelerate")
    assert found.state == "broken"
    assert found.detail.startswith("0.1, and corl asks for")
    assert found.remedy.startswith("pip install 'accelerate")
    assert installed.package("corl-has-no-such").state == "ok"  # nothing is asked of it


def test_what_is_missing_is_installed_by_its_own_name(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError

    monkeypatch.setattr(installed, "version", nothing)
    found = {need.name: need.remedy for need, _ in installed.libraries()}
    assert found["transformers"].startswith("pip install 'transformers<6,>=")
    assert found["peft"].startswith("pip install 'peft>=")
    assert "corl" not in " ".join(found.values()), "the index has another package of that name"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_disk_that_may_not_be_written_is_broken(alone):
    (alone / "runs").mkdir(mode=0o000)
    found = looked(cwd=alone)["disk for runs"]
    assert found["state"] == "broken"
    assert "--out" in found["remedy"]


def test_a_disk_that_cannot_be_written_is_broken(alone, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # also where root runs the tests
    found = looked(cwd=alone)
    assert found["disk for runs"]["state"] == found["disk for the hub's cache"]["state"] == "broken"
    assert found["disk for runs"]["detail"] == f"{alone} cannot be written"
    assert "--out" in found["disk for runs"]["remedy"]


def stub(folder, monkeypatch, name, code):
    """A package that is found before the installed one, in the processes that are started then."""
    (folder / "first" / name).mkdir(parents=True)
    (folder / "first" / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder / "first"))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["doctor", "--for", "train", "world/unified"], True),
        (["doctor", "--for", "eval", "world"], True),
        (["train", "unified", "--dry-run"], False),
        (["ask", "what?", "--image", "a.png"], False),
    ],
)
def test_a_torchvision_that_does_not_fit_is_named(tmp_path, monkeypatch, words, found):
    stub(tmp_path, monkeypatch, "torchvision", "raise RuntimeError('torch is too old')")
    done = process(*words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    told = " ".join((done.stdout if found else done.stderr).split())
    assert told.count("torchvision is installed but does not work with torch") == 1
    assert "pip uninstall torchvision" in told
    assert told.count("broken") == found


@pytest.mark.parametrize("words", [[], ["--for", "train"]])
def test_a_torch_that_does_not_load_is_one_error(tmp_path, monkeypatch, words):
    stub(tmp_path, monkeypatch, "torch", "raise ImportError('libcudnn.so.9: cannot open')")
    done = process("doctor", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "libcudnn.so.9" in done.stderr
    assert "--force-reinstall . -c constraints.txt" in done.stderr
    assert "Traceback" not in done.stderr
