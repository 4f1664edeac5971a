"""What a run draws and answers for the same held-out items through time: a sheet and a file of lines at each look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.pictures import Tile, sheet
from corl_cli.core.run_dir import write_atomic
from corl_cli.core.types import Rollout, Triplet

TRIPLETS, EACH = 6, 4  # items looked at, and samples of each task for each


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One item at one look: its real image, the drawings of its prompt, the answers to its question.

    What the run does not train is empty: drawings with their prompt, or answers with question and right answer.
    """

    real: Image.Image
    prompt: str = ""
    drawings: list[Image.Image] = field(default_factory=list)
    question: str = ""
    answer: str = ""
    answers: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Look:
    """All items after optimiser step `step`."""

    step: int
    entries: list[Entry]


def entries(triplets: Sequence[Triplet], rollouts: Sequence[Rollout]) -> list[Entry]:
    """The items of a look, of rollouts with EACH samples for each triplet in order."""
    found = []
    for place, triplet in enumerate(triplets):
        own = slice(place * EACH, (place + 1) * EACH)
        outputs = {rollout.task: rollout.outputs[own] for rollout in rollouts}
        entry: dict[str, Any] = {"real": triplet.image}
        if drawings := outputs.get("t2i"):
            entry |= {"prompt": triplet.prompt, "drawings": list(drawings)}
        if answers := outputs.get("mm2t"):
            entry |= {"question": triplet.question, "answer": triplet.answer, "answers": list(answers)}
        found.append(Entry(**entry))
    return found


def write(folder: Path, look: Look) -> Image.Image:
    """step-NNNNNN.png, a row for each item: the real image, then its drawings; and step-NNNNNN.jsonl, a line for each
    item, which says where in the sheet its pictures are. Returns the sheet.
    """
    rows = [
        [Tile(entry.real, entry.prompt or entry.question), *(Tile(drawing, "") for drawing in entry.drawings)]
        for entry in look.entries
    ]
    page = sheet([tile for row in rows for tile in row], columns=max(map(len, rows)))
    boxes = iter(page.boxes)
    lines = []
    for entry, row in zip(look.entries, rows, strict=True):
        real, *drawings = [next(boxes) for _ in row]
        words = {name: getattr(entry, name) for name in ("prompt", "question", "answer", "answers")}
        lines.append({"real": real, "drawings": drawings} | words)
    stem, file = folder / f"step-{look.step:06d}", BytesIO()
    page.image.save(file, "PNG")
    write_atomic(stem.with_suffix(".png"), file.getvalue())
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(stem.with_suffix(".jsonl"), text)  # last: it marks the look as whole
    return page.image


def steps(folder: Path) -> list[int]:
    """The steps whose looks are in a folder."""
    return sorted(int(file.stem.removeprefix("step-")) for file in folder.glob("step-*.jsonl"))


def read(folder: Path, step: int) -> Look:
    """The look at a step, pictures as large as they are in its sheet; CorlError when it is damaged."""
    file = folder / f"step-{step:06d}.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        with Image.open(file.with_suffix(".png")) as opened:
            page = opened.convert("RGB")
        found = []
        for line in lines:
            real, drawings = page.crop(line.pop("real")), [page.crop(box) for box in line.pop("drawings")]
            found.append(Entry(real=real, drawings=drawings, **line))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorlError(f"The samples {file} cannot be read: {error}", "Remove that file and its picture.") from error
    return Look(step=step, entries=found)
