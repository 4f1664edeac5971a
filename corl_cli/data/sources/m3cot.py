"""M3CoT: multiple-choice questions that take several steps over text and image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corl_cli.data.items import Raw
from corl_cli.data.sources.base import Place, Record
from corl_cli.data.sources.fields import bracketed, image, optional, text, texts, titled
from corl_cli.data.sources.layouts import Parquet, ParquetOptions


class M3CotOptions(ParquetOptions):
    """A local copy of the set's parquet files, and which split (train, validation, test)."""

    path: Place = Path("data/raw/m3cot")


class M3Cot(Parquet):
    """M3CoT (CC BY-SA 4.0), multiple choice; it has no captions.

    Columns: id, category, image_id, question, choices, context, answer (a letter), rationale, split, image, domain,
    topic. Schema read on the set's card and in its authors' loader; the files themselves have not been run here. The
    context goes before the question.
    """

    Options = M3CotOptions
    options: M3CotOptions
    label, page = "m3cot", "https://huggingface.co/datasets/LightChen2333/M3CoT"

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "image", self.options.path),
            question=titled(optional(record, "context"), text(record, "question")),
            options=texts(record, "choices"),
            answer=bracketed(text(record, "answer")),
            solution=optional(record, "rationale"),
            answer_type="mc",
        )
