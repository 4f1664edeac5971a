"""SPICE (arXiv 1607.08822) by its original classes: pycocoevalcap's jar and Stanford CoreNLP in one resident JVM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, demand
from corl_cli.scoring import corenlp, jvm
from corl_cli.scoring.measure import Measured, failed
from corl_cli.scoring.scene_graph import SceneTuple, account, phrase

SECONDS = 300.0  # for one request; the first one waits for CoreNLP's models too
HEAP = "4g"  # a bound, not a reservation
HINT = f"If memory ran out, give more heap than {HEAP}: _JAVA_OPTIONS=-Xmx8g corl ..."
BATCH = 64  # texts in one request
REMEMBERED = 100_000  # texts whose tuples are kept
MAX_THREADS = 4  # of CoreNLP per process: there is a JVM on every rank

_CLASSES = Path(__file__).parent / "java"
_JAR = Path("spice", "spice-1.0.jar")


class Agreement(NamedTuple):
    """How the tuples of a caption agree with those of a reference; precision, recall and F may exceed 1.

    `matched` and `missing` are tuples of the reference, `extra` of the caption, as they were compared: synonyms of
    one caption merged as "photo/picture".
    """

    f: float
    precision: float
    recall: float
    matched: list[SceneTuple]
    missing: list[SceneTuple]
    extra: list[SceneTuple]


class Spice:
    """The F score of SPICE for prompt and caption, as a measure.Consistency.

    What differs from the original: F above 1, which many-to-one matching allows, is clipped to 1, and the details say
    so; a prompt without tuples has no score (0 there); of equally similar objects a new one joins the first, not any
    (see java/SpiceServer.java), so that scores are the same in every run. A text is parsed once and remembered.
    """

    def __init__(self) -> None:
        self.server: SpiceServer | None = None
        self.parsed: dict[str, list[SceneTuple] | str] = {}

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return [jvm.requirement(), _package(), corenlp.requirement()]

    def load(self, device: torch.device) -> None:
        """Start the JVM and have CoreNLP load its models, fetched first if need be; CorlError when that fails."""
        demand(self.requirements(), "SPICE")
        jars = corenlp.find() or corenlp.fetch()
        self.server = SpiceServer(jars)
        (trial,) = self.server.parse(["a cat"])
        if isinstance(trial, str):
            raise CorlError(
                f"SPICE's parser cannot be used: {trial}", f"Get it anew: {corenlp.by_hand(jars[0].parent)}"
            )

    def __call__(self, prompts: Sequence[str], captions: Sequence[str]) -> Measured:
        """See measure.Consistency; an empty prompt, one without tuples and a text that defies the parser fail."""
        assert self.server, "Spice is used after load"
        parsed = self._parsed([*prompts, *captions])
        faults = [_fault(prompt, parsed[prompt], parsed[said]) for prompt, said in zip(prompts, captions, strict=True)]
        rows = [row for row, fault in enumerate(faults) if fault is None]
        found = self.server.score([(_tuples(parsed[captions[row]]), _tuples(parsed[prompts[row]])) for row in rows])
        values, details = torch.full((len(faults),), torch.nan), [failed(fault or "") for fault in faults]
        for row, agreement in zip(rows, found, strict=True):
            values[row], details[row] = min(agreement.f, 1.0), _details(agreement)
        return Measured(values, details)

    def _parsed(self, texts: Sequence[str]) -> dict[str, list[SceneTuple] | str]:
        """Tuples of every text, or why there are none; tuples are remembered, those longest unused forgotten first."""
        assert self.server
        wanted = list(dict.fromkeys(texts))
        unknown = [text for text in wanted if text.strip() and text not in self.parsed]
        for start in range(0, len(unknown), BATCH):
            batch = unknown[start : start + BATCH]
            self.parsed |= dict(zip(batch, self.server.parse(batch), strict=True))
        found = {text: self.parsed.pop(text, []) for text in wanted}
        self.parsed |= {text: tuples for text, tuples in found.items() if not isinstance(tuples, str)}
        for text in list(self.parsed)[: max(0, len(self.parsed) - REMEMBERED)]:
            del self.parsed[text]
        return found


class SpiceServer:
    """The original classes behind a Service: texts to tuples, pairs of tuples to scores.

    A tuple is (object), (object, attribute) or (subject, object, relation), as in scene_graph. `jars` are CoreNLP's;
    only `parse` loads its models.
    """

    def __init__(self, jars: Sequence[Path], seconds: float = SECONDS) -> None:
        self.service = jvm.Service("SPICE's Java process", _command(jars), seconds=seconds, hint=HINT)

    def parse(self, texts: Sequence[str]) -> list[list[SceneTuple] | str]:
        """The tuples of every text, or why it could not be parsed; CorlError as Service.ask."""
        answer = self.service.ask({"texts": list(texts)})["parsed"]
        return [parsed["error"] if isinstance(parsed, dict) else list(map(tuple, parsed)) for parsed in answer]

    def score(self, pairs: Sequence[tuple[Sequence[SceneTuple], Sequence[SceneTuple]]]) -> list[Agreement]:
        """How each candidate agrees with its reference, for (candidate, reference) pairs; CorlError as Service.ask."""
        return [
            Agreement(
                score["f"],
                score["pr"],
                score["re"],
                *(list(map(tuple, score[which])) for which in ("matched", "missing", "extra")),
            )
            for score in self.service.ask({"pairs": pairs})["scores"]
        ]

    def close(self) -> None:
        """End the JVM; the next request starts another."""
        self.service.close()


def _package() -> Requirement:
    folder = corenlp.pycocoevalcap()
    if folder is None:
        remedy = "pip install --no-deps pycocoevalcap lpips"  # what they ask for could replace torch
        return Requirement(name="pycocoevalcap", state="missing", detail="not installed", remedy=remedy)
    if not (folder / _JAR).is_file():
        remedy = "pip install --force-reinstall --no-deps pycocoevalcap"
        return Requirement(name="pycocoevalcap", state="broken", detail=f"no {folder / _JAR}", remedy=remedy)
    return Requirement(name="pycocoevalcap", state="ok", detail=str(folder / _JAR))


def _command(jars: Sequence[Path]) -> list[str]:
    folder = corenlp.pycocoevalcap()
    assert folder, "pycocoevalcap is not installed"
    classpath = [_CLASSES, *jars, folder / _JAR, folder / "spice" / "lib" / "*"]
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    return [
        jvm.java(),
        f"-Xmx{HEAP}",
        "-XX:+IgnoreUnrecognizedVMOptions",  # of an older Java, for the next four
        "-XX:+UseSerialGC",  # no pool of collector threads on every rank
        "-XX:+ExitOnOutOfMemoryError",  # after which no answer could be trusted
        "-XX:+DisplayVMOutputToStderr",  # stdout is for answers
        f"-XX:ActiveProcessorCount={threads}",  # CoreNLP takes every core that it sees
        "-cp",
        os.pathsep.join(map(str, classpath)),
        "SpiceServer",
        str(threads),
    ]


def _fault(prompt: str, wanted: list[SceneTuple] | str, said: list[SceneTuple] | str) -> str | None:
    """Why a pair has no score, None where it has one."""
    if not prompt.strip():
        return "the prompt is empty"
    if isinstance(wanted, str):
        return f"SPICE could not parse the prompt: {wanted}"
    if isinstance(said, str):
        return f"SPICE could not parse the caption: {said}"
    return None if wanted else "SPICE finds no object, attribute or relation in the prompt"


def _tuples(parsed: list[SceneTuple] | str) -> list[SceneTuple]:
    assert not isinstance(parsed, str)
    return parsed


def _details(agreement: Agreement) -> dict[str, str]:
    details = account(
        matched=list(map(phrase, agreement.matched)),
        missing=list(map(phrase, agreement.missing)),
        extra=list(map(phrase, agreement.extra)),
    )
    if agreement.f > 1:
        details["clipped"] = f"F {agreement.f:.3f} to 1: several tuples of the caption match one of the prompt"
    return details
