"""The figures of a run's page, several runs over each other, and the one picture of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from corl_cli.core.types import Task
from corl_cli.pipelines.summary import Story
from corl_cli.trainer.album import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def held_out(stories: Sequence[Story], task: Task) -> Figure | None:
    """A panel for each held-out score: its mean through time with its standard error; None where nothing was read."""
    return None


def rewards(stories: Sequence[Story], task: Task) -> list[Figure]:
    """A figure for each reward of a task, each part and the total, or for the loss where targets are imitated."""
    return []


def health(stories: Sequence[Story], task: Task) -> list[Figure]:
    """What tells whether training is well, of what was measured: entropy, KL, groups that teach nothing, and so on."""
    return []


def machine(stories: Sequence[Story]) -> list[Figure]:
    """What steps take: seconds by phase of one run or in all of several, and memory."""
    return []


def picture(story: Story, looks: Sequence[Look]) -> bytes:
    """A PNG of the run that stands alone: the same prompts drawn before and after, and the held-out curves.

    CorlError when there is no look.
    """
    return b""
