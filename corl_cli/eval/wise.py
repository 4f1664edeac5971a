"""WISE: whether a model draws what a prompt means by way of knowledge of the world (arXiv 2503.07265).

There are two versions with the same ids and other prompts, scores, groups and weights, never mixed: the paper's
("legacy"), and WISE_Verified of April 2026. Facts of both: github.com/PKU-YuanGroup/WISE, its two READMEs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, demand
from corl_cli.core.section import Section
from corl_cli.core.types import Task
from corl_cli.eval.base import Benchmark, Item, Score, Work
from corl_cli.eval.judge import Judge, JudgeError
from corl_cli.eval.wise_template import LEGACY, VERIFIED, Template

SOURCE = "https://github.com/PKU-YuanGroup/WISE"
PROMPTS = 1000
FIELDS = ("Prompt", "Explanation", "Category", "Subcategory")
NAMED = 10  # ids in a message


@dataclass(frozen=True)
class Version:
    """What one version of WISE fixes; `groups` are the last id and the weight of each group, in order of ids."""

    folder: str  # in WISE's repository
    files: Sequence[str]
    groups: Mapping[str, tuple[int, float]]
    template: Template
    shares: Mapping[str, float]  # of each label in a drawing's value, over the label's highest score
    formula: str

    def group(self, prompt_id: int) -> str:
        """The group of an id in 1..PROMPTS."""
        return next(name for name, (last, _) in self.groups.items() if prompt_id <= last)

    def value(self, scores: Mapping[str, int]) -> float:
        """A drawing's value, in 0..1."""
        return sum(self.shares[label] * scores[label] for label in self.shares) / self.template.top


VERSIONS = {
    "legacy": Version(
        folder="WISE_legacy/data",
        files=("cultural_common_sense.json", "spatio-temporal_reasoning.json", "natural_science.json"),
        groups={
            "culture": (400, 0.4),
            "time": (567, 0.167),
            "space": (700, 0.133),
            "biology": (800, 0.1),
            "physics": (900, 0.1),
            "chemistry": (1000, 0.1),
        },
        template=LEGACY,
        shares={"Consistency": 0.7, "Realism": 0.2, "Aesthetic Quality": 0.1},
        formula="(0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2",
    ),
    # The README gives the files' ids, the groups' order and their weights; that the five are of 120 each follows from
    # these, and the published category scores (leadboard.md) are multiples of 1/120.
    "verified": Version(
        folder="data_verified",
        files=(
            "cultural_common_sense_verified.json",
            "spatio-temporal_reasoning_verified.json",
            "natural_science_verified.json",
        ),
        groups={
            "culture": (400, 0.4),
            "time": (520, 0.12),
            "space": (640, 0.12),
            "biology": (760, 0.12),
            "physics": (880, 0.12),
            "chemistry": (1000, 0.12),
        },
        template=VERIFIED,
        shares={"Score": 1.0},
        formula="score, 0 or 1",
    ),
}


class WiseOptions(Section):
    """What a recipe may say under eval.benchmarks.wise."""

    version: Literal["legacy", "verified"] = Field("legacy", description="the paper's, or that of April 2026")
    prompts: str | list[str] | None = Field(
        None, description="the folder with the version's three JSON files, or these files; names as published"
    )


