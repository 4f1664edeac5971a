"""The sets that the authors of CoRL publish, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.data.items import Raw
from corl_cli.data.sources import files
from corl_cli.data.sources.base import Options, Record, Records
from corl_cli.data.sources.fields import answer, answer_type, image, optional, several

PAGE = "https://huggingface.co/datasets/mm-vl/x2x_rft_22k"


class PublishedOptions(Options):
    """A hub id, or a local copy: a parquet file or a folder of them; and which split."""

    path: str = "mm-vl/x2x_rft_22k"
    split: str = "train"


class Published(Records):
    """The triplets of the paper (arXiv 2505.17534; licence: see their card), 22,000 for stage 1.

    Columns: idx, real_image, prompt, qa_problem (with the paper's instruction, which is taken off when items are made),
    qa_solution, qa_type (MC or OE). The columns were run from a local parquet; the Hub itself, from which rows are
    streamed, was not reached here.
    """

    Options = PublishedOptions
    options: PublishedOptions
    label, id_field, numbered = "x2x", "idx", True

    def files(self) -> list[Path]:
        path = Path(self.options.path).expanduser()
        is_hub_id = not path.exists() and self.options.path.count("/") == 1 and not path.suffix
        return [] if is_hub_id else files.parquet_files(path, self.options.split, PAGE)

    def records(self) -> Iterator[Any]:
        local = self.files()
        return files.rows(local, PAGE) if local else _streamed(self.options.path, self.options.split)

    def read(self, name: str, record: Record) -> Iterator[Raw]:
        yield Raw(
            id=name,
            source=self.label,
            image=image(record, "real_image", Path(self.options.path).expanduser()),
            captions=several(record, "prompt"),
            question=optional(record, "qa_problem"),
            answer=answer(record, "qa_solution"),
            answer_type=answer_type(record, "qa_type"),
        )


def _streamed(hub_id: str, split: str) -> Iterator[Any]:
    """The rows of a set on the Hub in order, none kept, images as their bytes."""
    import datasets

    try:
        rows = datasets.load_dataset(hub_id, split=split, streaming=True)
        yield from rows.cast_column("real_image", datasets.Image(decode=False))
    except Exception as error:  # what the Hub and the network raise has no common class
        raise CorlError(
            f"The set {hub_id} (split {split}) cannot be read from the Hub: {str(error).strip().splitlines()[0]}",
            f"Look at {PAGE}, or name a local copy: --set prepare.sources.published.path=DIR",
        ) from error
