"""MAVIS: mathematical figures with questions, as LLaVA-OneVision publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corl_cli.core.types import AnswerType
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import image
from corl_cli.data.sources.layouts import Dialogues, Parquet, ParquetOptions


class MavisOptions(ParquetOptions):
    """A local copy of the parquet files of one subset, and which answer type (null: both)."""

    path: Place = Path("data/raw/mavis/mavis_math_rule_geo")
    answers: AnswerType | None = None


class Mavis(Parquet, Dialogues):
    """MAVIS-Instruct, the subsets mavis_math_rule_geo and mavis_math_metagen (Apache-2.0 by their card); no captions.

    Columns: id, image, conversations (human: an instruction, "Question: …" and, for multiple choice, "Choices:" with a
    line "A: …" for each; gpt: reasoning that ends in "Answer: …" or "The answer is …"), data_source. Subsets read
    on the Hub, columns and texts in public converters and training code; no file has been run here. The authors' own
    release is an archive whose inner files are not described.
    """

    Options = MavisOptions
    options: MavisOptions
    label, page = "mavis", "https://huggingface.co/datasets/lmms-lab/LLaVA-OneVision-Data"
    without_options = "oe"

    def name(self, number: int, record: Any) -> str:
        return f"{self.label}-{self.options.path.stem}-{number}"

    def wanted(self, kind: AnswerType | None) -> bool:
        return self.options.answers in (None, kind)

    def picture(self, record: Record) -> Path | bytes:
        return image(record, "image", self.options.path)
