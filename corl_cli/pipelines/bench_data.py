"""What building a set costs per item at several sizes, on generated images, captions and questions."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corl_cli.core.errors import CorlError

SIZE = 500, 400  # pixels, width and height
JPEG_QUALITY = 85
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "grey")
THINGS = ("dog", "cat", "horse", "car", "bicycle", "bench", "table", "bottle", "kite", "umbrella", "boat", "clock")
PLACES = ("street", "beach", "kitchen", "field", "bridge", "garden", "station", "market")
MEASURED = """
import resource, sys
from corl_cli.cli.app import app
app({arguments!r}, standalone_mode=False)
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one build took: wall-clock time, the peak memory of its largest process, and what lies on the disk.

    `ms_per_further_item` is the time beyond that of the next smaller build, for each item more, so without the start.
    """

    items: int
    kept: int
    seconds: float
    ms_per_item: float
    ms_per_further_item: float | None
    peak_mib: float
    set_mib: float


def bench_data(sizes: Sequence[int], num_proc: int, folder: Path | None = None) -> Iterator[Cost]:
    """Generate as many items as the largest size asks for, then build the first of them, a fresh process each size.

    Sizes are built from the smallest on. Files go into a new temporary folder (in `folder`), which is removed at the
    end. Generating is not timed; starting Python is. CorlError when a build fails.
    """
    with tempfile.TemporaryDirectory(prefix="corl-bench-", dir=folder) as name:
        work = Path(name)
        generate(work / "own", max(sizes))
        before: Cost | None = None
        for size in sorted(set(sizes)):
            before = _build(work, size, num_proc, before)
            yield before


def generate(folder: Path, size: int) -> None:
    """A folder of JPEGs, noise on a gradient, 500x400, and metadata.jsonl: captions, a question and its answer."""
    from PIL import Image

    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for number in range(size):
            name = f"{number:07d}.jpg"
            Image.fromarray(_pixels(number)).save(folder / name, quality=JPEG_QUALITY)
            file.write(json.dumps({"file_name": name} | _texts(number)) + "\n")


def _pixels(number: int) -> np.ndarray:
    """[400, 500, 3] uint8: a gradient of two colours, coarse shapes, and fine noise."""
    rng = np.random.default_rng(number)
    width, height = SIZE
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :] * np.linspace(0.5, 1, height, dtype=np.float32)[:, None]
    blocks = rng.normal(0, 30, (8, 10)).astype(np.float32)
    coarse = blocks.repeat(height // 8, axis=0).repeat(width // 10, axis=1)
    grey = coarse + 8 * rng.standard_normal((height, width), dtype=np.float32)
    first, second = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    channels = [(grey + low + (high - low) * ramp).clip(0, 255) for low, high in zip(first, second, strict=True)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _texts(number: int) -> dict[str, object]:
    """Captions, a question of one of the two types, and its answer."""
    rng = random.Random(number)
    colour, thing, place = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(PLACES)
    captions = [f"a {thing} on a {place}", f"a {colour} {thing} near a {place}", f"somebody walks past a {place}"]
    if number % 2:
        return {"caption": captions, "question": f"What colour is the {thing}?", "answer": colour}
    options = rng.sample(PLACES, 4)
    options[rng.randrange(4)] = place
    options = list(dict.fromkeys(options))
    question = f"Where is the {thing}?"
    return {"caption": captions, "question": question, "options": options, "answer": "ABCD"[options.index(place)]}


def _build(work: Path, size: int, num_proc: int, before: Cost | None) -> Cost:
    out = work / f"set-{size}"
    arguments = [
        *("prepare-data", "--recipe", "prepare/own", "--set", f"prepare.sources.table.path={work / 'own'}"),
        *("--limit", str(size), "--out", str(out), "--num-proc", str(num_proc), "--json"),
    ]
    begun = time.perf_counter()
    built = subprocess.run(
        [sys.executable, "-c", MEASURED.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    seconds = time.perf_counter() - begun
    if built.returncode:
        raise CorlError(f"Building {size} items failed: {(built.stderr.strip() or 'no word').splitlines()[-1]}")
    files = (out / "data").iterdir()
    summary, _, peak = built.stdout.rstrip().rpartition("\n")
    return Cost(
        items=size,
        kept=json.loads(summary)["total"]["kept"],
        seconds=seconds,
        ms_per_item=1000 * seconds / size,
        ms_per_further_item=1000 * (seconds - before.seconds) / (size - before.items) if before else None,
        peak_mib=int(peak) / 2**10,
        set_mib=sum(file.stat().st_size for file in files) / 2**20,
    )
