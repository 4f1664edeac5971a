"""The data card and the preview of a built set: README.md, which the Hub and `datasets` read, and preview.html."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corl_cli.core import pages
from corl_cli.data import distributions
from corl_cli.data.distributions import Distributions
from corl_cli.data.manifest import Counts, Manifest, training

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 36  # triplets in the preview
FILES = 12  # parquet files that they come from, spread over the set
SIDE = 192  # pixels of a picture in the preview, at most
COLUMNS = {
    "id": "tells triplets apart",
    "image": "the real image, RGB (the `Image` feature of `datasets`)",
    "prompt": "its caption, which the model draws from; empty in a set for answering only",
    "question": "a question about it, bare, its options as lettered lines; empty in a set for drawing only",
    "answer": "the option's letter (`mc`) or the words (`oe`), clean",
    "answer_type": "`mc` (multiple choice) or `oe` (open-ended)",
    "source": "where it comes from",
    "coverage": "share of the concepts of question and answer that the prompt names; NaN where there are none",
    "pass_rate": "share of a policy's answers that were right",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A triplet of the preview; `image` is None where its picture cannot be read."""

    row: Mapping[str, Any]
    image: Image | None


def write(folder: Path, manifest: Manifest) -> None:
    """Write README.md and preview.html of a built set from its parquet files and its manifest.

    The same set gives the same bytes. Memory does not grow with the set: texts are streamed, and images are those of
    at most FILES files, a few at a time.
    """
    files = [folder / file["path"] for split in manifest["splits"].values() for file in split["files"]]
    found = distributions.count(files)
    shown, sizes = _sample(files, manifest["seed"])
    name = str(manifest["recipe"]["name"])
    pages.write(
        folder / "README.md",
        "card.md",
        name=name,
        manifest=manifest,
        found=found,
        tables=_tables(manifest, found),
        recipe=_recipe(manifest),
        columns={column: COLUMNS.get(column, "") for column in manifest["columns"]},
        size=_size_category(manifest["total"]["kept"]),
        tasks=_task_categories(found),
        digest=_digest(manifest),
        training=training(manifest["recipe"], "DIR"),
    )
    pages.write(
        folder / "preview.html",
        "preview.html",
        name=name,
        shown=shown,
        total=manifest["total"]["kept"],
        tables={title: rows for title, rows in _tables(manifest, found).items() if rows},
        figures=distributions.figures(found, sizes),
    )


def _digest(manifest: Manifest) -> str:
    """A hash of all files. `datasets` knows a folder by what its card says, and would read what it once cached of it
    though the set has been built again; with the hash in the card it does not.
    """
    files = [file["sha256"] for split in manifest["splits"].values() for file in split["files"]]
    return sha256(" ".join(files).encode()).hexdigest()


def _tables(manifest: Manifest, found: Distributions) -> dict[str, list[dict[str, Any]]]:
    """The counts as titled tables."""
    sources = dict(manifest["sources"])
    whole = {"all": manifest["total"]} if len(sources) > 1 else {}
    return {
        "Sources": [_counts(name, counts) for name, counts in (sources | whole).items()],
        "Splits": [
            {"split": name, "triplets": split["rows"], "files": len(split["files"])}
            for name, split in manifest["splits"].items()
        ],
        "Questions": [{"answer type": name, "triplets": number} for name, number in sorted(found.types.items())],
        "Right answers": [
            {"letter": letter, "questions": number, "share": f"{number / found.letters.total():.1%}"}
            for letter, number in sorted(found.letters.items())
        ],
        "Left out": [
            {"source": name, "reason": reason, "items": number}
            for name, counts in sources.items()
            for reason, number in sorted(counts["dropped"].items(), key=lambda item: (-item[1], item[0]))
        ],
    }


def _counts(name: str, counts: Counts) -> dict[str, Any]:
    coverage = counts["coverage"]
    return {
        "source": name,
        "offered": counts["offered"],
        "kept": counts["kept"],
        "left out": sum(counts["dropped"].values()),
        "mean coverage": "–" if coverage is None else f"{coverage:.1%}",
    }


def _recipe(manifest: Manifest) -> str:
    """What the builder read of the recipe, as YAML that can be used again."""
    from ruamel.yaml import YAML

    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    kept = {key: manifest["recipe"][key] for key in ("name", "seed", "prepare") if key in manifest["recipe"]}
    yaml.dump(kept, text)
    return text.getvalue().rstrip()


def _size_category(rows: int) -> str:
    """The Hub's word for a number of rows, such as 1K<n<10K."""
    if rows < 1000:
        return "n<1K"
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    low = min(len(str(rows)) - 4, len(bounds) - 2)
    return f"{bounds[low]}<n<{bounds[low + 1]}"


def _task_categories(found: Distributions) -> list[str]:
    """The Hub's words for what the set can teach."""
    return [
        *(["text-to-image"] if set(found.prompts) - {0} else []),
        *(["visual-question-answering"] if found.types else []),
    ]


def _sample(files: Sequence[Path], seed: int) -> tuple[list[Shown], Counter[tuple[int, int]]]:
    """Triplets spread over the files, chosen by seed, and the sizes of all images of the files that were opened."""
    opened = [files[index * len(files) // min(FILES, len(files))] for index in range(min(FILES, len(files)))]
    lengths = [_length(file) for file in opened]
    left, shown, sizes = SHOWN, [], Counter[tuple[int, int]]()
    for place, (file, length) in enumerate(zip(opened, lengths, strict=True)):
        wanted = min(length, -(-left // (len(opened) - place)))
        chosen = set(random.Random(f"{seed}/{file.name}").sample(range(length), wanted))
        left -= wanted
        for index, (row, image) in enumerate(_pictures(file)):
            if image is not None:
                sizes[image.size] += 1
            if index in chosen:
                shown.append(Shown(row=row, image=_thumbnail(image)))
    return shown, sizes


def _length(file: Path) -> int:
    from pyarrow import parquet

    return int(parquet.read_metadata(file).num_rows)


def _pictures(file: Path) -> Iterator[tuple[dict[str, Any], Image | None]]:
    """The rows of a file with their images, opened but not decoded; None where there is no picture."""
    from PIL import Image

    for row in distributions.rows([file], ("image", "id", *distributions.COLUMNS), batch=64):
        stored = row.pop("image")
        try:
            yield row, Image.open(io.BytesIO(stored["bytes"]) if stored["bytes"] else stored["path"])
        except OSError:
            yield row, None


def _thumbnail(image: Image | None) -> Image | None:
    if image is None:
        return None
    try:
        small = image.convert("RGB")
    except OSError:
        return None
    small.thumbnail((SIDE, SIDE))
    return small
