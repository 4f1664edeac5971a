"""What recipes need from a network, fetched from a small hub of our own and used where there is none."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fake_hub import COMMIT, FakeHub, lay_cache

from corl_cli import world
from corl_cli.core.loader import load, names
from corl_cli.core.prepared import prepared
from corl_cli.core.requirements import Wanted
from corl_cli.data import triplets
from corl_cli.eval import bind
from corl_cli.eval.base import Setting
from corl_cli.pipelines import build
from corl_cli.pipelines.evaluated import Checkpoint
from corl_cli.pipelines.fetch import fetch, lacking, wanted
from corl_cli.rewards.base import Reward, Scores

TESTS = Path(__file__).parents[1]
POLICY = ("model", "deepseek-community/Janus-Pro-1B")
TRIPLETS = ("data set", "mm-vl/x2x_rft_22k")
CYCLE = [
    ("file", "https://download.pytorch.org/models/vgg16-397923af.pth"),
    ("file", "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"),
    ("model", "Salesforce/blip-image-captioning-base"),
]
CLIP = "openai/clip-vit-large-patch14"
SCORERS = ["facebook/mask2former-swin-small-coco-instance", CLIP, "Qwen/Qwen2.5-VL-7B-Instruct"]
SETS = [
    *("lmms-lab-encoder/MMMU", "Lin-Chen/MMStar", "We-Math/We-Math", "lmms-lab-encoder/MMVet", "lmms-lab-encoder/POPE"),
    *("lscpku/LogicVista", "AI4Math/MathVista", "CaraJ/MathVerse-lmmseval", "MathLLMs/MathVision"),
]


class Quiet:
    """Counts what is told."""

    def __init__(self):
        self.told = []

    def advance(self, steps=1, note=""):
        self.told += [note] * steps


class Mute(Reward):
    """Says nothing of what it needs."""

    task = "mm2t"

    def score(self, samples, policy):
        return Scores(values=samples.logps.sum(1))


# ---- what is wanted ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("world/unified", []),
        ("eval/world", []),
        ("unified/janus-pro-1b", [POLICY, TRIPLETS, *CYCLE]),
        ("refined/janus-pro-1b-t2i", [POLICY, ("data set", "mm-vl/x2x_rft_16k"), *CYCLE]),
        ("refined/janus-pro-1b-mcq", [POLICY, ("data set", "mm-vl/mcot_r1_mcq_66k")]),
        ("refined/janus-pro-1b-oe", [POLICY, ("data set", "mm-vl/mcot_r1_vqa_66k")]),
        (
            "eval/janus-pro-1b",
            [POLICY, TRIPLETS, *CYCLE, *(("model", one) for one in SCORERS), *(("data set", one) for one in SETS)],
        ),
    ],
)
def test_a_recipe_wants_each_thing_once(name, found):
    assert [(one.kind, one.name) for one in wanted(load(name))] == found


def test_every_shipped_recipe_of_the_world_needs_no_network():
    small = [name for name in names() if name.startswith("world/")]
    assert small
    assert not any(wanted(load(name)) for name in small)


def test_what_serves_several_purposes_stands_once_with_all_of_them():
    changes = ["rewards.t2i=[{name: clip}]", f"eval.benchmarks={{geneval: {{}}, dpg: {{scorer: {CLIP}}}}}"]
    found = {one.name: one for one in wanted(load("world/unified", changes))}
    assert found[CLIP].why == "CLIP model, VQA model"
    assert found[CLIP].revision == "main"


def test_folders_and_a_class_that_names_nothing_want_nothing(tiny_blip, tmp_path):
    local = [f"data.path={tmp_path / 'set.parquet'}", f"model.checkpoint={world.checkpoint()}"]
    changes = [f"rewards.t2i=[{{name: cycle, captioner: {tiny_blip}}}]", f"rewards.mm2t=[{{name: '{__name__}:Mute'}}]"]
    assert wanted(load("world/unified", [*changes, *local])) == []


def test_what_no_download_brings_is_told_apart():
    recipe = load("world/unified", ["eval.benchmarks={dpg: {scorer: judge}, wise: {}}"])
    assert wanted(recipe) == []
    assert {need.name for need in lacking(recipe)} == {"the data of DPG-Bench", "WISE's prompts (legacy)", "a judge"}


# ---- fetching ------------------------------------------------------


def test_one_failure_is_one_line_and_keeps_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    file = tmp_path / "new"

    def refused():
        raise OSError("no space\nleft at all")

    def written():
        file.write_bytes(b"12345")
        return file

    bad = Wanted("file", "http://a", "", "x", lambda: None, refused)
    good = Wanted("file", "http://b", "", "x", lambda: file if file.exists() else None, written)
    shown = Quiet()
    first, second, third = fetch([bad, good, replace(good, get=refused)], shown)
    assert (first.state, first.detail, first.nbytes, first.path) == ("failed", "no space.", 0, None)
    assert (second.state, second.detail, second.nbytes, second.path) == ("fetched", str(file), 5, file)
    assert (third.state, third.nbytes) == ("here", 5)
    assert shown.told == ["http://a", "http://b", "http://b"]


def test_offline_what_is_not_here_fails_and_says_why():
    found = list(fetch(wanted(load("refined/janus-pro-1b-mcq", ["data.path=no/such_set"])), Quiet()))
    assert [one.state for one in found] == ["failed", "failed"]
    assert {one.detail for one in found} == {"it is not here, and HF_HUB_OFFLINE is set."}


def test_only_a_whole_split_of_the_cache_counts(tmp_path):
    def lay(name, splits):
        folder = tmp_path / "org___my_set" / "default" / "0.0.0" / name
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps({"splits": dict.fromkeys(splits)}))
        return folder

    lay("a.incomplete", ["train", "test"])
    (tmp_path / "org___my_set" / "default" / "0.0.0" / "empty").mkdir()
    assert prepared("org/MySet", "train", tmp_path) is None
    whole = lay("b", ["train"])
    assert prepared("org/MySet", "train[:2]", tmp_path) == whole
    assert prepared("org/MySet", "train+test", tmp_path) is None


# ---- a hub -----------------------------------------------------------

BEGIN = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], ignore_patterns="*.safetensors")
snapshot_download(sys.argv[1])
"""
BENCHMARK = """
from pathlib import Path
from dataclasses import replace
import local_lmms

class Shapes(local_lmms.Shapes):
    folder = Path(__file__).parent / "tasks"
    lmms = replace(local_lmms.Shapes.lmms, dataset="corl/Shapes")
"""


