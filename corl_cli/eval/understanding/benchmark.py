"""What the understanding benchmarks share: requests and scores of an lmms-eval task, answers by corl."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from corl_cli.core.requirements import Requirement
from corl_cli.core.section import Section
from corl_cli.core.types import Task
from corl_cli.eval.base import Benchmark, Item, Score, Work
from corl_cli.eval.judge import Judge
from corl_cli.eval.understanding import data
from corl_cli.eval.understanding.bridge import converse
from corl_cli.eval.understanding.extraction import EXTRACTOR
from corl_cli.eval.understanding.tasks import LmmsTask

PACKAGE = "lmms-eval"
MENDS = (
    "nothing is guessed; no algebra; a boxed answer is the answer; We-Math over the problems that were answered; "
    "POPE's recall over all questions whose answer is yes; what MathVista's judge cannot extract has failed"
)


class UnderstandingOptions(Section):
    """Where the questions are."""

    data: str | None = Field(None, description=f"a folder with the data set ({data.LAYOUT}); null is the hub")


class Understanding(Benchmark):
    """An lmms-eval task: its questions, in the recipe's words, and its own scoring of corl's answers.

    A subclass names the task; `folder` is where the task's YAML file lies, None for the folder of lmms-eval that has
    the benchmark's name. Answers are generated to their end token: the task's `until` cuts nothing.
    """

    tasks: ClassVar[Sequence[Task]] = ("mm2t",)
    scale = 100.0
    sharded = False  # one child reads the data once; judged tasks are scored by many threads
    Options = UnderstandingOptions
    options: UnderstandingOptions
    lmms: ClassVar[LmmsTask]
    folder: ClassVar[Path | None] = None
    packages: ClassVar[Sequence[str]] = ()  # that the task imports and lmms-eval does not bring along

    @property
    def comparable(self) -> bool:
        """See Benchmark.comparable; the paper names no judge, and local files may be others than the hub's."""
        return self.options.data is None and not self.lmms.judged

    def requirements(self) -> list[Requirement]:
        """See Benchmark.requirements."""
        packages = [_package(PACKAGE, "lmms_eval", "in corl's folder: pip install '.[eval]'")]
        packages += [_package(name, name, f"pip install {name}") for name in self.packages]
        records = data.requirement(self.name, self.options.data, self.lmms)
        if self.options.data is None:
            records = replace(records, wanted=data.wanted(self.name, self.lmms, self._fetch))
        return [*packages, records]

    def scorers(self) -> list[Requirement]:
        """See Benchmark.scorers; scoring reads the data too."""
        if not self.lmms.judged:
            return self.requirements()
        if self.setting.judge is None:
            remedy = "Name one: --set eval.judge.model=NAME, and --set eval.judge.base_url=… for another than OpenAI's."
            none = Requirement(name="a judge", state="missing", detail="eval.judge is not set", remedy=remedy)
            return [*self.requirements(), none]
        return [*self.requirements(), *Judge(self.setting.judge).requirements()]

    def items(self, folder: Path) -> list[Item]:
        """See Benchmark.items; lmms-eval builds the requests."""
        return [Item(task="mm2t", **record) for record in converse(self._job("requests", folder))]

    def prepare(self, items: Sequence[Item], folder: Path) -> None:
        """See Benchmark.prepare; several images of a record are put into one picture."""
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        wanted = {item.image: item.data["doc"] for item in items}
        for _ in converse(self._job("images", folder, wanted=wanted)):
            pass

    def protocol(self) -> dict[str, Any]:
        """See Benchmark.protocol."""
        return {
            "harness": harness(),
            "task": self.lmms.task,
            "data": self.lmms.dataset if self.options.data is None else "local files",
            "split": self.lmms.split,
            "prompt": "think-answer" if self._instructed else "plain",
            "instructions": dict(self.setting.instructions),
            "several_images": "side by side in one picture",
            "until": "end token only",
        }

    def scorer(self) -> dict[str, Any]:
        """See Benchmark.scorer."""
        judge = self.setting.judge if self.lmms.judged else None
        return {
            "harness": harness(),
            "task": self.lmms.task,
            "metric": self.lmms.headline,
            "extractor": EXTRACTOR,
            "mends": MENDS,
            "form": {"bare": "the bare answer", "tag": "the answer between <answer> tags"}[self.lmms.form],
            "judge": Judge(judge).identity() if judge else None,
        }

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """See Benchmark.score; lmms-eval scores each answer by its task's own code."""
        answers = [
            {"item": one.item.id, "sample": one.sample, "data": one.item.data, "text": str(one.output)} for one in work
        ]
        for record in converse(self._job("score", folder, answers=answers)):
            yield Score(**record)

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        """The task's own numbers, by its own names, in percent; "overall" is the one that the benchmark is told by.

        We-Math's `problems` is a count, which explains an overall that it lacks.
        `untagged` is the share of answers without <answer> tags, where these were asked for.
        """
        metrics = [score.details["metrics"] for score in scores]
        (numbers,) = converse(self._job("aggregate", folder, metrics=metrics))
        overall = numbers.get(self.lmms.headline, math.nan)  # We-Math has none without a whole problem
        untagged = [not score.details["tagged"] for score in scores]
        share = {"untagged": 100 * sum(untagged) / len(untagged)} if self._instructed else {}
        return {"overall": overall, **numbers, **share}

    def calls(self, num_samples: int) -> int:
        """See Benchmark.calls."""
        return num_samples if self.lmms.judged else 0

    def _fetch(self) -> None:
        """Have lmms-eval read the records as it does for the questions, which brings them here."""
        for _ in converse(self._job("records", Path())):
            pass

    @property
    def _instructed(self) -> bool:
        return any(self.setting.instructions.values())

    def _job(self, what: str, folder: Path, **more: Any) -> dict[str, Any]:
        judge = self.setting.judge if self.lmms.judged else None
        return {
            "do": what,
            "benchmark": f"{type(self).__module__}:{type(self).__qualname__}",
            "title": self.title,
            "folder": str(folder.resolve()),
            "data": self.options.data and str(Path(self.options.data).expanduser().resolve()),
            "instructions": dict(self.setting.instructions) if self._instructed else None,
            "judge": judge and judge.model_dump(),
            "template": f"{harness()} {self.lmms.task}",
            **more,
        }


@cache
def harness() -> str:
    """lmms-eval with its version."""
    try:
        return f"{PACKAGE} {metadata.version(PACKAGE)}"
    except metadata.PackageNotFoundError:
        return f"{PACKAGE}, not installed"


def _package(name: str, module: str, remedy: str) -> Requirement:
    if find_spec(module) is None:
        return Requirement(name=name, state="missing", detail="the package is not installed", remedy=remedy)
    return Requirement(name=name, state="ok", detail="installed")
