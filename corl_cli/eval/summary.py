"""What the scores of a result come to: the mean over groups, its standard error, and what failed and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, variance
from typing import Any

from corl_cli.core.errors import CorlError
from corl_cli.core.numbers import finite
from corl_cli.eval.base import Benchmark, Item, Score
from corl_cli.eval.store import Store

OVERALL = ("overall", "stderr")  # what a headline may say of the overall number itself
FEWEST = 8  # items of which a standard error or an interval is told


def summarise(benchmark: Benchmark, store: Store, *, allow_partial: bool) -> dict[str, Any]:
    """The result in JSON (see the store): equal files give equal results, whoever made them and when.

    The overall number is None while a sample has no value, unless `allow_partial`; what failed is in no mean. CorlError
    when nothing was scored.
    """
    manifest, items, scores = store.manifest(), store.items(), store.scores()
    keys = store.keys()
    if not scores:
        raise CorlError(f"Nothing in {store.folder} has been scored.", "Score it: --only score")
    scored = {key: score for key in keys if (score := scores.get(key)) and score.value is not None}
    failed = [scores[key].reason if key in scores else "it was not scored yet" for key in keys if key not in scored]
    names = list(dict.fromkeys(item.group for item in items))
    weights = benchmark.weights(names)
    means = _means(items, scored, benchmark.scale)
    groups = [_group(name, weights, items, scored, means, benchmark.scale) for name in names]
    whole = not failed or allow_partial
    further = benchmark.headline(items, list(scored.values()), store.folder) if scored and whole else {}
    mean = overall(groups)
    result = {
        **{name: manifest[name] for name in ("benchmark", "variant", "checkpoint", "sampling", "prompts")},
        "scorer": manifest.get("scorer"),
        "title": benchmark.title,
        "comparable": benchmark.comparable,
        "measure": benchmark.measure,
        "scale": benchmark.scale,
        "limit": manifest["limit"],
        "items": len(items),
        "items_of": manifest["items_of"],
        "samples": len(keys),
        "failed": len(failed),
        "failures": dict(Counter(failed).most_common()),
        "partial": bool(failed) and allow_partial,
        "overall": further.get("overall", mean) if whole else None,
        "mean": mean if whole else None,
        "stderr": _stderr(groups, means, further) if whole else None,
        "metrics": {name: value for name, value in further.items() if name not in OVERALL} if whole else {},
        "truncated": sum(bool(line.get("truncated")) for line in store.answers().values()),
        "groups": groups,
    }
    return dict(finite(result))


def _stderr(groups: Sequence[Mapping[str, Any]], means: Mapping[str, float], further: Mapping[str, float]) -> float:
    """The standard error of the overall number: of another one than the mean only the benchmark can tell it."""
    if "stderr" in further:
        return further["stderr"]
    if not math.isclose(further.get("overall", overall(groups)), overall(groups), rel_tol=1e-9):
        return math.nan
    return error(groups, list(means.values()))


def overall(groups: Sequence[Mapping[str, Any]]) -> float:
    """The weighted mean of the groups' means; where they have no weights, the mean of all samples. NaN of none."""
    known = [group for group in groups if group["mean"] is not None]
    weights = [_weight(group) for group in known]
    if not sum(weights):
        return math.nan
    return sum(weight * group["mean"] for weight, group in zip(weights, known, strict=True)) / sum(weights)


def error(groups: Sequence[Mapping[str, Any]], means: Sequence[float]) -> float:
    """The standard error of `overall`, items being drawn anew: within each group where groups have weights, else all.

    `means` are of all items. NaN where there are fewer than FEWEST items, or in a group that has a weight.
    """
    known = [group for group in groups if group["mean"] is not None]
    if not known or any(group["weight"] is None for group in known):
        return spread_of(means)
    if any(group["stderr"] is None for group in known):
        return math.nan
    weights = [_weight(group) for group in known]
    return math.sqrt(sum((w * g["stderr"]) ** 2 for w, g in zip(weights, known, strict=True))) / sum(weights)


def spread_of(means: Sequence[float]) -> float:
    """The standard error of the mean of items; NaN of too few, which may be alike by chance."""
    return math.sqrt(variance(means) / len(means)) if len(means) >= FEWEST else math.nan


def _weight(group: Mapping[str, Any]) -> float:
    weight: float = group["samples"] - group["failed"] if group["weight"] is None else group["weight"]
    return weight


def _means(items: Sequence[Item], scored: Mapping[tuple[str, int], Score], scale: float) -> dict[str, float]:
    """The mean of each item's samples that have a value."""
    found: dict[str, float] = {}
    for item in items:
        if values := _values(item, scored, scale):
            found[item.id] = fmean(values)
    return found


def _values(item: Item, scored: Mapping[tuple[str, int], Score], scale: float) -> list[float]:
    samples = [scored.get((item.id, sample)) for sample in range(item.samples)]
    return [score.value * scale for score in samples if score and score.value is not None]


def _group(
    name: str,
    weights: Mapping[str, float] | None,
    items: Sequence[Item],
    scored: Mapping[tuple[str, int], Score],
    means: Mapping[str, float],
    scale: float,
) -> dict[str, Any]:
    """A group's mean over samples, and its standard error over items, whose samples share their fate."""
    own = [item for item in items if item.group == name]
    every = [value for item in own for value in _values(item, scored, scale)]
    return {
        "name": name,
        "weight": weights[name] if weights else None,
        "items": len(own),
        "samples": sum(item.samples for item in own),
        "failed": sum(item.samples for item in own) - len(every),
        "mean": fmean(every) if every else None,
        "stderr": finite(spread_of([means[item.id] for item in own if item.id in means])),
    }