def told(changes):
    recipe = load("world/unified", changes)
    return recipe, list(fetch(wanted(recipe), Quiet()))


def task_of_the_hub(folder):
    """An lmms-eval task over a set of the hub, and its benchmark's module; the recipe's words for it."""
    if find_spec("lmms_eval") is None:
        return "{}"
    local = TESTS / "eval" / "lmms_local"
    (folder / "tasks").mkdir()
    words = (local / "local.yaml").read_text().replace("dataset_path: parquet", "dataset_path: corl/Shapes")
    (folder / "tasks" / "local.yaml").write_text(words)
    (folder / "tasks" / "utils.py").write_text((local / "utils.py").read_text())
    (folder / "of_the_hub.py").write_text(BENCHMARK)
    return "{'of_the_hub:Shapes': {}}"


def begin(name, hub):
    """Kill a download of a model half way through its weights."""
    hub.stall = "model.safetensors"
    killed = subprocess.Popen([sys.executable, "-c", BEGIN, name])
    assert hub.stalled.wait(60), killed.poll()
    killed.kill()
    killed.wait()
    hub.stall = None
    hub.released.set()


def test_what_was_fetched_is_enough_without_a_network(tmp_path, tiny_blip, tiny_text_encoder, built_set, monkeypatch):
    from local_lmms import save

    benchmarks = task_of_the_hub(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, TESTS, TESTS.parent))))
    one, other = "corl/janus", "corl/blip"
    good = [
        f"model.checkpoint={one}",
        "data.path=corl/Triplets",
        f"rewards={{t2i: [{{name: cycle, captioner: {other}}}], mm2t: [{{name: accuracy}}]}}",
        f"eval.benchmarks={benchmarks}",
    ]
    refused = "rewards.t2i=[{name: clip, checkpoint: corl/gated}, {name: cycle, captioner: corl/words}]"
    models = {one: world.checkpoint(), other: tiny_blip, "corl/words": tiny_text_encoder, "corl/gated": tiny_blip}
    sets = {"corl/Triplets": built_set() / "data", "corl/Shapes": save(tmp_path / "shapes")}
    home = tmp_path / "home"
    with FakeHub(models, sets) as hub, pytest.MonkeyPatch.context() as patch:
        hub.reach(patch, home)
        hub.gated = {"corl/gated"}
        begin(one, hub)
        before = len(hub.asked)
        _, found = told(good)
        _, failed = told([refused, "data.path=corl/no"])
    there = [one, other, "corl/Triplets", *(["corl/Shapes"] if benchmarks != "{}" else [])]
    assert {each.wanted.name: each.state for each in found} == dict.fromkeys(there, "fetched"), found
    assert found[0].nbytes == sum(file.stat().st_size for file in world.checkpoint().iterdir())
    again = [path for method, path, _ in hub.asked[before:] if method == "GET" and path.startswith(f"{one}/resolve")]
    assert again == [f"{one}/resolve/{COMMIT}/model.safetensors"]  # the rest was there
    why = {each.wanted.name: each.detail for each in failed if each.state == "failed"}
    assert "only to those who have asked its owners" in why["corl/gated"]
    assert "holds a BertModel, not a BlipForConditionalGeneration" in why["corl/words"]
    assert "corl/no' doesn't exist on the Hub" in why["corl/no"]
    assert not any("\n" in detail for detail in why.values())

    lay_cache(monkeypatch, home)  # and no hub
    recipe, states = told(good)
    assert {each.state for each in states} == {"here"}
    build.ready(recipe)
    policy = build.build_policy(recipe.model)
    data = triplets.load(recipe.data, 0)
    (reward,) = build.build_rubrics(recipe.rewards, ["t2i"], torch.device("cpu"), policy)["t2i"].criteria
    assert isinstance(reward.reward.captioner([data[0].image])[0], str)
    assert len(data) == 12
    needs = [need for name in recipe.eval.benchmarks for need in bind(name, {}, Setting()).requirements()]
    assert {need.state for need in needs} <= {"ok"}
    assert len(Checkpoint(one, one, None).digest()) == 64
