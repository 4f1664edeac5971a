"""Which images look like an earlier one, by the Hamming distance of their perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

BITS = 64
_ONES = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)


def lookalikes(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.bool_]:
    """For each hash [N], whether it differs in at most `distance` bits from an earlier one that is not itself a
    lookalike: the first of those that look alike stays.
    """
    distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # hashes in order of their first image
    rank = np.argsort(order)
    dropped = np.zeros(len(distinct), bool)
    pairs = list(_near(distinct[order], distance))
    earlier, later = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), np.int64)
    for pair in np.lexsort((earlier, later)):  # whether the earlier one stays is known before it is asked
        if not dropped[earlier[pair]]:
            dropped[later[pair]] = True
    repeated = np.arange(len(hashes)) != first[which]
    return repeated | dropped[rank[which]]


def _near(hashes: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    """Pairs [2, M] of positions (earlier, later) of distinct hashes no further apart than `distance`; some come twice.

    Of d + k bands of bits at least k are equal in two hashes that differ in d bits. So candidates are those that agree
    on some k bands, and k is such that few agree by chance: the cost stays nearly linear in the number of hashes.
    """
    if distance == 0:
        return
    wanted = np.log2(max(2, len(hashes)))
    agreeing = next((k for k in range(1, 4) if BITS * k / (distance + k) >= wanted), 3)
    bands = np.array_split(np.arange(BITS), distance + agreeing)
    masks = [sum(1 << int(bit) for bit in band) for band in bands]
    for chosen in combinations(masks, agreeing):
        key = hashes & np.uint64(sum(chosen))
        order = np.argsort(key, kind="stable")
        key, start = key[order], np.arange(len(order))
        for shift in range(1, len(order)):
            start = start[start + shift < len(order)]
            start = start[key[start] == key[start + shift]]
            if not len(start):
                break
            left, right = order[start], order[start + shift]
            near = _differing(hashes[left], hashes[right]) <= distance
            yield np.stack([left[near], right[near]])


def _differing(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many bits two arrays of hashes differ."""
    return _ONES[(left ^ right).view(np.uint16)].reshape(-1, 4).sum(axis=1, dtype=np.int64)
