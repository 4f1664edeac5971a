"""MAVIS: mathematical figures with questions, as LLaVA-OneVision publishes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corl_cli.core.types import AnswerType
from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources import conversations, files
from corl_cli.data.sources.base import Options, Place, Record, Records
from corl_cli.data.sources.fields import image

PAGE = "https://huggingface.co/datasets/lmms-lab/LLaVA-OneVision-Data"


class MavisOptions(Options):
    """A local copy of the parquet files of one subset, and which answer type (null: both)."""

    path: Place = Path("data/raw/mavis/mavis_math_rule_geo")
    split: str = "train"
    answers: AnswerType | None = None


class Mavis(Records):
    """MAVIS-Instruct, the subsets mavis_math_rule_geo and mavis_math_metagen (Apache-2.0 by their card); no captions.

    Columns: id, image, conversations (human: an instruction, "Question: …" and, for multiple choice, "Choices:" with a
    line "A: …" for each; gpt: reasoning that ends in "Answer: …" or "The answer is …"), data_source. Subsets read
    on the Hub, columns and texts in public converters and training code; no file has been run here. The authors' own
    release is an archive whose inner files are not described.
    """

    Options = MavisOptions
    options: MavisOptions
    label = "mavis"

    def files(self) -> list[Path]:
        return files.parquet_files(self.options.path, self.options.split, PAGE)

    def records(self) -> Iterator[Any]:
        return files.rows(self.files(), PAGE)

    def name(self, number: int, record: Any) -> str:
        return f"{self.label}-{self.options.path.stem}-{number}"

    def read(self, name: str, record: Record) -> Iterator[Raw | Dropped]:
        for turn, one in enumerate(conversations.split(record)):
            yield from self.attempt(f"{name}-{turn}", one, self._exchange)

    def _exchange(self, name: str, record: Record) -> Iterator[Raw]:
        """The item of one pair of turns; none where its answer type is not asked for."""
        asked, reply = conversations.exchange(record["conversations"])
        question, options = conversations.bare(asked)
        kind: AnswerType = "mc" if options else "oe"
        if self.options.answers not in (None, kind):
            return
        reasoning, answer = conversations.final(reply)
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "image", self.options.path),
            question=question,
            options=options,
            answer=answer,
            solution=reasoning,
            answer_type=kind,
        )
