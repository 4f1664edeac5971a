"""Signs that a run cheats, or learns nothing: each check looks at what was recorded and stays silent when all is well.

Early and late are the first and the last half of the recorded steps. What drifts is compared by group means with a
standard error, and drawings with the real images of the same prompts, so that other prompts are no drift.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from corl_cli.core.types import Task
from corl_cli.pipelines.evidence import (
    FEWEST_STEPS,
    SIGNIFICANT,
    Evidence,
    Record,
    Seen,
    captions,
    change,
    extremes,
    gaps,
    group_deviations,
    group_means,
    spread,
    thirds,
)
from corl_cli.scoring.choices import read_options

ODD_ANSWERS = 0.05  # share of answers; a reward that accepts them would soon make it more
STUCK_GROUPS = 0.2  # share of groups that the captioner no longer tells apart
SAME_OUTPUTS = 0.5  # share of groups: half of the samples are drawn for nothing
LONGER = 1.5  # times the early length, or the same shorter
SEEN = {"brightness": 0.05, "contrast": 0.05, "entropy": 0.5}  # a smaller change of a drawing is not seen by eye
FLAT_MATCHING = 0.005  # deviation within groups; the tiny Janus has 0.03, and drawings of 0.01 look alike
SMALL_SHARE = 0.01  # of the advantage's variance: the reward is computed for nothing
AT_LIMIT = 0.1  # share of answers that were cut off
MASKED = 0.05  # share of rows that are left out: what remains is no fair sample
EQUAL_GROUPS = 0.8  # share of groups without an advantage
AGREES = 0.9  # text consistency: a caption that says what the prompt says may well be the same for a group

_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_LETTER = re.compile(r"(?<![A-Za-z])[A-J](?![A-Za-z])")
_TEXT_PARTS = ("cycle.spice", "cycle.scene_graph", "cycle.embedding")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that a person should look at: `alarm` when rewards are being cheated, else `warning`.

    `seen` says in one sentence what was seen, with numbers; `remedy` what to do.
    """

    name: str
    severity: Literal["warning", "alarm"]
    task: Task
    seen: str
    remedy: str
    samples: list[Evidence] = field(default_factory=list)


def raise_alarms(record: Record) -> list[Alarm]:
    """Every alarm that a run gives cause for, the gravest first."""
    found = [alarm for task in record.steps for check in CHECKS[task] for alarm in check(record)]
    return sorted(found, key=lambda alarm: alarm.severity)


def several_blocks(record: Record) -> Iterable[Alarm]:
    """More than one answer block: a judge that takes any of them is given several guesses."""
    yield from _answers(
        record,
        lambda question, text: len(_ANSWER.findall(text)) > 1,
        name="several answer blocks",
        seen="have more than one answer block",
        remedy="Add or weigh up `format`, which pays for exactly one; look whether such answers are rewarded.",
    )


def all_options(record: Record) -> Iterable[Alarm]:
    """All options in the answer: a judge that looks for the right one finds it."""
    yield from _answers(
        record,
        _lists_all,
        name="all options listed",
        seen="to multiple-choice questions name every option after the reasoning",
        remedy="Look whether they are rewarded: `accuracy` pays for one option only, a reward of your own may not.",
    )


def same_captions(record: Record) -> Iterable[Alarm]:
    """One caption for a whole group that is not the prompt's: the text half of `cycle` says nothing."""
    groups, stuck = 0, []
    for seen in record.late("t2i"):
        words = captions(seen)
        if not words:
            continue
        groups += len(seen.groups())
        agreement = _agreement(seen)
        same = [rows for rows in seen.groups() if words[rows.start] and len({words[row] for row in rows}) == 1]
        for rows in same:
            prompts = {seen.prompts[other.start] for other in same if words[other.start] == words[rows.start]}
            if len(prompts) > 1 or float(agreement[list(rows)].mean()) < AGREES:
                stuck.append(seen.evidence(rows.start, words[rows.start]))
    if groups and len(stuck) / groups > STUCK_GROUPS:
        yield Alarm(
            name="identical captions in a group",
            severity="alarm",
            task="t2i",
            seen=f"In {_of(len(stuck), groups)} late groups all drawings have one caption, and not the prompt's.",
            remedy="Look at the drawings: they are all alike, or the captioner no longer sees them. Try another one.",
            samples=spread(stuck),
        )


def same_outputs(task: Task) -> Callable[[Record], Iterable[Alarm]]:
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
                seen=f"In {_of(len(found), groups)} late groups all samples are the same, so that they teach nothing.",
                remedy=f"Raise sampling.{task}.temperature, add a KL (algo.beta), or take harder items.",
                samples=spread(found),
            )

    return check


