"""Which triplets each optimiser step trains on, as a function of the seed and the step alone."""

import random
from collections.abc import Sequence

from corl_cli.core.errors import UsageError
from corl_cli.core.types import Triplet


class ShuffledBatches:
    """Batches of whole epochs in an order of their own; a process sees every `processes`-th triplet of each batch.

    Nothing that matters is kept between steps, so a resumed run goes on exactly where it stopped. The last incomplete
    batch of an epoch is left out.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet],
        batch_size: int,
        epochs: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size % processes:
            raise UsageError(
                f"train.batch_size {batch_size} cannot be shared evenly by {processes} processes.",
                f"Use a multiple of {processes}.",
            )
        if len(triplets) < batch_size:
            raise UsageError(
                f"There are {len(triplets)} triplets, fewer than one batch of {batch_size}.",
                f"Lower it: --set train.batch_size={max(1, len(triplets))}",
            )
        self.triplets, self.batch_size, self.epochs, self.seed = triplets, batch_size, epochs, seed
        self.process, self.processes = process, processes
        self.per_epoch = len(triplets) // batch_size
        self.order: tuple[int, list[int]] = (-1, [])  # of the epoch last asked for

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def __getitem__(self, step: int) -> list[Triplet]:
        chosen = self._batch(step)
        return [self.triplets[index] for index in chosen[self.process :: self.processes]]

    def spare(self, step: int, attempt: int, number: int) -> list[Triplet]:
        """At most `number` triplets that are in no process' share of the step, others at every attempt."""
        taken = set(self._batch(step))
        others = [index for index in range(len(self.triplets)) if index not in taken]
        random.Random(f"{self.seed}/{step}").shuffle(others)
        share = self.batch_size // self.processes
        mine = others[self.process :: self.processes][attempt * share : (attempt + 1) * share]
        return [self.triplets[index] for index in mine[:number]]

    def _batch(self, step: int) -> list[int]:
        epoch, batch = divmod(step, self.per_epoch)
        if self.order[0] != epoch:
            order = list(range(len(self.triplets)))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self.order = (epoch, order)
        return self.order[1][batch * self.batch_size : (batch + 1) * self.batch_size]
