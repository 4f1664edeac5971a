"""The folder of one result: what was asked, drawn, answered and scored, in files that survive a kill at any moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.run_dir import write_atomic, writing
from corl_cli.eval.base import Item, Score

Key = tuple[str, int]  # item and sample
Line = dict[str, Any]


class Records:
    """Lines of JSON, one for each sample: `NAME.jsonl`, and a part of each process while a step goes on.

    A part's line takes the place of a settled one, so that what failed can be tried again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[Key, Line]:
        """Every line that was written whole, by item and sample."""
        found: dict[Key, Line] = {}
        for file in [self.path, *self._parts()]:
            for line in _lines(file):
                found[line["item"], line["sample"]] = line
        return found

    @contextmanager
    def writer(self, process: int) -> Iterator[Callable[[Line], None]]:
        """Appends lines to this process' part, each flushed, after what a kill has torn is cut off."""
        path = self.path.with_suffix(f".{process}.jsonl")
        with writing(path), path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)

            def append(line: Line) -> None:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()

            yield append

    def settle(self, order: Sequence[Key]) -> None:
        """Bring all lines into one file, in this order; those of other keys are dropped."""
        lines = self.read()
        if lines:
            kept = (json.dumps(lines[key], ensure_ascii=False) for key in order if key in lines)
            write_atomic(self.path, "".join(f"{line}\n" for line in kept))
        for part in self._parts():
            part.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.*.jsonl"))


