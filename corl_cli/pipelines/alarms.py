"""Alarms: every check that can be made of a recorded run, and those that look at both tasks alike.

A check stays silent when all is well; one that finds too little to look at says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from corl_cli.core.types import Task
from corl_cli.pipelines import signs
from corl_cli.pipelines.evidence import (
    FEWEST_STEPS,
    SIGNIFICANT,
    Alarm,
    Record,
    Unchecked,
    extremes,
    portion,
    spread,
    thirds,
)

SAME_OUTPUTS = 0.5  # share of groups: half of the samples are drawn for nothing
SMALL_SHARE = 0.01  # of the advantage's variance: the reward is computed for nothing
MASKED = 0.05  # share of rows that are left out: what remains is no fair sample
EQUAL_GROUPS = 0.8  # share of groups without an advantage

Check = Callable[[Record], Iterable[Alarm]]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The alarms, the gravest first; the checks that were made, by task; and those that were not, with the reason."""

    alarms: list[Alarm]
    checked: dict[Task, list[str]]
    unchecked: list[str]


def review(record: Record) -> Findings:
    """Make every check of the tasks that a run trains."""
    alarms: list[Alarm] = []
    checked: dict[Task, list[str]] = {task: [] for task in record.steps}
    lacking: dict[str, list[str]] = defaultdict(list)
    for task in record.steps:
        for name, check in CHECKS[task].items():
            try:
                alarms += list(check(record))
            except Unchecked as reason:
                lacking[str(reason)].append(f"{name} ({task})")
            else:
                checked[task].append(name)
    return Findings(
        alarms=sorted(alarms, key=lambda alarm: alarm.severity),
        checked=checked,
        unchecked=[f"{', '.join(names)}: {reason}" for reason, names in lacking.items()],
    )


def same_outputs(task: Task) -> Check:
    """A group whose samples are all the same has nothing to compare."""

    def check(record: Record) -> Iterable[Alarm]:
        found, groups = [], 0
        for seen in record.late(task):
            groups += len(seen.groups())
            same = [rows for rows in seen.groups() if len({seen.outputs[row] for row in rows}) == 1]
            found += [seen.evidence(rows.start, f"{len(rows)} times the same") for rows in same]
        if found and len(found) / groups > SAME_OUTPUTS:
            yield Alarm(
                name="identical outputs in a group",
                severity="warning",
                task=task,
                seen=f"In {portion(len(found), groups)} late groups all samples are the same: they teach nothing.",
                remedy=f"Raise sampling.{task}.temperature, add a KL (algo.beta), or take harder items.",
                samples=spread(found),
            )

    return check


def reward_against_probes(task: Task) -> Check:
    """Reward up, held-out score down: what is rewarded is no longer what is wanted."""

    def check(record: Record) -> Iterable[Alarm]:
        readings = _readings(record, task)
        if all(len(each) < 2 for each in readings.values()):
            raise Unchecked("fewer than two readings of held-out scores (eval.probes)")
        names = ["total", *(spec.name for spec in getattr(record.recipe.rewards, task))]
        changes = {name: thirds(record.series(f"reward/{task}/{name}")) for name in names}
        if not any(changes.values()):
            raise Unchecked(f"fewer than {FEWEST_STEPS} steps have a reward")
        moved = {name: f"{name} {c.early:.3f} -> {c.late:.3f}" for name, c in changes.items() if c}
        risen = [words for name, words in moved.items() if (change := changes[name]) and change.rises]
        others = [words for words in moved.values() if words not in risen]
        if not risen:
            return
        falls = [
            f"{score} (T = {temperature:g}) by {best['mean'] - last['mean']:.3f} ± {stderr:.3f}, "
            f"from {best['mean']:.3f} at step {best['step']} to {last['mean']:.3f} at step {last['step']}"
            for (score, temperature), each in readings.items()
            for best, last, stderr in [_fall(each)]
            if best["mean"] - last["mean"] > SIGNIFICANT * stderr
        ]
        if falls:
            late = record.late(task)
            yield Alarm(
                name="reward up, held-out score down",
                severity="alarm",
                task=task,
                seen=f"Held-out scores fell, {'; '.join(falls)}; what is paid rose: {', '.join(risen)}"
                + (f", but not {', '.join(others)}." if others else "."),
                remedy="Look at what the best-paid samples share, and weigh the rewards that rose less; "
                "go back to a checkpoint from before the fall, where one is kept (checkpoint.every, checkpoint.keep).",
                samples=extremes(late, [seen.recorded.rewards.total for seen in late], True),
            )

    return check


