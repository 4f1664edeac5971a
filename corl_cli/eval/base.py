"""Benchmark: what the policy is asked, and what its drawings and answers are worth; each step works from files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from corl_cli.core.evaluation import Answering, Drawing, Judge
from corl_cli.core.requirements import Requirement
from corl_cli.core.section import Section
from corl_cli.core.types import AnswerType, Task


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a recipe says to every benchmark; `instructions` are the words after a question, by answer type."""

    seed: int = 0
    drawing: Drawing = field(default_factory=Drawing)
    answering: Answering = field(default_factory=Answering)
    judge: Judge | None = None
    instructions: Mapping[AnswerType, str] = field(default_factory=lambda: {"mc": "", "oe": ""})


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that the policy is asked: what to draw, or a question about an image.

    `id` is a name that a folder can have, and unique; `prompt` what is drawn, or the question as it is asked, with its
    instruction; `image` the file asked about, in the result's folder (inputs/…); `group` what results are broken down
    by (a tag, a category); `data` is what scoring needs, in JSON, and stands beside a drawing as metadata.jsonl.
    """

    id: str
    task: Task
    prompt: str
    group: str
    image: str = ""
    samples: int = 1
    max_new_tokens: int | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One sample to score: a drawing's file, or an answer's text."""

    item: Item
    sample: int
    output: Path | str


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one sample is worth; `value` is None where scoring failed, and `reason` then says why.

    Else `reason` says why the value is what it is; `details` {name: JSON} are what a person or an aggregate wants.
    """

    item: str
    sample: int
    value: float | None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of a self-test: what was tried, whether it worked, what came out, and what to do where it did not."""

    name: str
    passed: bool
    found: str
    remedy: str = ""


class Benchmark(ABC):
    """Items, how to score what the policy makes of them, and what the scores come to.

    The overall number is `scale` times the weighted mean over groups of the mean value of their samples. A benchmark
    whose number is another one overrides `headline`; a sample without a value is never counted as 0.
    """

    title: ClassVar[str]  # the name in print
    tasks: ClassVar[Sequence[Task]]
    measure: ClassVar[str]  # one line: what the overall number is, and its source
    scale: ClassVar[float] = 1.0  # 100 where the benchmark is told in percent
    sharded: ClassVar[bool] = True  # whether several processes score, each its own samples; else the first one all
    Options: ClassVar[type[Section]] = Section

    def __init__(self, name: str, options: Section, setting: Setting) -> None:
        self.name = name
        self.options = options
        self.setting = setting

    @property
    def variant(self) -> str:
        """Which of several incompatible versions this is, or empty."""
        return ""

    @property
    def comparable(self) -> bool:
        """Whether the paper's number may stand beside this one: same prompts, same kind of scorer."""
        return True

    def requirements(self) -> list[Requirement]:
        """What getting the items needs from the machine, without loading or fetching anything large."""
        return []

    def scorers(self) -> list[Requirement]:
        """What scoring needs from the machine (weights, a judge's key, a package), found out the same way."""
        return []

    @abstractmethod
    def items(self, folder: Path) -> list[Item]:
        """Everything that is asked, in the benchmark's own order; `prepare` writes the images that are asked about.

        CorlError when the data cannot be had, or an item is damaged: none is dropped unnoticed.
        """

    def prepare(self, items: Sequence[Item], folder: Path) -> None:  # noqa: B027 (drawings are asked about nothing)
        """Write what the chosen items ask about under folder/inputs; called once, before the manifest."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Where the prompts are from and in which words they are asked, in JSON: what generated outputs depend on."""

    @abstractmethod
    def scorer(self) -> dict[str, Any]:
        """What scores depend on, in JSON: rules, thresholds, detector, judge, by name and version; no secrets."""

    def load(self, device: torch.device) -> None:  # noqa: B027 (many have nothing to load)
        """Bring to `device` what scoring needs; called once before `score`."""

    @abstractmethod
    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """A score for each piece of work, in any order, as soon as it is known: what is yielded survives a kill.

        An item that cannot be scored yields a Score without a value and with the reason; the others go on. CorlError
        when nothing can be scored at all. `folder` is the result's.
        """

    def weights(self, groups: Sequence[str]) -> dict[str, float] | None:
        """The weight of each group in the overall number; None where every sample counts alike."""
        return None

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        """Further numbers by name, over the samples that have a value.

        One called "overall" takes the mean's place, and "stderr" that of the mean's standard error.
        """
        return {}

    def self_test(self) -> list[Check]:
        """Try the scorer, once loaded, on something whose score is known; empty where there is nothing to try."""
        return []

    def calls(self, num_samples: int) -> int:
        """How many calls of a judge scoring so many samples takes, at most; 0 where none is asked."""
        return 0