class Store:
    """A result on disk; making one touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_file = folder / "eval.yaml"
        self.manifest_file = folder / "manifest.json"
        self.items_file = folder / "items.jsonl"
        self.result_file = folder / "result.json"
        self.timing_file = folder / "timing.jsonl"
        self._answers = Records(folder / "answers.jsonl")
        self._scores = Records(folder / "scores.jsonl")

    @property
    def exists(self) -> bool:
        """Whether there is a result here, finished or not."""
        return self.manifest_file.exists()

    def manifest(self) -> dict[str, Any]:
        """What the result depends on; UsageError when there is none here."""
        if not self.exists:
            raise UsageError(f"{self.folder} holds no result of an evaluation.", "Make one: corl eval world")
        return _whole(self.manifest_file)

    def create(self, manifest: Mapping[str, Any], items: Sequence[Item], recipe: str) -> None:
        """Write what is asked, and in which recipe; the manifest last, because it marks the folder as a result."""
        write_atomic(self.recipe_file, recipe)
        asked = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
        write_atomic(self.items_file, asked)
        self.note({**manifest, "asked": hashlib.sha256(asked.encode()).hexdigest()})

    def note(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest; equal facts give equal files, whichever step they came with."""
        text = json.dumps(dict(sorted(manifest.items())), indent=2, ensure_ascii=False)
        write_atomic(self.manifest_file, text + "\n")

    def check(self, facts: Mapping[str, Any]) -> None:
        """UsageError when the manifest says otherwise of any of these facts: results of two are never mixed."""
        there = self.manifest()
        for name, fact in facts.items():
            if name in there and there[name] != fact:
                unlike = differences(name, there[name], fact)
                what = "\n".join(f"  {key}: {ours!r} there, {theirs!r} now" for key, ours, theirs in unlike)
                raise UsageError(
                    f"{self.folder} holds a result of something else:\n{what}",
                    "Go on with what it was begun with, or start another with another --out.",
                )

    def items(self) -> list[Item]:
        """What is asked, in order; CorlError when it is not what was asked at first."""
        there = self.items_file.read_bytes() if self.items_file.exists() else b""
        if hashlib.sha256(there).hexdigest() != self.manifest()["asked"]:
            raise CorlError(
                f"{self.items_file} is not what it was when this result was begun.",
                "Bring it back, or start another result with another --out.",
            )
        return [Item(**line) for line in _lines(self.items_file)]

    def keys(self) -> list[Key]:
        """Every sample of every item, in order."""
        return [(item.id, sample) for item in self.items() for sample in range(item.samples)]

    # ---- what was drawn and answered ------------------------------------------------------------------------------

    def image(self, item: str, sample: int) -> Path:
        """Where a drawing is, in GenEval's layout."""
        return self.folder / "images" / item / "samples" / f"{sample:04d}.png"

    def drawn(self, item: str, sample: int) -> bool:
        """Whether a drawing is there, whole: a file that cannot be read, as a power cut may leave it, is none."""
        try:
            with Image.open(self.image(item, sample)) as image:
                image.verify()
        except (OSError, SyntaxError, ValueError):  # Pillow's, of what is no image
            return False
        return True

    def save_image(self, item: Item, sample: int, image: Image.Image) -> None:
        """Write a drawing whole or not at all, and beside the samples what was to be drawn."""
        path = self.image(item.id, sample)
        partial = path.with_suffix(".partial")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            metadata = path.parents[1] / "metadata.jsonl"
            if not metadata.exists():
                write_atomic(metadata, json.dumps({"prompt": item.prompt, **item.data}, ensure_ascii=False) + "\n")
            image.save(partial, "PNG")
            partial.replace(path)

    def answers(self) -> dict[Key, Line]:
        """The answers, and why there is none."""
        return self._answers.read()

    def answering(self, process: int) -> Any:
        """See Records.writer, of answers."""
        return self._answers.writer(process)

    # ---- what it is worth -----------------------------------------------------------------------------------------

    def scores(self) -> dict[Key, Score]:
        """The scores, failed ones without a value."""
        return {key: Score(**line) for key, line in self._scores.read().items()}

    @contextmanager
    def scoring(self, process: int) -> Iterator[Callable[[Score], None]]:
        """See Records.writer, of scores."""
        with self._scores.writer(process) as append:
            yield lambda score: append(asdict(score))

    def settle(self) -> None:
        """Bring what the processes wrote into one file of answers and one of scores, in the items' order."""
        keys = self.keys()
        self._answers.settle(keys)
        self._scores.settle(keys)

    def result(self) -> dict[str, Any]:
        """The summary; CorlError when there is none yet."""
        if not self.result_file.exists():
            raise CorlError(f"{self.folder} has no summary yet.", "Go on with it: --resume, or --only summarise")
        return _whole(self.result_file)

    def summarised(self, result: Mapping[str, Any]) -> None:
        """Write the summary; numbers must be finite or None."""
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.result_file, text + "\n")

    # ---- how long it took -----------------------------------------------------------------------------------------

    def timed(self, step: str, process: int, samples: int, seconds: float) -> None:
        """Note that a process did so many samples of a step in so many seconds."""
        line = {"step": step, "process": process, "samples": samples, "seconds": round(seconds, 3)}
        with writing(self.timing_file), self.timing_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rates(self) -> dict[str, float]:
        """Samples per second of each step, over all processes together."""
        done: dict[tuple[str, int], tuple[float, float]] = {}
        for line in _lines(self.timing_file):
            samples, seconds = done.get((line["step"], line["process"]), (0, 0.0))
            done[line["step"], line["process"]] = samples + line["samples"], seconds + line["seconds"]
        rates: dict[str, float] = {}
        for (step, _), (samples, seconds) in done.items():
            rates[step] = rates.get(step, 0.0) + samples / max(seconds, 1e-3)
        return rates


def _lines(path: Path) -> Iterator[Line]:
    """The lines of a file of JSON, without a last one torn by a kill; none where there is no file."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.endswith("\n"):
                yield _parsed(path, line)


def _whole(path: Path) -> dict[str, Any]:
    """A file of one JSON object."""
    return _parsed(path, path.read_text(encoding="utf-8"))


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise CorlError(
            f"{path} is damaged: {error}.", "Bring it back from a copy, or start another result with another --out."
        ) from error
    return found


def differences(name: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two facts differ: the dotted key, and both."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(f"{name}.{key}", one.get(key), other.get(key))
    elif one != other:
        yield name, one, other
