"""Two results of one benchmark, item by item: the difference B - A and how sure it is (a paired bootstrap).

Items are what is resampled, within groups where groups have weights: the samples of one item share its difficulty.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.numbers import finite
from corl_cli.core.types import Task
from corl_cli.eval.base import Item
from corl_cli.eval.store import Store, differences
from corl_cli.eval.summary import FEWEST
from corl_cli.scoring import bootstrap
from corl_cli.scoring.bootstrap import Interval

PROTOCOL = ("prompts", "scorer", "sampling")  # what two results must share
# but for the words around a question: the paper asks a trained model for its thoughts, and the baseline plainly
WORDS = ("prompts.prompt", "prompts.instructions", "sampling.mm2t.instruction")
ABILITIES: dict[Task, str] = {"t2i": "drawing", "mm2t": "answering"}
MANY = 5  # intervals of a table, of which one may exclude 0 by chance

Pairs = list[tuple[float, float]]  # the values of items, in A and B


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two results; `overall` is the benchmark's own number over all its items, None where it was refused.

    `limit` is what its items were limited to, None where all were asked.
    """

    folder: Path
    checkpoint: str
    overall: float | None
    limit: int | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What changed in one group, or overall: means of both over the same items, and the interval around B - A.

    All on the benchmark's scale; the interval is NaN over fewer than FEWEST items, or where a group with a weight in it
    has fewer: so few are soon alike by chance.
    """

    group: str
    items: int
    a: float
    b: float
    change: Interval

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.change.low > 0 or self.change.high < 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results over the items that have a value in both.

    `abilities` are drawing and answering, where there are items of both. `failed` counts the common items that one of
    them has no value for, `only_a` and `only_b` those that the other one was not asked. `words` says where the words
    around the questions differ, `own_headline` that the benchmark's number is not the mean that the interval is of.
    """

    title: str
    variant: str
    measure: str
    a: Side
    b: Side
    overall: Difference
    abilities: list[Difference]
    groups: list[Difference]
    failed: int
    only_a: int
    only_b: int
    own_headline: bool
    words: list[str]

    @property
    def lines(self) -> list[Difference]:
        """Overall, then each ability and each group, where there are several."""
        return [self.overall, *self.abilities, *(self.groups if len(self.groups) > 1 else [])]


def results(folder: Path) -> list[Store]:
    """The summarised results in a folder and below it, by path; CorlError when there is none."""
    found, begun = [], []
    for inside, folders, files in os.walk(folder):
        if "result.json" in files:
            found.append(Store(Path(inside)))
        elif "manifest.json" in files:
            begun.append(Path(inside))
        folders[:] = [] if {"result.json", "manifest.json"} & set(files) else sorted(folders)
    if found:
        return sorted(found, key=lambda store: store.folder)
    if begun:
        raise CorlError(f"{min(begun)} has no summary yet.", "Go on with it: --resume, or --only summarise")
    if not folder.is_dir():
        raise CorlError(f"{folder} is no folder.", "Name a result's folder, or one that holds several.")
    raise CorlError(f"{folder} holds no result of an evaluation.", "Make one: corl eval world")


def compare_all(a: Path, b: Path) -> list[Comparison]:
    """Every benchmark that both folders hold a result of; UsageError when there is none, or one is there twice."""
    first, second = (_by_benchmark(folder) for folder in (a, b))
    common = [key for key in first if key in second]
    if not common:
        there = [", ".join(" ".join(key).strip() for key in stores) for stores in (first, second)]
        raise UsageError(
            f"{a} and {b} have no benchmark in common: {there[0]} in A, {there[1]} in B.",
            "Evaluate both checkpoints on the same one: corl eval NAME --checkpoint RUN_OR_MODEL",
        )
    return [compare(first[key], second[key]) for key in common]