class Wise(Benchmark):
    """One drawing of each of 1000 prompts, scored by a judge that sees the drawing and what the prompt means."""

    title: ClassVar[str] = "WISE"
    tasks: ClassVar[Sequence[Task]] = ("t2i",)
    measure: ClassVar[str] = "WiScore, weighted over six fields of knowledge (arXiv 2503.07265), as a judge scores it"
    Options: ClassVar[type[Section]] = WiseOptions

    @property
    def variant(self) -> str:
        """The version, which the numbers are told by."""
        return str(self._options.version)

    @property
    def comparable(self) -> bool:
        """The paper's numbers are of the legacy version, judged by a GPT-4o."""
        judge = self.setting.judge
        model = "" if judge is None else judge.model.rpartition("/")[2]
        return self.variant == "legacy" and (model == "gpt-4o" or model.startswith("gpt-4o-20"))

    @property
    def _options(self) -> WiseOptions:
        assert isinstance(self.options, WiseOptions)
        return self.options

    @property
    def _version(self) -> Version:
        return VERSIONS[self._options.version]

    def requirements(self) -> list[Requirement]:
        """The prompts, which have no licence and are not shipped."""
        name, version = f"WISE's prompts ({self.variant})", self._version
        where = self._options.prompts
        remedy = (
            f"git clone {SOURCE}, then --set eval.benchmarks.{self.name}.prompts=WISE/{version.folder} "
            f"(a folder with {', '.join(version.files)})"
        )
        if where is None:
            detail = "they have no licence, so corl does not ship them, and the recipe names no folder"
            return [Requirement(name=name, state="missing", detail=detail, remedy=remedy)]
        lacking = [file for file, path in self._files().items() if path is None or not path.is_file()]
        given = where if isinstance(where, str) else ", ".join(where)
        if lacking:
            detail = f"{given} has no {', '.join(lacking)}"
            return [Requirement(name=name, state="missing", detail=detail, remedy=remedy)]
        return [Requirement(name=name, state="ok", detail=given)]

    def scorers(self) -> list[Requirement]:
        """The judge and its key."""
        if self.setting.judge is None:
            detail = "the recipe has no eval.judge"
            remedy = (
                "Name one: --set eval.judge.model=gpt-4o-2024-05-13 (the paper's), and its base_url if it is no OpenAI"
            )
            return [Requirement(name="a judge", state="missing", detail=detail, remedy=remedy)]
        return self._judge().requirements()

    def items(self, folder: Path) -> list[Item]:
        """See Benchmark. All ids 1..1000 must be there, each once."""
        found: list[dict[str, Any]] = [row for path in self._paths() for row in _rows(path)]
        times = Counter(row["prompt_id"] for row in found)
        expected = range(1, PROMPTS + 1)
        faults = {
            "missing": [number for number in expected if number not in times],
            "there more than once": sorted(number for number, count in times.items() if count > 1),
            "not of WISE": sorted(number for number in times if number not in expected),
        }
        if told := [f"{what}: {_some(numbers)}" for what, numbers in faults.items() if numbers]:
            raise CorlError(
                f"WISE's prompts must have the ids 1 to {PROMPTS}, each once; {'; '.join(told)}.",
                f"Take the three files of {self._version.folder} from {SOURCE} as they are; for a part use --limit.",
            )
        return [self._item(row) for row in sorted(found, key=lambda row: int(row["prompt_id"]))]

    def protocol(self) -> dict[str, Any]:
        """See Benchmark."""
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._paths()}
        return {"source": SOURCE, "version": self.variant, "files": digests, "prompt": "Prompt, as it is"}

    def scorer(self) -> dict[str, Any]:
        """See Benchmark."""
        version = self._version
        return {
            "version": self.variant,
            "judge": None if self.setting.judge is None else self._judge().identity(),
            "template": version.template.name,
            "formula": version.formula,
            "weights": {name: weight for name, (_, weight) in version.groups.items()},
        }

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """See Benchmark. Details are the judge's scores and its answer."""
        judge, version = self._judge(), self._version

        def ask(piece: Work) -> str:
            data, image = piece.item.data, Path(piece.output)
            question = version.template.write(data["Prompt"], data["Explanation"])
            return judge.ask(version.template.name, question, image, accept=version.template.read)

        for piece, answer in judge.map(ask, work):
            item, sample = piece.item.id, piece.sample
            if isinstance(answer, JudgeError):
                yield Score(item=item, sample=sample, value=None, reason=str(answer))
                continue
            scores = version.template.read(answer)
            told = {label.split()[0].lower(): score for label, score in scores.items()}
            reason = ", ".join(f"{label} {score}" for label, score in told.items())
            details = {**told, "answer": answer}
            yield Score(item=item, sample=sample, value=version.value(scores), reason=reason, details=details)

    def weights(self, groups: Sequence[str]) -> dict[str, float] | None:
        """See Benchmark."""
        return {name: self._version.groups[name][1] for name in groups}

    def calls(self, num_samples: int) -> int:
        """See Benchmark."""
        return num_samples

    def _judge(self) -> Judge:
        if self.setting.judge is None:
            raise CorlError(
                "WISE is scored by a judge, and the recipe has no eval.judge.", "Add --set eval.judge.model=…"
            )
        return Judge(self.setting.judge)

    def _files(self) -> dict[str, Path | None]:
        """Where each of the version's files would be."""
        where = self._options.prompts
        if isinstance(where, str) and not where.endswith(".json"):
            return {file: Path(where).expanduser() / file for file in self._version.files}
        given = [where] if isinstance(where, str) else where or []
        named = {Path(path).name: Path(path).expanduser() for path in given}
        return {file: named.get(file) for file in self._version.files}

    def _paths(self) -> list[Path]:
        """The version's files; CorlError with what is lacking."""
        demand(self.requirements(), self.title)
        return [path for path in self._files().values() if path is not None]

    def _item(self, row: dict[str, Any]) -> Item:
        number = int(row["prompt_id"])
        return Item(
            id=f"{number:04}",
            task="t2i",
            prompt=row["Prompt"],
            group=self._version.group(number),
            samples=self.setting.drawing.images or 1,
            data={"prompt_id": number, **{field: row[field] for field in FIELDS if field in row}},
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    """The prompts of one file; CorlError when it is not WISE's."""
    hint = f"Take it from {SOURCE} as it is."
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorlError(f"{path} cannot be read as JSON: {error}.", hint) from error
    if not isinstance(rows, list):
        raise CorlError(f"{path} is no list of prompts.", hint)
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or type(row.get("prompt_id")) is not int:
            raise CorlError(f"{path}: entry {place} has no whole number as prompt_id.", hint)
        for field in ("Prompt", "Explanation"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise CorlError(f"{path}: prompt_id {row['prompt_id']} has no {field}.", hint)
    return rows


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:NAMED]))
    return shown if len(numbers) <= NAMED else f"{shown} and {len(numbers) - NAMED} more"
