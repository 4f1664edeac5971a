"""Which triplets of a built set a policy can learn from: those whose samples do not all earn the same.

An advantage is a difference within a group, so a group without any teaches GRPO nothing. DAPO (arXiv 2503.14476) leaves
such groups out while training; this does it once, before.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data, Recipe
from corl_cli.core.run_dir import write_atomic
from corl_cli.core.types import Task, Triplet
from corl_cli.data import card, manifest, parquet, triplets
from corl_cli.data.build import Report, refuse_unfinished
from corl_cli.data.manifest import Counts, Manifest
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines import build
from corl_cli.rewards.base import Rubric
from corl_cli.scoring.answers import judge
from corl_cli.scoring.groups import zero_variance
from corl_cli.trainer.rollout import generate

FILTERED = "train"  # other splits are rated, and stay whole: what is held out must not depend on a policy
NO_VARIANCE = "no variance"
NO_SCORE = "no score"
PASS_RATE = "pass_rate"


class Verdict(NamedTuple):
    """Why a triplet teaches nothing (None: it does), and its pass rate, NaN where nothing was answered."""

    reason: str | None
    pass_rate: float


def rate(folder: Path, checkpoint: str, recipe: Recipe, report: Report) -> Manifest:
    """Rate every triplet of a built set with a policy, keep what it can learn from, and add the column `pass_rate`.

    With the recipe's sampling, instruction, rewards and tasks, G samples are drawn for each task that a triplet has the
    text for; it stays when the totals of one of them differ. `pass_rate` is the share of its answers that are right.
    The set stays as it is until all is rated; a call that was stopped goes on after the files that it finished.
    CorlError when the build is not finished; UsageError when the folder is no built set, or was begun with another
    policy or recipe.
    """
    refuse_unfinished(folder)
    record = manifest.read(folder)
    if record is None:
        raise UsageError(f"{folder} is no built set: it has no {manifest.NAME}.", "Build one with corl prepare-data.")
    work = folder / "rated"
    if not work.exists() and record.get("policy") == checkpoint:
        return record
    _begin(work, checkpoint, recipe)
    if manifest.read(work) is None:
        total, done = sum(split["rows"] for split in record["splits"].values()), 0
        judge_of: _Judge | None = None
        for split, file in _files(record):
            if not _counts(work, file).exists():
                judge_of = judge_of or _Judge(checkpoint, recipe)
                _rate_file(folder, work, file, judge_of, keep_all=split != FILTERED)
            done += pq.read_metadata(folder / file).num_rows
            report("rating", done, total)
        manifest.write(work, _rated(work, record, checkpoint))
    return _put_in_place(folder, work)


class _Judge:
    """A policy with the rubrics of a recipe."""

    def __init__(self, checkpoint: str, recipe: Recipe) -> None:
        build.ready(recipe)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = build.build_policy(recipe.model, build.locate(checkpoint))
        self.policy: UnifiedPolicy = loaded.to(device).requires_grad_(False).eval()
        self.rubrics: dict[Task, Rubric] = build.build_rubrics(
            recipe.rewards,
            recipe.train.tasks,
            device,
            self.policy,  # it is its own frozen start
        )
        self.recipe = recipe

    def __call__(self, batch: Sequence[Triplet]) -> list[Verdict]:
        """A verdict on each triplet."""
        scored, varied = ([False] * len(batch) for _ in range(2))
        rates = [math.nan] * len(batch)
        for task, rubric in self.rubrics.items():
            rows = [row for row, triplet in enumerate(batch) if _has_text(triplet, task)]
            if not rows:
                continue
            sampling = self.recipe.sampling.of(task)
            given = [batch[row] for row in rows]
            rollout = generate(self.policy, given, {task: sampling}, f"difficulty|{self.recipe.seed}")[task]
            result = rubric(rollout, self.policy)
            flat = zero_variance(result.total, result.valid, sampling.group_size).tolist()
            valid = result.valid.view(-1, sampling.group_size).any(1).tolist()
            for number, row in enumerate(rows):
                scored[row] |= valid[number]
                varied[row] |= not flat[number]
                if task == "mm2t":
                    group = slice(number * sampling.group_size, (number + 1) * sampling.group_size)
                    rates[row] = _pass_rate(batch[row], [str(text) for text in rollout.outputs[group]])
        reasons = (
            None if varies else NO_VARIANCE if known else NO_SCORE for varies, known in zip(varied, scored, strict=True)
        )
        return [Verdict(reason, rate) for reason, rate in zip(reasons, rates, strict=True)]


def _has_text(triplet: Triplet, task: Task) -> bool:
    return bool((triplet.prompt if task == "t2i" else triplet.answer).strip())


def _pass_rate(triplet: Triplet, texts: Sequence[str]) -> float:
    """The share of answers that are right, NaN where the gold answer cannot be compared with."""
    judged = [judge(triplet.question, triplet.answer, text, triplet.answer_type).correct for text in texts]
    return math.nan if None in judged else sum(map(bool, judged)) / len(judged)


def _rate_file(folder: Path, work: Path, file: str, judge_of: _Judge, *, keep_all: bool) -> None:
    """Write the rows of one file that stay, with their pass rates, then what became of them, by source."""
    sources: dict[str, dict[str, Any]] = {}
    size = judge_of.recipe.train.batch_size
    kept = 0
    with parquet.Writer(work / file, _schema()) as writer:
        for table in parquet.read(folder / file):
            read = _triplets(table, folder, judge_of.recipe)
            verdicts = [
                verdict for start in range(0, len(read), size) for verdict in judge_of(read[start : start + size])
            ]
            stays = [keep_all or verdict.reason is None for verdict in verdicts]
            for row, stay, verdict in zip(_texts(table), stays, verdicts, strict=True):
                _count(sources, row, None if stay else verdict.reason)
            rates = pa.array([verdict.pass_rate for verdict in verdicts], pa.float32())
            writer.add(
                table.select(list(parquet.COLUMNS))
                .append_column(PASS_RATE, rates)
                .cast(_schema())
                .filter(pa.array(stays))
            )
            kept += sum(stays)
    write_atomic(_counts(work, file), json.dumps({"rows": kept, "sources": sources}, indent=2) + "\n")


def _triplets(table: pa.Table, folder: Path, recipe: Recipe) -> Sequence[Triplet]:
    """The rows as training reads them, with the recipe's instruction."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    data = Data(path=str(folder), instruction=recipe.data.instruction)
    return triplets.Dressed(triplets.Table(Dataset(InMemoryTable(table)), data), data)


