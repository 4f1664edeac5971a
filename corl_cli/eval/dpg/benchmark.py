"""DPG-Bench: long prompts, each with questions about its drawings that depend on each other."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import torch
from PIL import Image, ImageDraw
from pydantic import Field

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.core.section import Section
from corl_cli.core.types import Task
from corl_cli.eval import vqa
from corl_cli.eval.base import Benchmark, Check, Item, Score, Setting, Work
from corl_cli.eval.dpg.questions import Question, read, worth
from corl_cli.eval.dpg.scorers import JUDGE, Answer, choose
from corl_cli.eval.judge import JudgeError

IMAGES = 4  # of each prompt (paper)
MANY_QUESTIONS = 40  # about a drawing, at a guess, where the file that has them is elsewhere

_GET = (
    "git clone https://github.com/TencentQQGYLab/ELLA and give its folder dpg_bench (dpg_bench.csv with the columns "
    "item_id, proposition_id, dependency, tuple and question_natural_language, and prompts/ITEM_ID.txt): "
    "--set eval.benchmarks.dpg.data=ELLA/dpg_bench"
)


class DpgOptions(Section):
    """Where the published data are, who answers the questions, and which rules hold."""

    data: str | None = Field(
        None, description="folder with dpg_bench.csv and prompts/*.txt as published at github.com/TencentQQGYLab/ELLA"
    )
    scorer: str = Field(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        min_length=1,
        description="folder or hub id of a BLIP for VQA or of a chat model that sees (in float32), or judge",
    )
    compatible: bool = Field(
        False,
        strict=True,
        description="the original scorer's faults too: without the CSV's first row, categories by last images only",
    )


class Dpg(Benchmark):
    """The share of a prompt's questions that are answered with yes, where the questions they depend on are.

    The overall number is the mean over prompts of the mean over their drawings, in percent. The categories' numbers are
    shares of all questions, dependencies left aside, as in the original.
    """

    title = "DPG-Bench"
    tasks: ClassVar[Sequence[Task]] = ("t2i",)
    measure = "percent of questions answered with yes, after dependencies (arXiv 2403.05135), by the scorer named"
    scale = 100.0
    Options = DpgOptions
    options: DpgOptions

    def __init__(self, name: str, options: Section, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self.asked = choose(self.options.scorer, setting.judge)

    @property
    def variant(self) -> str:
        """Who answers, and whether by the original's rules."""
        return self.asked.kind + (", compatible" if self.options.compatible else "")

    @property
    def comparable(self) -> bool:
        """Never: the paper's scorer, mPLUG in modelscope, is no longer maintained; another one answers otherwise."""
        return False

    def requirements(self) -> list[Requirement]:
        """See Benchmark."""
        return [self._data()]

    def scorers(self) -> list[Requirement]:
        """See Benchmark."""
        return self.asked.requirements()

    def items(self, folder: Path) -> list[Item]:
        """See Benchmark; those of dpg_bench.csv, with the words of prompts/ITEM_ID.txt."""
        data = self._folder()
        questions = read(data / "dpg_bench.csv", compatible=self.options.compatible)
        if not questions:
            raise CorlError(f"{data / 'dpg_bench.csv'} has no questions.", _GET)
        words = {path.stem: path for path in (data / "prompts").glob("*.txt")}
        if lacking := [item for item in questions if item not in words]:
            raise CorlError(
                f"{data / 'prompts'} lacks {len(lacking)} of {len(questions)} prompts, {lacking[0]}.txt for one.", _GET
            )
        if not self.options.compatible and (spare := sorted(words.keys() - questions.keys())):
            raise CorlError(
                f"{data} has prompts without questions ({len(spare)}, {spare[0]} for one): they cannot be scored.",
                "Copy both again, take them out, or leave them out as the original scorer does: compatible: true",
            )
        return [
            Item(
                id=item,
                task="t2i",
                prompt=words[item].read_text(encoding="utf-8-sig").strip(),
                group="all",
                samples=self._images,
                data={"questions": [question.to_json() for question in asked]},
            )
            for item, asked in questions.items()
        ]

    def protocol(self) -> dict[str, Any]:
        """See Benchmark."""
        rows = "without the first row and the items that need it, as the original" if self.options.compatible else "all"
        folder = self._folder()
        files = [folder / "dpg_bench.csv", *sorted((folder / "prompts").glob("*.txt"))]
        content = b"\n".join(file.name.encode() + b"\n" + file.read_bytes() for file in files)
        return {
            "source": "DPG-Bench's prompts/*.txt",
            "questions": f"dpg_bench.csv, {rows}",
            "sha256": hashlib.sha256(content).hexdigest()[:16],
            "images": self._images,
        }

    def scorer(self) -> dict[str, Any]:
        """See Benchmark."""
        tables = "last image of each prompt" if self.options.compatible else "all images"
        return {
            **self.asked.identity(),
            "answer": "yes, or anything else for no" if self.options.compatible else "yes or no, alone",
            "category tables": tables,
        }

    def load(self, device: torch.device) -> None:
        """See Benchmark."""
        self.asked.load(device)

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """See Benchmark; details: the answers by question's id, and which questions count after dependencies."""
        questions = [_questions(piece.item) for piece in work]
        places = [(place, question) for place, asked in enumerate(questions) for question in asked]
        answers: list[dict[int, Answer]] = [{} for _ in work]
        asked = [(Path(work[place].output), question.text) for place, question in places]
        for index, answer in self.asked.ask(asked):
            place, question = places[index]
            answers[place][question.id] = answer
            if len(answers[place]) == len(questions[place]):
                yield self._scored(work[place], questions[place], answers[place])

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        """The mean over prompts of the mean over their drawings, and each category's share of yes, in percent."""
        by_item: dict[str, list[Score]] = {}
        for score in scores:
            by_item.setdefault(score.item, []).append(score)
        means = [fmean(s.value for s in own if s.value is not None) for own in by_item.values()]
        known = {item.id: (_questions(item), item.samples - 1) for item in items}
        categories: dict[str, list[bool]] = {}
        for score in scores:
            questions, last = known[score.item]
            if self.options.compatible and score.sample < last:
                continue
            for question in questions:
                right = self._is_yes(score.details["answers"][str(question.id)])
                for category in dict.fromkeys((question.broad, question.detailed)):
                    categories.setdefault(category, []).append(right)
        tables = {name: self.scale * fmean(rights) for name, rights in sorted(categories.items())}
        return {"overall": self.scale * fmean(means), **tables}

    def self_test(self) -> list[Check]:
        """See Benchmark: a red disc is one, and no dog."""
        image = Image.new("RGB", (384, 384), "white")
        ImageDraw.Draw(image).ellipse((96, 96, 288, 288), fill="red")
        wanted = {"Is there a red circle?": "yes", "Is there a dog?": "no"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "disc.png"
            image.save(path)
            found = dict(self.asked.ask([(path, question) for question in wanted]))
        remedy = "Ask another model: eval.benchmarks.dpg.scorer"
        return [
            Check(name=question, passed=_agrees(found[place], right), found=str(found[place]), remedy=remedy)
            for place, (question, right) in enumerate(wanted.items())
        ]

    def calls(self, num_samples: int) -> int:
        """See Benchmark: one for each question about each drawing."""
        if self.options.scorer != JUDGE:
            return 0
        if not self._data().met:  # scored elsewhere than drawn
            return MANY_QUESTIONS * num_samples
        items = read(self._folder() / "dpg_bench.csv", compatible=self.options.compatible).values()
        sizes = sorted((len(asked) for asked in items for _ in range(self._images)), reverse=True)
        return sum(sizes[:num_samples])

    def _scored(self, work: Work, questions: Sequence[Question], answers: dict[int, Answer]) -> Score:
        """The score of one drawing; without a value where a question has no answer that is yes or no."""
        said = {str(question.id): str(answers[question.id]) for question in questions}
        try:
            right = {number: self._is_yes(answer) for number, answer in answers.items()}
        except (ValueError, JudgeError) as error:
            return Score(
                item=work.item.id, sample=work.sample, value=None, reason=str(error), details={"answers": said}
            )
        counts = worth(questions, right)
        wrong = [question.text for question in questions if not counts[question.id]]
        return Score(
            item=work.item.id,
            sample=work.sample,
            value=fmean(counts.values()),
            reason=f"{len(counts) - len(wrong)} of {len(counts)} questions"
            + "".join(f"; not: {text}" for text in wrong),
            details={"answers": said, "counts": {str(number): count for number, count in counts.items()}},
        )

    def _is_yes(self, answer: str | Exception) -> bool:
        """Whether an answer is yes; the original takes all else for no, where corl fails what is neither."""
        if isinstance(answer, Exception):
            raise answer
        try:
            return vqa.is_yes(answer)
        except ValueError:
            if self.options.compatible:
                return False
            raise

    @property
    def _images(self) -> int:
        return self.setting.drawing.images or IMAGES

    def _folder(self) -> Path:
        return Path(self.options.data or "").expanduser()

    def _data(self) -> Requirement:
        folder = self._folder()
        lacking = [name for name in ("dpg_bench.csv", "prompts") if not (folder / name).exists()]
        if self.options.data and not lacking:
            return Requirement(name="the data of DPG-Bench", state="ok", detail=str(folder))
        detail = f"{folder} lacks {' and '.join(lacking)}" if self.options.data else "corl does not ship them"
        return Requirement(name="the data of DPG-Bench", state="missing", detail=detail, remedy=_GET)


def _questions(item: Item) -> list[Question]:
    return [Question.from_json(found) for found in item.data["questions"]]


def _agrees(answer: str | Exception, right: str) -> bool:
    try:
        return vqa.is_yes(str(answer)) == (right == "yes")
    except ValueError:
        return False
