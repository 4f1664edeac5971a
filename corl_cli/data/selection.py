"""Which triplets of a whole set stay: duplicates, contradictions and lookalikes go, and shares are evened out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Prepare
from corl_cli.data.lookalikes import ALIKE, groups, lookalikes
from corl_cli.data.triplets import is_held_out
from corl_cli.scoring.choices import read_options
from corl_cli.scoring.words import gist

KEPT = 0
REASONS = (
    "kept",
    "duplicate id",
    "near-duplicate image",
    "contradicting answers",
    "duplicate question",
    "balance of letters",
    "balance of types",
)
READ = ["id", "source", "digest", "phash", "prompt", "question", "answer", "answer_type", "coverage"]  # columns

# What is remembered of a row, 57 bytes. Texts are remembered as 64-bit hashes: that any two of ten million agree by
# chance is a matter of 3 in a million.
ROW = np.dtype(
    [
        ("id", "u8"),
        ("source", "u2"),
        ("image", "u8"),
        ("phash", "u8"),
        ("asked", "u8"),  # the question about its image, or the prompt of the image where there is no question
        ("answer", "u8"),
        ("lot", "u8"),  # by which it is drawn when shares are evened out
        ("kind", "u1"),
        ("letter", "u1"),
        ("options", "u1"),
        ("coverage", "f4"),
    ]
)
DRAWING, MC, OE = range(3)  # kinds: no question, multiple choice, open-ended
_OPTION_LINE = re.compile(r"^[A-Z]\. .*$", re.MULTILINE)

Index = NDArray[np.void]  # of ROW
Mask = NDArray[np.bool_]


def remember(row: Mapping[str, Any], source: int, seed: int) -> tuple[Any, ...]:
    """What is remembered of a row (of the columns READ), in the order of ROW.

    Two questions are the same when their words and options are, in any order of the options; two answers when they have
    one gist ("a cat", "Cat.").
    """
    is_mc = row["answer_type"] == "mc"
    options = read_options(row["question"]) if is_mc else {}
    stem = _OPTION_LINE.sub("", row["question"]) if is_mc else row["question"]
    asked = [row["digest"], _words(stem), *sorted(map(_words, options.values()))]
    if not row["question"]:
        asked = [row["digest"], "", _words(row["prompt"])]
    return (
        _hash(row["id"]),
        source,
        int(row["digest"], 16),
        int(row["phash"], 16),
        _hash(*asked),
        _hash(gist(options.get(row["answer"], row["answer"]))),
        _hash(str(seed), row["id"]),
        (MC if is_mc else OE) if row["question"] else DRAWING,
        ord(row["answer"][0]) if is_mc and row["answer"] else 0,
        len(options),
        row["coverage"],
    )


def select(index: Index, prepare: Prepare) -> NDArray[np.uint8]:
    """For each row, the position in REASONS of why it is left out, 0 where it stays; the first of equals stays.

    CorlError when `balance.mc_share` cannot be met because there is one type only.
    """
    filters, balance = prepare.filters, prepare.balance
    steps: list[tuple[object, str, Callable[[Index], Mask]]] = [
        (True, "duplicate id", lambda rows: _repeated(rows["id"])),
        (
            filters.near_duplicates is not None,
            "near-duplicate image",
            lambda rows: _of_lookalikes(rows, filters.near_duplicates or 0),
        ),
        (filters.contradictions, "contradicting answers", _contradicting),
        (filters.duplicates, "duplicate question", lambda rows: _repeated(rows["asked"])),
        (balance.letters, "balance of letters", _beyond_letters),
        (balance.mc_share, "balance of types", lambda rows: _beyond_share(rows, balance.mc_share or 0.0)),
    ]
    reasons = np.zeros(len(index), np.uint8)
    for wanted, reason, find in steps:
        if wanted:
            left = np.flatnonzero(reasons == KEPT)
            reasons[left[find(index[left])]] = REASONS.index(reason)
    return reasons


def hold_out(looks: NDArray[np.uint64], test: float) -> Mask:
    """Which images, by their perceptual hashes [N], are of the split test: about the share `test` of all.

    Images that look alike are of one split, which a hash of their looks decides, so that it is the same in any order
    and most often in other sets too. With two looks or more neither split is empty.
    """
    if not test:
        return np.zeros(len(looks), bool)
    names, which = np.unique(groups(looks, ALIKE), return_inverse=True)
    keys = [f"{name:016x}" for name in names.tolist()]
    held_out = np.array([is_held_out(key, test) for key in keys], bool)
    if len(keys) > 1:
        by_lot = sorted(range(len(keys)), key=lambda key: _hash(keys[key]))  # as is_held_out has them
        held_out[by_lot[0]], held_out[by_lot[-1]] = True, False
    return held_out[which]


def _repeated(values: NDArray[Any]) -> Mask:
    """Whether a value has come before."""
    _, first = np.unique(values, return_index=True)
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    return repeated


def _of_lookalikes(rows: Index, distance: int) -> Mask:
    """Questions about an image that looks like an earlier one; several about the same image are no duplicates."""
    _, first, which = np.unique(rows["image"], return_index=True, return_inverse=True)
    order = np.argsort(first)  # images as they come
    alike = np.empty(len(first), bool)
    alike[order] = lookalikes(rows["phash"][first[order]], distance)
    found: Mask = alike[which]
    return found


def _contradicting(rows: Index) -> Mask:
    """Questions that have two answers for the same image: all of them, for nobody knows which is right."""
    order = np.lexsort((rows["answer"], rows["asked"]))
    asked, answer = rows["asked"][order], rows["answer"][order]
    disputed = asked[1:][(asked[1:] == asked[:-1]) & (answer[1:] != answer[:-1])]
    return np.isin(rows["asked"], disputed)


def _beyond_letters(rows: Index) -> Mask:
    """Among questions of as many options, those beyond the number of the rarest right letter that occurs."""
    beyond = np.zeros(len(rows), bool)
    for options in np.unique(rows["options"][rows["kind"] == MC]):
        of = [
            np.flatnonzero((rows["kind"] == MC) & (rows["options"] == options) & (rows["letter"] == letter))
            for letter in np.unique(rows["letter"][(rows["kind"] == MC) & (rows["options"] == options)])
        ]
        fewest = min(map(len, of))
        for letter in of:
            beyond[_drawn(rows, letter)[fewest:]] = True
    return beyond


def _beyond_share(rows: Index, share: float) -> Mask:
    """Multiple-choice or open-ended questions beyond the share; as few as can be, and of all letters alike."""
    mc, oe = (np.flatnonzero(rows["kind"] == kind) for kind in (MC, OE))
    if not len(mc) or not len(oe):
        raise CorlError(
            f"prepare.balance.mc_share: there are {len(mc)} multiple-choice and {len(oe)} open-ended questions.",
            "Leave it out: --set prepare.balance.mc_share=null",
        )
    ratio = share / (1 - share)
    beyond = np.zeros(len(rows), bool)
    beyond[_spread(rows, mc)[max(1, round(len(oe) * ratio)) :]] = True
    beyond[_spread(rows, oe)[max(1, round(len(mc) / ratio)) :]] = True
    return beyond


def _drawn(rows: Index, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows in an order that the seed and their ids decide, not that of arrival."""
    return chosen[np.lexsort((chosen, rows["lot"][chosen]))]


def _spread(rows: Index, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows as drawn, but so that the first of them, however many, have right letters in the shares of all."""
    drawn = _drawn(rows, chosen)
    place = np.empty(len(drawn))
    strata = rows["options"][drawn].astype(int) * 256 + rows["letter"][drawn]
    for stratum in np.unique(strata):
        of = np.flatnonzero(strata == stratum)
        place[of] = (np.arange(len(of)) + 0.5) / len(of)
    return drawn[np.argsort(place, kind="stable")]


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


def _hash(*texts: str) -> int:
    return int.from_bytes(blake2b("\0".join(texts).encode(), digest_size=8).digest(), "big")
