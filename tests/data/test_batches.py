from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import UsageError
from corl_cli.data.batches import ShuffledBatches
from corl_cli.world.items import WorldTriplets

TRIPLETS = WorldTriplets("train", 13)


def _ids(batches: ShuffledBatches) -> list[list[str]]:
    return [[triplet.id for triplet in batches[step]] for step in range(len(batches))]


def test_an_epoch_shows_every_triplet_once_but_for_the_incomplete_batch() -> None:
    batches = _ids(ShuffledBatches(TRIPLETS, batch_size=4, epochs=2, seed=0))
    assert len(batches) == 6
    first, second = [*chain(*batches[:3])], [*chain(*batches[3:])]
    assert len(set(first)) == len(set(second)) == 12
    assert first != second


def test_batches_depend_on_the_seed_and_the_step_alone() -> None:
    batches = ShuffledBatches(TRIPLETS, batch_size=4, epochs=2, seed=1)
    backwards = [[triplet.id for triplet in batches[step]] for step in reversed(range(6))][::-1]
    assert backwards == _ids(ShuffledBatches(TRIPLETS, batch_size=4, epochs=2, seed=1))
    assert backwards != _ids(ShuffledBatches(TRIPLETS, batch_size=4, epochs=2, seed=2))


@given(st.sampled_from([1, 2, 4]))
def test_processes_share_each_batch(processes: int) -> None:
    whole = _ids(ShuffledBatches(TRIPLETS, batch_size=4, epochs=1, seed=0))
    shares = [
        _ids(ShuffledBatches(TRIPLETS, batch_size=4, epochs=1, seed=0, process=process, processes=processes))
        for process in range(processes)
    ]
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(chain(*(share[step] for share in shares)))


def test_what_cannot_be_batched_is_said() -> None:
    with pytest.raises(UsageError, match="cannot be shared evenly by 3 processes"):
        ShuffledBatches(TRIPLETS, batch_size=4, epochs=1, seed=0, processes=3)
    with pytest.raises(UsageError, match="13 triplets, fewer than one batch of 16"):
        ShuffledBatches(TRIPLETS, batch_size=16, epochs=1, seed=0)


def test_spare_triplets_are_others_for_every_process_and_attempt() -> None:
    shares = [ShuffledBatches(list(range(40)), 8, 2, seed=3, process=process, processes=2) for process in range(2)]
    taken = {item for share in shares for item in share[6]}
    drawn = [share.spare(6, attempt, 3) for share in shares for attempt in range(3)]
    assert all(len(items) == 3 for items in drawn)
    flat = [item for items in drawn for item in items]
    assert len(set(flat)) == len(flat)
    assert not taken & set(flat)
    assert shares[0].spare(6, 1, 3) == drawn[1]  # the same whenever asked
    assert shares[0].spare(7, 1, 3) != drawn[1]


def test_spare_triplets_run_out() -> None:
    batches = ShuffledBatches(list(range(10)), 8, 1, seed=0)
    assert len(batches.spare(0, 0, 8)) == 2
    assert batches.spare(0, 1, 8) == []