def compare(a: Store, b: Store) -> Comparison:
    """The difference B - A over the items that both have a value for.

    An item's value is the mean over its samples, all of which must have one: two means over other samples differ by
    more than the checkpoints. UsageError when the two are not of one benchmark and
    protocol, or share no item.
    """
    first, second = a.result(), b.result()
    words = _demand_alike(a, b, first, second)
    ours, theirs = ({item.id: item for item in store.items()} for store in (a, b))
    common = [name for name in ours if name in theirs]
    if not common:
        raise UsageError(
            f"{a.folder} and {b.folder} have no item in common.", "Evaluate both without --limit, or with the same one."
        )
    _demand_same_items(a, b, [name for name in common if _asked(ours[name]) != _asked(theirs[name])])
    before, after = (_values(store, items, first["scale"]) for store, items in ((a, ours), (b, theirs)))
    pairs: dict[str, Pairs] = {}
    abilities: dict[Task, Pairs] = {}
    compared = [name for name in common if name in before and name in after]
    for name in compared:
        pair = before[name], after[name]
        pairs.setdefault(ours[name].group, []).append(pair)
        abilities.setdefault(ours[name].task, []).append(pair)
    if not compared:
        raise CorlError(
            f"None of the {len(common)} common items has a value in both {a.folder} and {b.folder}.",
            "See why they failed: corl eval report DIR",
        )
    return Comparison(
        title=first["title"],
        variant=first["variant"],
        measure=first["measure"],
        a=_side(a, first),
        b=_side(b, second),
        overall=_overall(pairs, _weights(first)),
        abilities=[_difference(ABILITIES[task], [own], [1.0]) for task, own in abilities.items() if len(abilities) > 1],
        groups=[_difference(group, [own], [1.0]) for group, own in pairs.items()],
        failed=len(common) - len(compared),
        only_a=len(ours) - len(common),
        only_b=len(theirs) - len(common),
        own_headline=_own_headline(first, ours, before) or _own_headline(second, theirs, after),
        words=words,
    )


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A table of the comparison's lines; "clear" is yes where the interval excludes 0."""
    return [
        {
            "group": each.group,
            "items": each.items,
            "A": each.a,
            "B": each.b,
            "B - A": each.change.mean,
            "low": finite(each.change.low),
            "high": finite(each.change.high),
            "clear": "yes" if each.clear else "",
        }
        for each in comparison.lines
    ]


def remarks(comparison: Comparison) -> list[str]:
    """What must be known to read the table right, a sentence each."""
    level, resamples = f"{bootstrap.LEVEL:.0%}", f"{bootstrap.RESAMPLES:,}"
    found = [
        f"low and high are the ends of the {level} interval of B - A: a paired bootstrap over items, {resamples} "
        "resamples; it knows nothing of the chance in a training. Clear is a change whose interval excludes 0."
    ]
    known = sum(not math.isnan(each.change.low) for each in comparison.lines)
    if known >= MANY:
        found.append(f"Of {known} intervals about one in twenty excludes 0 by chance.")
    if known < len(comparison.lines):
        found.append(
            f"There is no interval over fewer than {FEWEST} items, nor of a number that weighs a group of so few."
        )
    if comparison.own_headline:
        numbers = ", ".join(
            f"{side.overall:.4g} in {letter}" if side.overall is not None else f"none in {letter}"
            for letter, side in (("A", comparison.a), ("B", comparison.b))
        )
        found.append(
            f"The interval is of the mean item value; {comparison.title}'s own number is another one: {numbers}."
        )
    elif None in (comparison.a.overall, comparison.b.overall):
        found.append("One of them has no overall number of its own, because samples in it failed.")
    if comparison.words:
        found.append(f"The questions stood in other words: {'; '.join(comparison.words)}.")
    if comparison.a.limit != comparison.b.limit:
        limits = (
            f"{letter} {'without --limit' if side.limit is None else f'with --limit {side.limit}'}"
            for letter, side in (("A", comparison.a), ("B", comparison.b))
        )
        found.append(f"They were not asked as many items: {', '.join(limits)}.")
    counts = {
        "{} left out because a sample in one of them has no value": comparison.failed,
        "{} in A alone": comparison.only_a,
        "{} in B alone": comparison.only_b,
    }
    told = [text.format(f"{count} item{'s' * (count > 1)}") for text, count in counts.items() if count]
    if told:
        found.append(f"Not compared: {'; '.join(told)}.")
    return found


