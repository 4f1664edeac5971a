"""What the halves of a reward have in common: measures of a batch, each of which can be taken for another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from corl_cli.core.requirements import Requirement

FAILED = "failed"


class Measured(NamedTuple):
    """`values` [N] float32, NaN where there is none; `details` are N labelled lines that make a value believable.

    The details of a NaN say why under `failed`.
    """

    values: Tensor
    details: list[dict[str, str]]


class Model(Protocol):
    """A measure that may stand on weights or programs of its own."""

    def requirements(self) -> list[Requirement]:
        """What it needs from the machine, found out without loading anything large."""

    def load(self, device: torch.device) -> None:
        """Bring what it needs to `device`; CorlError when something is missing."""


class Likeness(Model, Protocol):
    """How alike drawings are to real images of the same size; higher is more alike."""

    def __call__(self, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Measured:
        """One value per pair. A real image that stands in several pairs (the same object) is read once."""

    def differences(self, real: Image.Image, drawn: Image.Image) -> Image.Image:
        """Where the two differ, as an image of their size: dark is alike, bright is not."""


class Consistency(Model, Protocol):
    """How far captions say what prompts say."""

    def __call__(self, prompts: Sequence[str], captions: Sequence[str]) -> Measured:
        """One value per pair, in 0..1."""


class Captioner(Model, Protocol):
    """Says what is to be seen in images."""

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption per image, greedy: the same image has the same caption in any batch."""


def failed(reason: str) -> dict[str, str]:
    """The details of a value that could not be had."""
    return {FAILED: reason}


def note(details: dict[str, str]) -> str:
    """Details in one line; of a value that failed, the reason alone."""
    return details.get(FAILED) or "; ".join(f"{label} {text}" for label, text in details.items())