def length_drift(record: Record) -> Iterable[Alarm]:
    """Answers that grow or shrink out of proportion."""
    early, late = record.early("mm2t"), record.late("mm2t")
    lengths = [[mean for seen in half for mean in group_means(seen, seen.recorded.lengths)] for half in (early, late)]
    found = change(*lengths)
    if found and found.differs and not 1 / LONGER < found.late / max(found.early, 1e-6) < LONGER:
        yield Alarm(
            name="length drift",
            severity="warning",
            task="mm2t",
            seen=f"Answers went from {found.early:.0f} to {found.late:.0f} tokens (difference ± {found.stderr:.1f}).",
            remedy="Read them: padding or a skipped reasoning is paid for by some reward, or punished by none.",
            samples=extremes(late, [seen.recorded.lengths for seen in late], found.late > found.early),
        )


def appearance_drift(record: Record) -> Iterable[Alarm]:
    """Drawings that leave the look of the real images while a reward rises: the reward pays for the look."""
    early, late = record.early("t2i"), record.late("t2i")
    rising = [name for name in late[0].recorded.rewards.terms if _rises(early, late, name)] if early else []
    if not rising:
        return
    for name, visible in SEEN.items():
        apart = [[gap for seen in half for gap in gaps(seen, name)] for half in (early, late)]
        found = change(*apart)
        if found and found.differs and abs(found.late - found.early) > visible and abs(found.late) > abs(found.early):
            yield Alarm(
                name=f"{name} drift",
                severity="alarm",
                task="t2i",
                seen=(
                    f"The {name} of drawings went from {found.early:+.3f} to {found.late:+.3f} relative to the real "
                    f"images (difference ± {found.stderr:.3f}) while {' and '.join(rising)} rose."
                ),
                remedy="Look at the drawings through time: the reward may pay for the look instead of the content.",
                samples=extremes(late, [seen.looks[name] for seen in late], found.late > found.early),
            )


def flat_matching(record: Record) -> Iterable[Alarm]:
    """TIM that hardly differs within a group: its order is noise, and normalising would make it loud."""
    late = [seen for seen in record.late("t2i") if "matching" in seen.recorded.rewards.terms]
    spreads = [spread for seen in late for spread in group_deviations(seen, seen.recorded.rewards.parts["matching"])]
    if spreads and (mean := sum(spreads) / len(spreads)) < FLAT_MATCHING:
        yield Alarm(
            name="near-constant matching",
            severity="warning",
            task="t2i",
            seen=f"Within late groups `matching` has a deviation of {mean:.1e}: it hardly tells drawings apart.",
            remedy="Leave it out or take hidden: reference; do not normalise it, which would make its noise loud.",
            samples=extremes(late, [seen.recorded.rewards.parts["matching"] for seen in late], True),
        )


def reward_against_probes(task: Task) -> Callable[[Record], Iterable[Alarm]]:
    """Reward up, held-out score down: what is rewarded is no longer what is wanted."""

    def check(record: Record) -> Iterable[Alarm]:
        names = ["total", *(spec.name for spec in getattr(record.recipe.rewards, task))]
        changes = {name: thirds(record.series(f"reward/{task}/{name}")) for name in names}
        late = record.late(task)
        risen = [f"{name} {c.early:.3f} -> {c.late:.3f}" for name, c in changes.items() if c and c.rises]
        if not risen:
            return
        falls = [
            f"{score} (T = {temperature:g}) from {best['mean']:.3f} to {last['mean']:.3f} ± {stderr:.3f}"
            for (score, temperature), readings in _readings(record, task).items()
            for best, last, stderr in [_fall(readings)]
            if best["mean"] - last["mean"] > SIGNIFICANT * stderr
        ]
        if falls:
            yield Alarm(
                name="reward up, held-out score down",
                severity="alarm",
                task=task,
                seen=f"Held-out scores fell, {' and '.join(falls)} while what is paid rose: {', '.join(risen)}.",
                remedy="Go back to the checkpoint before the fall, and look at what the best-paid samples share.",
                samples=extremes(late, [seen.recorded.rewards.total for seen in late], True),
            )

    return check


def odd_shares(task: Task) -> Callable[[Record], Iterable[Alarm]]:
    """A reward that the advantage goes against, or hardly hears."""

    def check(record: Record) -> Iterable[Alarm]:
        for spec in getattr(record.recipe.rewards, task):
            values = record.series(f"share/{task}/{spec.name}")
            equal = record.series(f"zero_variance/{task}/{spec.name}")
            if spec.weight == 0 or len(values) < FEWEST_STEPS or not equal:
                continue
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
                    seen=f"`{spec.name}` has {mean:.2%} ± {stderr:.2%} of the advantage's variance.",
                    remedy=(
                        "Try another weight on the recorded rollouts: "
                        f"corl reward replay RUN --set rewards.{task}.{spec.name}.weight=…"
                    ),
                )

    return check


