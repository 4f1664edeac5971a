"""Whether a set of triplets is sound: its files, its texts, its images, and what its rows and splits share."""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data
from corl_cli.core.types import AnswerType
from corl_cli.data import images, manifest, templates
from corl_cli.data.build import refuse_unfinished
from corl_cli.data.items import Unusable
from corl_cli.data.triplets import COLUMNS
from corl_cli.scoring import answers, choices
from corl_cli.scoring.notation import plain
from corl_cli.scoring.words import gist

EXAMPLES = 3  # of each finding
Severity = Literal["fault", "remark"]


@dataclass(kw_only=True)
class Finding:
    """Something about `count` rows, images or files, with some of them as examples; a remark leaves the set usable."""

    severity: Severity
    what: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rows by split, what was found (faults first), and what was not checked and why."""

    rows: dict[str, int]
    findings: list[Finding]
    unchecked: list[str]

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return all(finding.severity == "remark" for finding in self.findings)


class Progress(Protocol):
    """Told of each row that is done."""

    def advance(self, steps: int = 1, note: str = "") -> None: ...


def check(data: Data, progress: Progress | None = None) -> Report:
    """Read every row of every split of `data.path` once, whatever `data.split` says.

    A row is named by its split and number. Memory is that of a batch of rows, and 48 bytes for each row (hashes of 64
    bits, by which rows are compared). CorlError when nothing can be read.
    """
    if data.path == "world":
        raise UsageError("The embedded world has no files to check.", "Build a set of it: corl prepare-data")
    refuse_unfinished(Path(data.path))
    found, seen, rows = _Findings(), _Seen(), {}
    record = manifest.read(Path(data.path))
    unchecked = [] if record else ["counts and hashes of files: there is no manifest"]
    if record:
        _check_files(Path(data.path), record, found)
    for split, table in _splits(data).items():
        rows[split] = 0
        seen.begin(split)
        try:
            for row in table:
                if not rows[split] and (lacking := _lacking(row, data)):
                    found.add("fault", f"no column {', '.join(lacking)}", split)
                    unchecked.append(f"rows of {split}: columns are missing")
                    break
                _check_row(_named(row, data), f"{split} {rows[split]}", found, seen)
                rows[split] += 1
                if progress:
                    progress.advance()
        except Exception as error:  # a damaged file may raise anything, at any row
            found.add("fault", f"the file cannot be read on: {_reason(error)}", f"{split} {rows[split]}")
    if record:
        _check_counts(record, rows, found)
    if not seen.named:
        unchecked.append("duplicate ids: there is no column of ids")
    _check_together(seen, found)
    return Report(rows=rows, findings=found.sorted(), unchecked=unchecked)


def count(data: Data) -> int | None:
    """How many rows `check` will read, as far as can be known without reading them."""
    from pyarrow import ArrowException, parquet

    local = Path(data.path)
    if record := manifest.read(local):
        return sum(split["rows"] for split in record["splits"].values())
    try:
        files = [local] if local.suffix == ".parquet" else sorted(local.rglob("*.parquet"))
        return sum(parquet.read_metadata(file).num_rows for file in files) or None
    except (OSError, ArrowException):
        return None


def text_faults(row: Mapping[str, str]) -> Iterator[tuple[Severity, str]]:
    """What is wrong with the texts of one row: prompt, question, answer and answer_type."""
    prompt, question, kind = row["prompt"].strip(), row["question"].strip(), row["answer_type"].lower()
    answer = answers.extract(row["answer"]) or ""
    if not prompt:
        yield ("remark", "no prompt: nothing to draw") if question else ("fault", "neither a prompt nor a question")
    if prompt and not question:
        yield "remark", "no question: nothing to answer"
    if question and not answer:
        yield "fault", "no answer"
    if answer and not question:
        yield "fault", "an answer without a question"
    if kind not in get_args(AnswerType):
        yield "fault", "the answer type is neither mc nor oe"
    if len(answer) > answers.MAX_CHARS:
        yield "fault", "the answer is too long to compare with"
    elif question and answer:
        yield from _option_faults(question, answer, kind)
    if any(text and text in question for text in templates.INSTRUCTIONS.values()):
        yield "remark", "the question carries an instruction"
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\t" for sign in prompt + question + answer):
        yield "remark", "control characters"


def _option_faults(question: str, answer: str, kind: str) -> Iterator[tuple[Severity, str]]:
    options = choices.read_options(question)
    chosen = choices.choose(answer, options) if options else None
    if kind == "oe" and chosen:
        yield "remark", "open-ended, but the answer is one of the options"
    if kind != "mc":
        return
    if not options:
        yield "fault", "multiple choice without options"
    elif chosen is None:
        yield "fault", "answer not among the options"
    elif answer != chosen:
        yield "remark", "the answer is not the bare letter"
    if len({plain(option) for option in options.values()}) < len(options):
        yield "remark", "two options say the same"


class _Findings:
    """Findings by what they say."""

    def __init__(self) -> None:
        self.by_what: dict[str, Finding] = {}

    def add(self, severity: Severity, what: str, example: str) -> None:
        finding = self.by_what.setdefault(what, Finding(severity=severity, what=what))
        finding.count += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(example)

    def sorted(self) -> list[Finding]:
        return sorted(self.by_what.values(), key=lambda finding: (finding.severity, -finding.count, finding.what))


class _Seen:
    """Hashes of all rows in order: of ids, images, questions, questions with their answers, and looks (perceptual).

    What a row lacks has a hash of its own, so that it equals nothing.
    """

    def __init__(self) -> None:
        self.ids, self.images, self.questions, self.answers = (array("Q") for _ in range(4))
        self.looks, self.looked = array("Q"), array("Q")  # perceptual hashes, and the rows that they are of
        self.splits: list[tuple[str, int]] = []
        self.named = False

    def begin(self, split: str) -> None:
        self.splits.append((split, len(self.ids)))

    def add(self, name: str | None, image: str | None, look: str | None, question: str, answer: str) -> None:
        row = f"row {len(self.ids)}"
        if look:
            self.looks.append(int(look, 16))
            self.looked.append(len(self.ids))
        self.named |= name is not None
        asked = (image, question) if image and question else (row,)
        self.ids.append(_hash(row) if name is None else _hash("id", name))
        self.images.append(_hash(image or row))
        self.questions.append(_hash(*asked))
        self.answers.append(_hash(*asked, answer))

    def split(self, row: int) -> int:
        """The number of the split that a row belongs to."""
        return max(number for number, (_, start) in enumerate(self.splits) if start <= row)

    def place(self, row: int) -> str:
        name, start = self.splits[self.split(row)]
        return f"{name} {row - start}"


def _hash(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _check_row(row: Mapping[str, Any], place: str, found: _Findings, seen: _Seen) -> None:
    for severity, what in text_faults(row):
        found.add(severity, what, place)
    image = look = None
    try:
        image, look = _identity(row["image"])
    except Unusable as error:
        found.add("fault", str(error), place)
    seen.add(row["id"], image, look, row["question"].strip(), gist(row["answer"][: answers.MAX_CHARS]))


def _identity(stored: Any) -> tuple[str, str]:
    """What tells an image apart, and what finds those that look like it; Unusable when the builder would refuse it."""
    if isinstance(stored, str):
        stored = {"bytes": None, "path": stored}
    if not isinstance(stored, Mapping):
        raise Unusable(images.MISSING if stored is None else "the image is neither a file nor a path")
    data, path = stored.get("bytes"), stored.get("path")
    picture = images.read(data or Path(path or ""))
    return picture.digest, picture.phash


def _check_together(seen: _Seen, found: _Findings) -> None:
    """What rows share: ids, questions about an image, images of several splits."""
    for rows in _equal(seen.ids):
        for row in rows[1:]:
            found.add("fault", "the same id twice", f"{seen.place(rows[0])} = {seen.place(row)}")
    for rows in _equal(seen.questions):
        one_answer = len({seen.answers[row] for row in rows}) == 1
        severity: Severity = "remark" if one_answer else "fault"
        what = "the same question about the same image" if one_answer else "one question, one image, several answers"
        for row in rows[1:]:
            found.add(severity, what, f"{seen.place(rows[0])} = {seen.place(row)}")
    shared: list[int] = []
    for rows in _equal(seen.images):
        if other := _elsewhere(seen, rows):
            shared += rows
            found.add("fault", "the same image in several splits", f"{seen.place(rows[0])} = {seen.place(other)}")
    for row, other in _alike_elsewhere(seen, shared):
        found.add("remark", "images of several splits that look alike", f"{seen.place(row)} ~ {seen.place(other)}")


def _alike_elsewhere(seen: _Seen, shared: list[int]) -> list[tuple[int, int]]:
    """For each look of a later split that an earlier one has too, or nearly, a row of each; none of those `shared`."""
    import numpy

    from corl_cli.data.lookalikes import ALIKE, near

    rows = numpy.frombuffer(seen.looked, numpy.int64)
    own = ~numpy.isin(rows, shared)
    rows, looks = rows[own], numpy.frombuffer(seen.looks, numpy.uint64)[own]
    looks, of = numpy.unique(looks, return_inverse=True)
    split = numpy.searchsorted([start for _, start in seen.splits], rows, side="right") - 1
    first = numpy.full((len(seen.splits), len(looks)), -1)  # row of each split and look
    first[split[::-1], of[::-1]] = rows[::-1]
    same, (one, other) = numpy.arange(len(looks)), near(looks, ALIKE)
    left, right = numpy.concatenate([same, one, other]), numpy.concatenate([same, other, one])
    alike: dict[int, int] = {}
    for earlier, later in combinations(first, 2):
        both = numpy.flatnonzero((earlier[left] >= 0) & (later[right] >= 0))
        for row, its in zip(earlier[left[both]].tolist(), later[right[both]].tolist(), strict=True):
            alike[its] = min(row, alike.get(its, row))
    return [(row, its) for its, row in sorted(alike.items())]


def _elsewhere(seen: _Seen, rows: list[int]) -> int | None:
    """The first row that is of another split than the first one."""
    return next((row for row in rows if seen.split(row) != seen.split(rows[0])), None)


def _equal(hashes: array[int]) -> Iterator[list[int]]:
    """The rows of each hash that several have, in order."""
    import numpy

    values = numpy.frombuffer(hashes, dtype=numpy.uint64)
    order = numpy.argsort(values, kind="stable")
    starts = numpy.flatnonzero(numpy.diff(values[order], prepend=values[order][:1] ^ 1))
    lengths = numpy.diff(starts, append=len(order))
    several = lengths > 1  # lists are made of these only: most rows have a hash of their own
    groups = [
        order[start : start + length].tolist() for start, length in zip(starts[several], lengths[several], strict=True)
    ]
    yield from sorted(groups)


def _check_files(folder: Path, record: manifest.Manifest, found: _Findings) -> None:
    """The files of the manifest are there and unchanged, and there are no others."""
    listed = [file for split in record["splits"].values() for file in split["files"]]
    for file in listed:
        path = folder / file["path"]
        if not path.is_file():
            found.add("fault", "a file of the manifest is missing", file["path"])
        elif path.stat().st_size != file["bytes"] or manifest.sha256(path) != file["sha256"]:
            found.add("fault", "a file is not the one of the manifest", file["path"])
    for path in sorted((folder / "data").glob("*.parquet")):
        if path.relative_to(folder).as_posix() not in {file["path"] for file in listed}:
            found.add("fault", "a file that the manifest does not know", path.relative_to(folder).as_posix())


def _check_counts(record: manifest.Manifest, rows: Mapping[str, int], found: _Findings) -> None:
    for split, part in record["splits"].items():
        if part["rows"] != rows.get(split, 0):
            what = "rows are more or fewer than the manifest says"
            found.add("fault", what, f"{split}: {rows.get(split, 0)} of {part['rows']}")
    kept = sum(part["rows"] for part in record["splits"].values())
    if record["total"]["kept"] != kept:
        found.add("fault", "splits do not add up to what was kept", f"{kept} of {record['total']['kept']}")


def _splits(data: Data) -> dict[str, Iterable[Mapping[str, Any]]]:
    """The rows of every split, streamed, images not decoded."""
    import datasets

    local = Path(data.path)
    try:
        if local.suffix == ".parquet":
            splits = datasets.load_dataset("parquet", data_files=str(local), streaming=True)
        elif (local / "dataset_info.json").exists():
            splits = {"train": datasets.load_from_disk(str(local))}
        elif (local / "dataset_dict.json").exists():
            splits = datasets.load_from_disk(str(local))
        else:
            splits = datasets.load_dataset(data.path, streaming=True)
    except Exception as error:  # as many kinds as there are ways to store a set
        raise CorlError(
            f"No triplets could be read from {data.path}: {_reason(error)}",
            "Give a parquet file, a folder that datasets can load, or a hub id that this machine can reach.",
        ) from error
    return {name: _undecoded(rows) for name, rows in splits.items()}


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _undecoded(rows: Any) -> Any:
    from datasets import Image

    images = [name for name, feature in (rows.features or {}).items() if isinstance(feature, Image)]
    for name in images:
        rows = rows.cast_column(name, Image(decode=False))
    return rows


def _lacking(row: Mapping[str, Any], data: Data) -> list[str]:
    own = {name: data.columns.get(name, name) for name in COLUMNS}
    return [f"'{column}'" for column in own.values() if column not in row]


def _named(row: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """The row by corl's names of the columns, its texts as text; `id` is None where there is none."""
    value = {name: row[data.columns.get(name, name)] for name in COLUMNS}
    texts = {name: "" if value[name] is None else str(value[name]) for name in COLUMNS if name != "image"}
    name = row.get(data.columns.get("id", "id"))
    return {"id": None if name is None else str(name), "image": value["image"]} | texts
