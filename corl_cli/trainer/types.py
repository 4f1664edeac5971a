"""What the trainer asks of its surroundings; pipelines hand it in, so that it imports neither rewards nor data."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from corl_cli.core.types import RewardResult, Rollout, Triplet
from corl_cli.models.base import UnifiedPolicy


class Rubric(Protocol):
    """The weighted rewards of one task."""

    def __call__(self, rollout: Rollout, policy: UnifiedPolicy, /) -> RewardResult: ...

    def begin(self, rollout: Rollout, /) -> AbstractContextManager[Any]:
        """Start what needs no policy, in a thread that lives as long as the context."""
        ...

    def finish(self, pending: Any, policy: UnifiedPolicy, /) -> RewardResult:
        """What a call would give for the rollout that was begun; `pending` is what the context gave."""
        ...


class Batches(Protocol):
    """The triplets of each optimiser step, the same whenever asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Sequence[Triplet]: ...

    @property
    def per_epoch(self) -> int: ...

    def spare(self, step: int, attempt: int, number: int, /) -> Sequence[Triplet]:
        """At most `number` triplets that are in no process' share of the step, others at every attempt."""
        ...