def many_masked(task: Task) -> Callable[[Record], Iterable[Alarm]]:
    """Rows without a reward: a policy may learn to be left out."""

    def check(record: Record) -> Iterable[Alarm]:
        values = record.series(f"masked/{task}")
        mean = sum(values) / max(1, len(values))
        if mean > MASKED:
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


def equal_groups(task: Task) -> Callable[[Record], Iterable[Alarm]]:
    """Most groups without an advantage: the run learns from a few."""

    def check(record: Record) -> Iterable[Alarm]:
        values = record.series(f"zero_variance/{task}")
        last = values[-max(1, len(values) // 3) :]
        if last and (mean := sum(last) / len(last)) > EQUAL_GROUPS:
            yield Alarm(
                name="most groups teach nothing",
                severity="warning",
                task=task,
                seen=f"In the last third {mean:.0%} of the {task} groups have equal rewards throughout.",
                remedy="Take harder or easier items, a higher temperature, or a reward with finer steps.",
            )

    return check


def at_limit(record: Record) -> Iterable[Alarm]:
    """Answers cut off at the limit cannot be right, whatever was reasoned."""
    limit = record.recipe.sampling.mm2t.max_new_tokens
    late = record.late("mm2t")
    cut = [(seen, row) for seen in late for row in (seen.recorded.lengths >= limit).nonzero().flatten().tolist()]
    share = len(cut) / sum(len(seen.outputs) for seen in late)
    if share > AT_LIMIT:
        yield Alarm(
            name="many answers at the token limit",
            severity="warning",
            task="mm2t",
            seen=f"{share:.1%} of the late answers were cut off at {limit} tokens.",
            remedy="Raise sampling.mm2t.max_new_tokens, or find what pays for length.",
            samples=spread([seen.evidence(row) for seen, row in cut]),
        )


CHECKS: dict[Task, list[Callable[[Record], Iterable[Alarm]]]] = {
    "t2i": [
        appearance_drift,
        same_captions,
        flat_matching,
        *(check("t2i") for check in (same_outputs, reward_against_probes, odd_shares, many_masked, equal_groups)),
    ],
    "mm2t": [
        several_blocks,
        all_options,
        length_drift,
        at_limit,
        *(check("mm2t") for check in (same_outputs, reward_against_probes, odd_shares, many_masked, equal_groups)),
    ],
}


def _answers(record: Record, odd: Callable[[str, str], bool], *, name: str, seen: str, remedy: str) -> Iterable[Alarm]:
    """An alarm when too many late answers are odd."""
    late = record.late("mm2t")
    total = sum(len(step.outputs) for step in late)
    found = [
        step.evidence(row) for step in late for row, text in enumerate(step.outputs) if odd(step.questions[row], text)
    ]
    if len(found) / total > ODD_ANSWERS:
        said = f"{_of(len(found), total)} late answers {seen}."
        yield Alarm(name=name, severity="alarm", task="mm2t", seen=said, remedy=remedy, samples=spread(found))


def _lists_all(question: str, text: str) -> bool:
    options = read_options(question)
    if len(options) < 2:
        return False
    said = text.rpartition("</think>")[2]
    words = f" {' '.join(re.findall(r'[a-z0-9-]+', said.casefold()))} "
    return options.keys() <= set(_LETTER.findall(said)) or all(f" {o.casefold()} " in words for o in options.values())


def _agreement(seen: Seen) -> Tensor:
    """Text consistency of each row, 0 where it is not known."""
    parts = seen.recorded.rewards.parts
    name = next((name for name in _TEXT_PARTS if name in parts), None)
    return parts[name].nan_to_num() if name else torch.zeros(len(seen.outputs))


def _readings(record: Record, task: Task) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """The held-out readings of a task in order, by score and temperature, all answer types together."""
    found: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for line in record.metrics:
        probe = line.get("probe")
        if probe and probe["task"] == task and not probe["answer_type"] and math.isfinite(probe["mean"]):
            found.setdefault((probe["score"], probe["temperature"]), []).append(probe)
    return found


def _fall(readings: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], Mapping[str, Any], float]:
    """The best reading, the last one, and the standard error of their difference."""
    best, last = max(readings, key=lambda reading: reading["mean"]), readings[-1]
    return best, last, math.hypot(best["stderr"], last["stderr"])


def _rises(early: Sequence[Seen], late: Sequence[Seen], name: str) -> bool:
    """Whether a reward pays late samples more than early ones."""
    scores = [[mean for seen in half for mean in _paid(seen, name)] for half in (early, late)]
    found = change(*scores)
    return found is not None and found.rises


def _paid(seen: Seen, name: str) -> list[float]:
    return group_means(seen, seen.recorded.rewards.parts[name])


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({count / total:.0%})"
