"""Groups taken apart: of some recorded steps a few whole groups, each sample with what it was paid and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.types import Task
from corl_cli.pipelines.recordings import Recordings
from corl_cli.scoring.groups import comparable, zero_variance
from corl_cli.trainer.rollout import Recorded

CHOICE = (
    "Of each step and task: the group whose totals are spread most, the one with the median spread, and the first "
    "whose totals are all equal, if there is one."
)

EQUAL = 1e-6  # an advantage that is as good as 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One of a group's G: `scores` are raw, of rewards and their parts; `terms` are what each reward adds to `total`.

    What is missing is NaN; `counted` is False for a sample that was left out of the loss, `notes` say why it scored so.
    """

    output: Image.Image | str
    scores: dict[str, float]
    terms: dict[str, float]
    total: float
    advantage: float
    counted: bool
    notes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The samples of one item, the best-paid first; `why` says what it was chosen for.

    `question` and `answer` are empty for drawings, `prompt` for answers.
    """

    step: int
    task: Task
    why: str
    real: Image.Image
    prompt: str
    question: str
    answer: str
    samples: list[Sample]

    @property
    def names(self) -> list[str]:
        """Its rewards, each followed by its parts."""
        return list(self.samples[0].scores)


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The groups of some steps, and why other steps could not be read."""

    groups: list[Group] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[int]:
        """The steps that there are groups of, in order."""
        return list(dict.fromkeys(group.step for group in self.groups))


def ends_and_middle(steps: Sequence[int]) -> list[int]:
    """The first, the middle and the last of some steps, each once."""
    return [steps[place] for place in sorted({0, len(steps) // 2, len(steps) - 1})] if steps else []


def take_apart(recordings: Recordings, steps: Sequence[int], progress: Progress | None = None) -> Apart:
    """The groups of these recorded steps that CHOICE says; a step that cannot be read is named."""
    found = Apart()
    for step in steps:
        try:
            for task, recorded in recordings.read(step).items():
                found.groups.extend(_group(step, task, recorded, place, why) for place, why in chosen(recorded))
        except CorlError as error:
            found.damaged.append(error.message)
        if progress:
            progress.advance()
    return found


def chosen(recorded: Recorded) -> list[tuple[int, str]]:
    """The places of the groups to look at among a task's groups, and what each is chosen for: see CHOICE."""
    size = recorded.samples.sampling.group_size
    total, rows = recorded.rewards.total, recorded.rows
    known = comparable(rows, size)
    equal = zero_variance(total, rows, size) & known
    spreads = {
        place: float(total[start : start + size][rows[start : start + size]].std())
        for place, start in enumerate(range(0, len(rows), size))
        if known[place] and not equal[place]
    }
    found = []
    if ordered := sorted(spreads, key=lambda place: spreads[place]):
        found.append((ordered[-1], "the widest spread of totals"))
        if (middle := ordered[(len(ordered) - 1) // 2]) != ordered[-1]:
            found.append((middle, "the median spread"))
    if equal.any():
        place = int(torch.nonzero(equal)[0])
        own = slice(place * size, (place + 1) * size)
        moved = recorded.advantages[own][rows[own]].abs().max() > EQUAL  # by the other task's totals, say
        found.append((place, "equal totals" if moved else "equal totals: it teaches nothing"))
    return found or [(0, "fewer than two samples of any group are counted")]


def _group(step: int, task: Task, recorded: Recorded, place: int, why: str) -> Group:
    size = recorded.samples.sampling.group_size
    rows = range(place * size, (place + 1) * size)
    triplet = recorded.samples.triplets[rows.start]
    drawn = task == "t2i"
    samples = [_sample(recorded, row) for row in rows]
    return Group(
        step=step,
        task=task,
        why=why,
        real=triplet.image,
        prompt=triplet.prompt if drawn else "",
        question="" if drawn else triplet.question,
        answer="" if drawn else triplet.answer,
        samples=sorted(samples, key=lambda sample: -math.inf if math.isnan(sample.total) else sample.total)[::-1],
    )


def _sample(recorded: Recorded, row: int) -> Sample:
    rewards = recorded.rewards
    return Sample(
        output=recorded.samples.outputs[row],
        scores={name: float(values[row]) for name, values in rewards.parts.items()},
        terms={name: float(values[row]) for name, values in rewards.terms.items()},
        total=float(rewards.total[row]),
        advantage=float(recorded.advantages[row]),
        counted=bool(recorded.rows[row]),
        notes={name: notes[row] for name, notes in rewards.notes.items() if notes[row]},
    )