def _texts(table: pa.Table) -> Iterator[Mapping[str, Any]]:
    yield from table.select(["source", "coverage"]).to_pylist()


def _count(sources: dict[str, dict[str, Any]], row: Mapping[str, Any], reason: str | None) -> None:
    own = sources.setdefault(row["source"], {"kept": 0, "dropped": {}, "coverage": 0.0, "covered": 0})
    if reason:
        own["dropped"][reason] = own["dropped"].get(reason, 0) + 1
        return
    own["kept"] += 1
    if not math.isnan(row["coverage"]):
        own["coverage"] += row["coverage"]
        own["covered"] += 1


def _rated(work: Path, record: Manifest, checkpoint: str) -> Manifest:
    """The manifest of the rated set, of the files that still have rows; CorlError when none has."""
    counts = {file: json.loads(_counts(work, file).read_text("utf-8")) for _, file in _files(record)}
    if not any(count["rows"] for count in counts.values()):
        raise CorlError(
            f"Nothing stays: {checkpoint} learns from no triplet of {work.parent}.",
            f"Take another policy, or other rewards or sampling, after removing {work}.",
        )
    for file, count in counts.items():
        if not count["rows"]:
            (work / file).unlink(missing_ok=True)
    splits = {
        name: {
            "rows": sum(counts[file["path"]]["rows"] for file in split["files"]),
            "files": [
                manifest.describe(work, work / file["path"]) for file in split["files"] if counts[file["path"]]["rows"]
            ],
        }
        for name, split in record["splits"].items()
    }
    parts = [count["sources"] for count in counts.values()]
    columns = [name for name in record["columns"] if name != PASS_RATE] + [PASS_RATE]
    return record | {
        "policy": checkpoint,
        "splits": {name: split for name, split in splits.items() if split["rows"]},
        "sources": {
            name: _sum(own, [part[name] for part in parts if name in part]) for name, own in record["sources"].items()
        },
        "total": _sum(record["total"], [own for part in parts for own in part.values()]),
        "columns": columns,
    }  # type: ignore[return-value]


def _sum(before: Counts, parts: Sequence[Mapping[str, Any]]) -> Counts:
    """The counts of a source, those that rating left out among them."""
    dropped = sum((Counter(part["dropped"]) for part in parts), Counter(before["dropped"]))
    covered = sum(part["covered"] for part in parts)
    return {
        "offered": before["offered"],
        "kept": sum(part["kept"] for part in parts),
        "dropped": dict(sorted(dropped.items(), key=lambda pair: (-pair[1], pair[0]))),
        "coverage": sum(part["coverage"] for part in parts) / covered if covered else None,
    }


def _begin(work: Path, checkpoint: str, recipe: Recipe) -> None:
    """Note what the ratings are made with; UsageError when those that are there were made with something else."""
    asked = {"policy": checkpoint, "seed": recipe.seed} | recipe.model_dump(
        mode="json", include={"model", "sampling", "rewards"}
    )
    asked |= {"tasks": recipe.train.tasks, "instruction": recipe.data.instruction.model_dump()}
    note = work / "order.json"
    if note.exists():
        if json.loads(note.read_text("utf-8")) != asked:
            raise UsageError(
                f"{work} holds ratings by another policy or recipe.", "Go on with that one, or remove the folder."
            )
        return
    write_atomic(note, json.dumps(asked, indent=2) + "\n")


def _put_in_place(folder: Path, work: Path) -> Manifest:
    """The rated files take the place of the others, then card and manifest; after a kill it can be done again."""
    record = manifest.read(work)
    assert record is not None
    if (work / "data").exists():
        if (folder / "data").exists():
            (folder / "data").rename(work / "replaced")
        (work / "data").rename(folder / "data")
    card.write(folder, record)
    manifest.write(folder, record)
    shutil.rmtree(work)
    return record


def _files(record: Manifest) -> Iterator[tuple[str, str]]:
    """The split and the relative path of each file."""
    for name, split in record["splits"].items():
        for file in split["files"]:
            yield name, file["path"]


def _counts(work: Path, file: str) -> Path:
    return (work / Path(file).name).with_suffix(".json")


def _schema() -> pa.Schema:
    """The schema of triplets, with the pass rate."""
    plain = parquet.triplet_schema()
    known = json.loads(plain.metadata[b"huggingface"])
    known["info"]["features"][PASS_RATE] = {"_type": "Value", "dtype": "float32"}
    return plain.append(pa.field(PASS_RATE, pa.float32())).with_metadata({"huggingface": json.dumps(known)})
