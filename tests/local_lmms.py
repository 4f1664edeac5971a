"""A benchmark over the small lmms-eval task in tests/eval/lmms_local, and its records."""

from pathlib import Path

import datasets
from PIL import Image

from corl_cli.eval.understanding import Understanding
from corl_cli.eval.understanding.tasks import LmmsTask

RED, BLUE = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (8, 12), "blue")
RECORDS = [
    {"question": "What colour?", "answer": "red", "kind": "oe", "first": RED, "second": None},
    {"question": "Which is red?\nA. left\nB. right", "answer": "a", "kind": "mc", "first": RED, "second": BLUE},
    {"question": "How deep is it?", "answer": "unanswerable", "kind": "oe", "first": BLUE, "second": None},
]


class Shapes(Understanding):
    """The small task; nothing is looked for in its answers."""

    title = "Shapes"
    measure = "exact matches, in percent"
    folder = Path(__file__).parent / "eval" / "lmms_local"
    lmms = LmmsTask(
        task="local_shapes",
        dataset="nobody/shapes",
        split="test",
        form="bare",
        headline="exact",
        answer_type=lambda doc: doc["kind"],
        question=lambda doc: doc["question"],
        options=lambda doc: {"A": "left", "B": "right"},
        value=lambda metrics: metrics["exact"],
        group=lambda doc: doc["kind"],
    )


def save(folder: Path, split: str = "test") -> Path:
    """The records as a parquet file."""
    folder.mkdir(parents=True)
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question", "answer", "kind")}
        | {name: datasets.Image() for name in ("first", "second")}
    )
    datasets.Dataset.from_list(RECORDS, features=features).to_parquet(folder / f"{split}-00000.parquet")
    return folder
