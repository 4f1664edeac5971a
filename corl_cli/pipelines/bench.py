"""What the commands of `corl bench` share: two ways timed in turn, and shares of the machine's rates."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from corl_cli.core.progress import Progress
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import Machine, seconds

GIB = 2**30
TokensOf = Callable[[], int]  # does the work, and says how many tokens it was


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where is measured, and how often after a warm-up."""

    machine: Machine
    device: torch.device
    repeats: int
    shown: Progress


class Timing(NamedTuple):
    """One timed piece of work."""

    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(kw_only=True)
class Turns:
    """corl and another way to do the same, timed in turn so that both meet the same machine.

    `theirs` is empty where the other way did not fit into the GPU's memory.
    """

    ours: list[Timing] = field(default_factory=list)
    theirs: list[Timing] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of corl's own."""
        return statistics.median(timing.seconds for timing in self.ours)

    @property
    def tokens(self) -> float:
        """The mean of corl's own."""
        return statistics.fmean(timing.tokens for timing in self.ours)

    @property
    def rate(self) -> float:
        """corl's tokens per second, the median."""
        return statistics.median(timing.rate for timing in self.ours)

    @property
    def their_rate(self) -> float | None:
        """The others' tokens per second, the median."""
        return statistics.median(timing.rate for timing in self.theirs) if self.theirs else None

    @property
    def ratio(self) -> Spread | None:
        """How many times as fast corl is: of the pairs of neighbours."""
        pairs = [ours.rate / theirs.rate for ours, theirs in zip(self.ours, self.theirs, strict=False)]
        return Spread(statistics.median(pairs), min(pairs), max(pairs)) if pairs else None

    def __add__(self, other: Turns) -> Turns:
        """One piece of work after the other, pair by pair."""
        both = Turns(ours=_joined(self.ours, other.ours))
        if self.theirs and other.theirs:
            both.theirs = _joined(self.theirs, other.theirs)
        return both


class Spread(NamedTuple):
    """The median of several, the least and the largest."""

    median: float
    low: float
    high: float


def in_turn(ours: TokensOf, theirs: TokensOf, bench: Bench) -> Turns:
    """Time both as often as the bench says, one after the other, after a warm-up of each.

    The other way is given up where it does not fit into a GPU's memory; OutOfMemoryError where corl's does not.
    """
    turns, fits = Turns(), True
    for repeat in range(bench.repeats + 1):
        own = _timed(ours, bench.device)
        if repeat:
            turns.ours.append(own)
        if not fits:
            continue
        fits = False
        with suppress(torch.OutOfMemoryError):
            other = _timed(theirs, bench.device)
            fits = True
            if repeat:
                turns.theirs.append(other)
        if not fits:
            turns.theirs.clear()
            torch.cuda.empty_cache()
    return turns


def _timed(work: TokensOf, device: torch.device) -> Timing:
    tokens = [0]

    def once() -> None:
        tokens[0] = work()

    taken = seconds(once, device)
    return Timing(taken, tokens[0])


def _joined(first: list[Timing], second: list[Timing]) -> list[Timing]:
    return [Timing(a.seconds + b.seconds, a.tokens + b.tokens) for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class Shares:
    """What part of a machine's bandwidth and of its arithmetic rate work had, if it did no more than it must."""

    bandwidth: float
    arithmetic: float

    @classmethod
    def of(cls, work: Work, seconds: float, machine: Machine, dtype: str) -> Shares:
        """Those of work that took so many seconds in a compute precision."""
        return cls(work.nbytes / seconds / machine.bandwidth, work.flops / seconds / machine.arithmetic[dtype])


def percent(share: float | None) -> str | None:
    """A share for the eye."""
    return None if share is None else f"{100 * share:.3g}%"
