"""What the triplet builder passes on: what a source offers, what becomes of it, and why something is left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from corl_cli.core.types import AnswerType


@dataclass(frozen=True, kw_only=True)
class Raw:
    """What a source offers, nothing decided yet: an image with its captions, and a question about it.

    `image` is a file, or the bytes of one. `captions` may be empty (a set for answering only), and so may `question`
    (a set for drawing only). `options` are texts without letters, in order; `answer` is as the source gives it: a
    letter, an option's text or words; `solution` is a reasoning that the source has, for coverage only. `answer_type`
    is None where the source does not say. Pickles, so that another process can work on it.
    """

    id: str
    source: str
    image: Path | bytes
    captions: tuple[str, ...] = ()
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str = ""
    solution: str = ""
    answer_type: AnswerType | None = None


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """An item that was left out; `reason` is one of a fixed set of short phrases, by which drops are counted."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One triplet of the set that is built.

    `image` is the encoded file (empty where paths are stored), `path` where it came from (empty for bytes). `question`
    is bare, its options as lettered lines; `answer` is clean. `coverage` is the share of the concepts of question and
    answer that the prompt names, NaN where there are none. `digest` tells images apart (16 hexadecimal digits of a
    hash of the source's file), `phash` finds those that look alike (perceptual hash, 16 hexadecimal digits).
    """

    id: str
    source: str
    image: bytes
    path: str
    prompt: str
    question: str
    answer: str
    answer_type: AnswerType
    coverage: float
    width: int
    height: int
    digest: str
    phash: str


class Unusable(Exception):
    """Something about an item cannot be used; the message is the reason that is counted."""