def odd_shares(task: Task) -> Check:
    """A reward that the advantage goes against, or hardly hears."""

    def check(record: Record) -> Iterable[Alarm]:
        shares = {
            spec.name: values
            for spec in getattr(record.recipe.rewards, task)
            if spec.weight and len(values := record.series(f"share/{task}/{spec.name}")) >= FEWEST_STEPS
        }
        if not shares:
            raise Unchecked(f"fewer than {FEWEST_STEPS} steps have a share")
        for name, values in shares.items():
            equal = _series(record, f"zero_variance/{task}/{name}")
            mean = sum(values) / len(values)
            stderr = float(torch.tensor(values).std()) / math.sqrt(len(values))
            highest = mean + SIGNIFICANT * stderr
            varies = sum(equal) / len(equal) < 0.5  # a reward that is nearly always full has nothing left to say
            if highest < 0 or (highest < SMALL_SHARE and varies):
                kind = "negative" if highest < 0 else "vanishing"
                yield Alarm(
                    name=f"a reward with a {kind} share",
                    severity="warning",
                    task=task,
                    seen=f"`{name}` has {mean:.2%} ± {stderr:.2%} of the advantage's variance.",
                    remedy=(
                        "Try another weight on the recorded rollouts: "
                        f"corl reward replay RUN --set rewards.{task}.{name}.weight=…"
                    ),
                )

    return check


def many_masked(task: Task) -> Check:
    """Rows without a reward: a policy may learn to be left out."""

    def check(record: Record) -> Iterable[Alarm]:
        values = _series(record, f"masked/{task}")
        if (mean := sum(values) / len(values)) > MASKED:
            rows = [
                seen.evidence(row, "; ".join(f"{name}: {notes[row]}" for name, notes in seen.notes.items()))
                for seen in record.steps[task]
                for row in (~seen.recorded.rows).nonzero().flatten().tolist()
            ]
            yield Alarm(
                name="many rows without a reward",
                severity="warning",
                task=task,
                seen=f"{mean:.1%} of the {task} rows were left out because a reward failed.",
                remedy="Look at the reasons; mend the reward or the data.",
                samples=spread(rows),
            )

    return check


def equal_groups(task: Task) -> Check:
    """Most groups without an advantage: the run learns from a few."""

    def check(record: Record) -> Iterable[Alarm]:
        values = _series(record, f"zero_variance/{task}")
        last = values[-max(1, len(values) // 3) :]
        if (mean := sum(last) / len(last)) > EQUAL_GROUPS:
            yield Alarm(
                name="most groups teach nothing",
                severity="warning",
                task=task,
                seen=f"In the last third {mean:.0%} of the {task} groups have equal rewards throughout.",
                remedy="Take harder or easier items, a higher temperature, or a reward with finer steps.",
            )

    return check


def _of_both(task: Task) -> dict[str, Check]:
    return {
        "identical outputs in a group": same_outputs(task),
        "rewards against held-out scores": reward_against_probes(task),
        "shares of rewards": odd_shares(task),
        "rows without a reward": many_masked(task),
        "groups that teach nothing": equal_groups(task),
    }


CHECKS: dict[Task, dict[str, Check]] = {
    "t2i": {
        "drift of brightness, contrast and entropy": signs.appearance_drift,
        "identical captions in a group": signs.same_captions,
        "near-constant matching": signs.flat_matching,
        **_of_both("t2i"),
    },
    "mm2t": {
        "several answer blocks": signs.several_blocks,
        "all options listed": signs.all_options,
        "length drift": signs.length_drift,
        "answers at the token limit": signs.at_limit,
        **_of_both("mm2t"),
    },
}


def _readings(record: Record, task: Task) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """The held-out readings of a task in order, by score and temperature, all answer types together."""
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for line in record.metrics:
        probe = line.get("probe")
        if (
            probe
            and probe["task"] == task
            and not probe["answer_type"]
            and None not in (probe["mean"], probe["stderr"])
        ):
            found.setdefault((probe["score"], probe["temperature"]), []).append(probe | {"step": line["step"]})
    return found


def _fall(readings: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any], float]:
    """The best reading, the last one, and the standard error of their difference."""
    best, last = max(readings, key=lambda reading: reading["mean"]), readings[-1]
    return best, last, math.hypot(best["stderr"], last["stderr"])


def _series(record: Record, key: str) -> list[float]:
    if not (values := record.series(key)):
        raise Unchecked("metrics.jsonl holds no step")
    return values
