"""Rating a small built set with the shipped tiny Janus."""

import math

import pytest
from datasets import load_dataset

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import load
from corl_cli.core.recipe import Data, Model
from corl_cli.data import check, manifest
from corl_cli.data.distributions import rows
from corl_cli.data.triplets import load as read
from corl_cli.pipelines.build import build_policy
from corl_cli.pipelines.difficulty import rate
from corl_cli.scoring.answers import judge

ANSWERING = [
    "train.tasks=[mm2t]",
    "sampling.group_size=4",
    "sampling.mm2t.max_new_tokens=12",
    "rewards={mm2t: [{name: accuracy}]}",
    "train.batch_size=3",
]


def recipe(*more):
    return load("world/unified", [*ANSWERING, *more])


def silent(phase, done, total):
    """Nobody is told."""


def table(folder, split="train"):
    return list(rows(sorted((folder / "data").glob(f"{split}-*")), ("id", "answer_type", "pass_rate")))


def test_keeps_what_varies_and_stores_the_pass_rate(built_set, tmp_path):
    folder = built_set(train=12, test=3)
    before = list(read(Data(path=str(folder)), 0))
    policy = build_policy(Model(checkpoint="world")).eval()
    rollout = policy.sample("mm2t", before, recipe().sampling.of("mm2t"), key="difficulty|0")
    right = [
        bool(judge(triplet.question, triplet.answer, text, triplet.answer_type).correct)
        for triplet, text in zip(rollout.triplets, rollout.outputs, strict=True)
    ]
    rates = {triplet.id: sum(right[4 * i : 4 * i + 4]) / 4 for i, triplet in enumerate(before)}
    varying = {name: share for name, share in rates.items() if 0 < share < 1}
    assert 0 < len(varying) < 12, "the case tests nothing"

    record = rate(folder, "world", recipe(), silent)
    assert {row["id"]: row["pass_rate"] for row in table(folder)} == varying
    assert len(table(folder, "test")) == 3
    assert record["splits"]["train"]["rows"] == len(varying)
    assert record["total"]["kept"] == len(varying) + 3
    assert record["total"]["dropped"] == {"no variance": 12 - len(varying), "no caption": 2, "image missing": 1}
    assert record["sources"]["world"] == record["total"]
    assert record == manifest.read(folder)
    assert (folder / "README.md").read_text().count("| world | no variance |") == 1
    assert not (folder / "rated").exists()
    assert check.check(Data(path=str(folder))).sound
    # datasets has read the folder before it was rated: what it cached of it must not come back
    again = load_dataset(str(folder), split="train")
    assert again["id"][:] == list(varying)
    assert len(list(read(Data(path=str(folder)), 0))) == len(varying)


def test_a_rating_that_was_stopped_goes_on(built_set, tmp_path):
    folder = built_set(train=10, test=2)
    reports = []

    def stop(phase, done, total):
        reports.append((phase, done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rate(folder, "world", recipe(), stop)
    assert reports == [("rating", 5, 12)]
    assert manifest.read(folder)["total"]["kept"] == 12  # still the set that it was
    first = folder / "rated" / "data" / "train-00000-of-00002.parquet"
    made = first.stat().st_mtime_ns
    with pytest.raises(UsageError, match="another policy or recipe"):
        rate(folder, "world", recipe("seed=1"), silent)

    def watch(phase, done, total):
        assert first.stat().st_mtime_ns == made

    rate(folder, "world", recipe(), watch)
    went_on = [(file.name, file.read_bytes()) for file in sorted((folder / "data").iterdir())]
    folder.rename(tmp_path / "first")
    whole = built_set(train=10, test=2)
    rate(whole, "world", recipe(), silent)
    assert went_on == [(file.name, file.read_bytes()) for file in sorted((whole / "data").iterdir())]


def test_what_is_rated_already_is_left_as_it_is(built_set):
    folder = built_set(test=2)
    record = rate(folder, "world", recipe(), silent)
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert rate(folder, "world", recipe(), silent) == record
    assert (folder / "manifest.json").stat().st_mtime_ns == written


def test_a_triplet_without_a_question_cannot_be_scored_by_answering(built_set):
    def change(split, number, row):
        if number == 1:
            row |= {"question": "", "answer": "", "answer_type": "oe"}

    folder = built_set(change, test=2, train=2)
    record = rate(folder, "world", recipe(), silent)
    assert record["total"]["dropped"]["no score"] == 1
    assert math.isnan(table(folder, "test")[1]["pass_rate"])


def test_only_built_sets_are_rated(tmp_path):
    with pytest.raises(UsageError, match="no built set"):
        rate(tmp_path, "world", recipe(), silent)
