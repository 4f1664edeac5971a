"""Which images look alike, by the Hamming distance of their perceptual hashes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

BITS = 64
# Bits by which hashes of one photograph may differ: half the size at JPEG quality 60 turned 0 to 2, four columns less 0
# to 8, in most cases 2 (pictures of scikit-image), while two photographs differ in some 32 and hardly ever in under 20.
ALIKE = 4
_ONES = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)


def lookalikes(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.bool_]:
    """For each hash [N], whether it differs in at most `distance` bits from an earlier one that is not itself a
    lookalike: the first of those that look alike stays.
    """
    distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # hashes in order of their first image
    leads = _leads(len(order), near(distinct[order], distance))
    repeated = np.arange(len(hashes)) != first[which]
    return repeated | (leads != np.arange(len(order)))[np.argsort(order)[which]]


def groups(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.uint64]:
    """For each hash [N] the one that stands for its group, in no more than `distance` bits from it; in any order of the
    hashes the same.

    The hash that most others are near stands for them, and so on among the rest. Groups are not chained: simple
    drawings are so alike that a chain would join most of them.
    """
    distinct, which = np.unique(hashes, return_inverse=True)
    pairs = np.unique(near(distinct, distance), axis=1)
    order = np.argsort(-np.bincount(pairs.ravel(), minlength=len(distinct)), kind="stable")
    leads = _leads(len(order), np.sort(np.argsort(order)[pairs], axis=0))
    return distinct[order][leads][np.argsort(order)[which]]


def _leads(number: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `number` positions the first that is near it and is led by no other, or itself."""
    leads = list(range(number))
    earlier, later = pairs[:, np.lexsort(pairs)].tolist()  # whether the earlier one leads is known before it is asked
    for one, other in zip(earlier, later, strict=True):
        if leads[one] == one and leads[other] == other:
            leads[other] = one
    return np.array(leads, np.int64)


def near(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Pairs [2, M] of positions (earlier, later) of distinct hashes within `distance` bits; some come twice."""
    return np.concatenate([np.empty((2, 0), np.int64), *_near(hashes, distance)], axis=1)


def _near(hashes: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    """See `near`.

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
