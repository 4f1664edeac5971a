"""What the commands of `corl bench` share: two ways timed in turn, and shares of the machine's rates."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from corl_cli.core.progress import Progress
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.machine import GIB, Machine, seconds
from corl_cli.pipelines.memory import Memory

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


class Peak(NamedTuple):
    """The most memory at once, in GiB: of a GPU's tensors, else of the process; None where the system does not tell.

    `reserved_gib` is what torch took from a GPU for it: fragments and the pool of CUDA graphs decide whether one
    suffices. None without a GPU.
    """

    peak_gib: float | None
    reserved_gib: float | None

    def or_larger(self, other: Peak) -> Peak:
        """The larger of both numbers each."""
        return Peak(
            *(None if mine is None or its is None else max(mine, its) for mine, its in zip(self, other, strict=True))
        )


UNKNOWN = Peak(None, None)


class Held:
    """Memory from when this is made, above what was held then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.memory = Memory(device)
        self.reserved = self._reserved()

    def peak(self, above: Held | None = None) -> Peak:
        """The peak since, above what was held then, or when another was made."""
        base = above or self
        peak, reserved, begun, before = self.memory.peak(), self._reserved(), self.memory.start, base.memory.start
        return Peak(
            None if peak is None or begun is None or before is None else (begun + peak - before) / 1024,
            None if reserved is None or base.reserved is None else (reserved - base.reserved) / GIB,
        )

    def _reserved(self) -> int | None:
        return torch.cuda.max_memory_reserved() if self.device.type == "cuda" else None


def tidy(device: torch.device) -> None:
    """Give a GPU back what torch keeps for later, and what nothing refers to any more."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(kw_only=True)
class Turns:
    """corl and another way to do the same, timed in turn so that both meet the same machine.

    `theirs` is empty where the other way did not fit into the GPU's memory. `peak` is corl's.
    """

    ours: list[Timing] = field(default_factory=list)
    theirs: list[Timing] = field(default_factory=list)
    peak: Peak = UNKNOWN

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
        both = Turns(ours=_joined(self.ours, other.ours), peak=self.peak.or_larger(other.peak))
        if self.theirs and other.theirs:
            both.theirs = _joined(self.theirs, other.theirs)
        return both


class Spread(NamedTuple):
    """The median of several, the least and the largest."""

    median: float
    low: float
    high: float


def in_turn(ours: TokensOf, theirs: TokensOf, bench: Bench) -> Turns:
    """Time both as often as the bench says, one after the other, after a warm-up of each, in which memory is measured.

    The other way is given up where it does not fit into a GPU's memory; OutOfMemoryError where corl's does not.
    """
    tidy(bench.device)
    held = Held(bench.device)
    ours()
    turns, fits = Turns(peak=held.peak()), True
    for repeat in range(bench.repeats + 1):
        if repeat:
            turns.ours.append(_timed(ours, bench.device))
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
            gc.collect()  # frames of the failure may hold tensors
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


def compared(turns: Turns, work: Work, bench: Bench, dtype: str) -> dict[str, Any]:
    """The columns that all comparisons with another way have; the ratio is None where that did not fit."""
    shares, ratio = Shares.of(work, turns.seconds, bench.machine, dtype), turns.ratio
    return {
        "dtype": dtype,
        "repeats": bench.repeats,
        "tokens": turns.tokens,
        "seconds": turns.seconds,
        "tokens_per_second": turns.rate,
        "ratio_to_transformers": ratio.median if ratio else None,
        "ratio_least": ratio.low if ratio else None,
        "ratio_largest": ratio.high if ratio else None,
        "bandwidth_share": shares.bandwidth,
        "arithmetic_share": shares.arithmetic,
        "peak_gib": turns.peak.peak_gib,
        "reserved_gib": turns.peak.reserved_gib,
    }


def beyond(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any share of rows is more than the machine was measured to do."""
    return any(value > 1 for row in rows for name, value in row.items() if name.endswith("_share"))


def percent(share: float | None) -> str | None:
    """A share for the eye."""
    return None if share is None else f"{100 * share:.3g}%"