def _by_benchmark(folder: Path) -> dict[tuple[str, str], Store]:
    found: dict[tuple[str, str], Store] = {}
    for store in results(folder):
        result = store.result()
        key = (result["benchmark"], result["variant"])
        if key in found:
            raise UsageError(
                f"{folder} holds {' '.join(key).strip()} twice: {found[key].folder} and {store.folder}.",
                "Name the one that is meant.",
            )
        found[key] = store
    return found


def _demand_alike(a: Store, b: Store, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """UsageError where benchmark or protocol differ; else where the words around the questions do."""
    if any(first[name] != second[name] for name in ("benchmark", "variant")):
        one, other = (f"{result['title']} {result['variant']}".strip() for result in (first, second))
        raise UsageError(f"{a.folder} is of {one}, {b.folder} of {other}.", "Compare two results of one benchmark.")
    lines = [_told(found) for part in PROTOCOL for found in differences(part, first[part], second[part])]
    words = [line for line in lines if line.startswith(WORDS)]
    if unlike := [line for line in lines if line not in words]:
        raise UsageError(
            f"{a.folder} and {b.folder} were not evaluated alike: {'; '.join(unlike)}.",
            "Evaluate one of them again with the other's settings; each has its own in eval.yaml.",
        )
    return words


def _asked(item: Item) -> Item:
    """What was asked, without the words around a question; the data say which record of the set it is."""
    return item if item.task == "t2i" else replace(item, prompt="", max_new_tokens=None)


def _demand_same_items(a: Store, b: Store, unlike: Sequence[str]) -> None:
    if unlike:
        raise UsageError(
            f"{a.folder} and {b.folder} were not asked the same: {len(unlike)} items of one name differ, "
            f"{unlike[0]} for one.",
            "Evaluate both checkpoints on the same data.",
        )


def _told(difference: tuple[str, Any, Any]) -> str:
    name, ours, theirs = difference
    return f"{name} is {json.dumps(ours, ensure_ascii=False)} in A, {json.dumps(theirs, ensure_ascii=False)} in B"


def _values(store: Store, items: Mapping[str, Item], scale: float) -> dict[str, float]:
    """The value of each item whose samples all have one."""
    values: dict[str, list[float]] = {}
    for (item, _), score in store.scores().items():
        if score.value is not None:
            values.setdefault(item, []).append(score.value * scale)
    return {item: fmean(samples) for item, samples in values.items() if len(samples) == items[item].samples}


def _overall(pairs: Mapping[str, Pairs], weights: Mapping[str, float | None]) -> Difference:
    """Over groups by their weights; over all items alike where they have none."""
    weighed = {group: weight for group in pairs if (weight := weights[group])}
    if weighed and all(weights[group] is not None for group in pairs):
        return _difference("overall", [pairs[group] for group in weighed], list(weighed.values()))
    return _difference("overall", [[pair for own in pairs.values() for pair in own]], [1.0])


def _difference(group: str, strata: Sequence[Pairs], weights: Sequence[float]) -> Difference:
    a, b = (
        sum(weight * fmean(pair[side] for pair in own) for weight, own in zip(weights, strata, strict=True))
        / sum(weights)
        for side in (0, 1)
    )
    if min(map(len, strata)) < FEWEST:
        change = Interval(mean=b - a, low=math.nan, high=math.nan)
    else:
        change = bootstrap.stratified([[after - before for before, after in own] for own in strata], weights)
    return Difference(group=group, items=sum(map(len, strata)), a=a, b=b, change=change)


def _side(store: Store, result: Mapping[str, Any]) -> Side:
    return Side(
        folder=store.folder,
        checkpoint=result["checkpoint"]["name"],
        overall=result["overall"],
        limit=result["limit"],
    )


def _weights(result: Mapping[str, Any]) -> dict[str, float | None]:
    return {group["name"]: group["weight"] for group in result["groups"]}


def _own_headline(result: Mapping[str, Any], items: Mapping[str, Item], values: Mapping[str, float]) -> bool:
    """Whether the result's overall number is another one than the mean that an interval would be of."""
    if result["overall"] is None or result["failed"]:
        return False
    pairs: dict[str, Pairs] = {}
    for name, value in values.items():
        pairs.setdefault(items[name].group, []).append((value, value))
    mean = _overall(pairs, _weights(result)).a
    return bool(abs(result["overall"] - mean) > 1e-9 * max(1.0, abs(mean)))
