"""Reward: a score per sample. Rubric: the weighted rewards of one task."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.pictures import Tile
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import RewardResult, Samples, Task
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.pending import Pending
from corl_cli.scoring.groups import standardise

RETURN = "Return Scores(values=torch.tensor([...])) with one value per sample, and as many of each part and note."


class ContractError(CorlError):
    """A reward's class does not do what every reward must; masking its rows would hide that."""


class Options(BaseModel):
    """The options of a reward: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Raw scores of one reward: `values` [N] float32, NaN where there is none; `parts` are its named halves.

    `notes`, none or N, say how a score came about, and why there is none; `texts` {name: N strings} are what it was
    made of on the way, such as captions. CorlError when there is not one of each for every row.
    """

    values: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    notes: Sequence[str] = ()
    texts: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What a person needs to believe one score: labelled lines, and pictures with a line under each."""

    facts: dict[str, str]
    pictures: Sequence[Tile] = ()


class Reward(ABC):
    """Scores the outputs of one task. A failed or missing score is NaN, never 0.

    The docstring of a reward states its formula and its source; `corl reward show` prints it.

    `needs_policy = False` is a promise, unless the reference is needed: `score` may run in another thread than `load`
    did, while the policy goes on sampling. It may be given None for the policy; it leaves alone what others see (the
    samples, torch's random state, defaults and backends), and of a GPU waits for the current stream only. No two calls
    of one reward are made at once.
    """

    task: ClassVar[Task]
    Options: ClassVar[type[BaseModel]] = Options
    columns: ClassVar[Sequence[str]] = ()  # what a line of `corl reward score --file` must hold
    optional: ClassVar[Sequence[str]] = ()  # what `score` reads where a line holds it, and can do without
    needs_policy: bool = True  # whether `score` uses the policy; without, it may be None

    def __init__(self, options: BaseModel) -> None:
        self.options = options

    @property
    def needs_reference(self) -> bool:
        """Whether `load` must be given the frozen start of the policy."""
        return False

    @property
    def stands_alone(self) -> bool:
        """Whether `score` asks neither the policy nor its start."""
        return not (self.needs_policy or self.needs_reference)

    def requirements(self) -> list[Requirement]:
        """What these options need from the machine, found out without loading anything large."""
        return []

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:  # noqa: B027 (optional hook)
        """Bring models to `device`; `reference` is the frozen start when `needs_reference`."""

    @abstractmethod
    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """One score per row of the samples (during training, of a Rollout)."""

    def explain(self, samples: Samples, policy: UnifiedPolicy | None) -> list[Explanation]:
        """One explanation per row; by default the parts and the note of its score."""
        scores = self.score(samples, policy)
        return [
            Explanation(
                facts={name: f"{float(values[row]):.4f}" for name, values in scores.parts.items()}
                | ({"note": scores.notes[row]} if scores.notes else {})
            )
            for row in range(len(samples))
        ]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A reward with its name, its weight, and what a failed score does: `stop` the run or `mask` the row."""

    name: str
    weight: float
    on_error: str
    reward: Reward
    normalise: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one criterion, after so many seconds: its scores, on the CPU, or what it raised."""

    scores: Scores | Exception
    seconds: float


Outcomes = dict[str, Outcome]


class Rubric:
    """The weighted rewards of one task."""

    def __init__(self, task: Task, criteria: Sequence[Criterion]) -> None:
        self.task = task
        self.criteria = list(criteria)

    def __call__(self, samples: Samples, policy: UnifiedPolicy | None) -> RewardResult:
        """Score every row; CorlError when a score fails and its criterion says stop, or not one per row."""
        return self._result(samples, _outcomes(samples, self.criteria, policy))

    def begin(self, samples: Samples) -> Pending[Samples, Outcomes]:
        """Start, in a thread, the rewards that stand alone, one after another; `finish` has the rest done."""
        alone = [criterion for criterion in self.criteria if criterion.reward.stands_alone]
        return Pending(partial(_outcomes, criteria=alone, policy=None), samples)

    def finish(self, pending: Pending[Samples, Outcomes], policy: UnifiedPolicy | None) -> RewardResult:
        """What calling the rubric gives or raises, of the samples that `pending` was begun with."""
        rest = [criterion for criterion in self.criteria if not criterion.reward.stands_alone]
        outcomes = _outcomes(pending.given, rest, policy)
        return self._result(pending.given, pending.result() | outcomes)

    def _result(self, samples: Samples, outcomes: Outcomes) -> RewardResult:
        """The scores together; raises the first failure in the order of the criteria, whichever came first in time."""
        valid = torch.ones(len(samples), dtype=torch.bool)
        parts: dict[str, Tensor] = {}
        notes: dict[str, list[str]] = {}
        texts: dict[str, list[str]] = {}
        for criterion in self.criteria:
            scores = outcomes[criterion.name].scores
            if isinstance(scores, Exception):
                raise scores
            valid &= torch.isfinite(scores.values)
            parts[criterion.name] = scores.values
            parts |= {f"{criterion.name}.{part}": values for part, values in scores.parts.items()}
            if scores.notes:
                notes[criterion.name] = list(scores.notes)
            texts |= {f"{criterion.name}.{text}": list(lines) for text, lines in scores.texts.items()}
        terms = {criterion.name: _term(criterion, parts, valid, samples) for criterion in self.criteria}
        total = torch.stack([torch.zeros(len(samples)), *terms.values()]).sum(0).masked_fill(~valid, torch.nan)
        return RewardResult(
            task=self.task,
            total=total,
            parts=parts,
            valid=valid,
            terms=terms,
            notes=notes,
            texts=texts,
            seconds={criterion.name: outcomes[criterion.name].seconds for criterion in self.criteria},
        )


@torch.no_grad()
def _outcomes(samples: Samples, criteria: Sequence[Criterion], policy: UnifiedPolicy | None) -> Outcomes:
    """Of criteria in their order, up to the first that fails."""
    found: Outcomes = {}
    for criterion in criteria:
        begun = time.perf_counter()
        scores: Scores | Exception
        try:
            scores = _counted(criterion, samples, policy)
        except Exception as error:  # raised when its turn comes
            scores = error
        found[criterion.name] = Outcome(scores=scores, seconds=time.perf_counter() - begun)
        if isinstance(scores, Exception):
            break
    return found


def _counted(criterion: Criterion, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
    """The scores on the CPU; CorlError when one is missing and the criterion says stop."""
    scores = _score(criterion, samples, policy)
    values = scores.values.float().cpu()
    finite = torch.isfinite(values)
    if criterion.on_error == "stop" and not finite.all():
        raise _failed(criterion.name, samples, scores, finite)
    return replace(scores, values=values, parts={name: part.float().cpu() for name, part in scores.parts.items()})


def _term(criterion: Criterion, parts: dict[str, Tensor], valid: Tensor, samples: Samples) -> Tensor:
    """What a reward adds to the total of each row."""
    values = parts[criterion.name]
    if criterion.normalise:
        values = standardise(values, valid, samples.sampling.group_size)
    return criterion.weight * values


def _score(criterion: Criterion, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
    """The scores of a reward that may raise; where rows are to be masked, group by group, so that only its own is."""
    try:
        return _checked(criterion.name, criterion.reward.score(samples, policy), len(samples))
    except (MemoryError, torch.OutOfMemoryError, ContractError):
        raise
    except Exception as error:
        size = samples.sampling.group_size
        groups = range(len(samples) // size)
        if criterion.on_error == "stop":
            raise _raised(criterion.name, samples, error) from error
        if len(groups) == 1:
            return Scores(values=torch.full((size,), torch.nan), notes=[_reason(error)] * size)
        pieces = [_score(criterion, samples.select([group]), policy) for group in groups]
    return Scores(
        values=torch.cat([piece.values.float().cpu() for piece in pieces]),
        parts=_joined_parts(pieces, size),
        notes=[note for piece in pieces for note in piece.notes or [""] * size],
        texts={
            name: [text for piece in pieces for text in piece.texts.get(name, [""] * size)]
            for name in dict.fromkeys(name for piece in pieces for name in piece.texts)
        },
    )


def _checked(name: str, scores: Scores, rows: int) -> Scores:
    """The scores, if there is one of everything for each row; ContractError for what a reward's author must mend."""
    if not isinstance(scores, Scores):
        raise ContractError(f"Reward '{name}' gave {_kind(scores)} in place of Scores.", RETURN)
    for part, values in {"values": scores.values, **scores.parts}.items():
        if not isinstance(values, Tensor):
            raise ContractError(f"Reward '{name}' gave {_kind(values)} as {part} in place of a tensor.", RETURN)
        if values.shape != (rows,):
            shape = list(values.shape)
            raise ContractError(f"Reward '{name}' gave {part} of shape {shape} for {rows} samples.", RETURN)
    for part, lines in {"notes": scores.notes or [""] * rows, **scores.texts}.items():
        if len(lines) != rows:
            raise ContractError(f"Reward '{name}' gave {len(lines)} {part} for {rows} samples.", RETURN)
    return scores


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _joined_parts(pieces: Sequence[Scores], size: int) -> dict[str, Tensor]:
    nothing = torch.full((size,), torch.nan)
    names = dict.fromkeys(name for piece in pieces for name in piece.parts)
    return {name: torch.cat([piece.parts.get(name, nothing).float().cpu() for piece in pieces]) for name in names}


def _reason(error: Exception) -> str:
    """What an exception says, and where it was raised when it is not one of corl's own."""
    if isinstance(error, CorlError):
        return error.message
    (*_, last) = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(last.filename).name}:{last.lineno} in {last.name})"
    return f"{type(error).__name__}: {error}".rstrip(": ") + place


def _raised(name: str, samples: Samples, error: Exception) -> CorlError:
    if isinstance(error, CorlError):
        return error
    return CorlError(
        f"Reward '{name}' failed: {_reason(error)}",
        f"Leave failed rows out with --set rewards.{samples.task}.{name}.on_error=mask, or mend the reward.",
    )


def _failed(name: str, samples: Samples, scores: Scores, finite: Tensor) -> CorlError:
    row = int((~finite).nonzero()[0])
    why = f": {scores.notes[row]}" if scores.notes and scores.notes[row] else ""
    return CorlError(
        f"Reward '{name}' gave {float(scores.values[row])} for sample {row} (triplet {samples.triplets[row].id}){why}; "
        f"{int((~finite).sum())} of {len(finite)} scores are not finite.",
        f"Leave such rows out with --set rewards.{samples.task}.{name}.on_error=mask, or mend the reward.",
    )
