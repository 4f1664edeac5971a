"""Signs of cheating in what was drawn and answered.

What drifts is compared by group means with a standard error, and drawings with the real images of the same prompts, so
that other prompts are no drift.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from corl_cli.pipelines.evidence import (
    Alarm,
    Change,
    Record,
    Seen,
    Unchecked,
    change,
    extremes,
    gaps,
    group_deviations,
    group_means,
    halves,
    portion,
    spread,
)
from corl_cli.scoring.choices import asserted, read_options

ODD_ANSWERS = 0.05  # share of answers; a reward that accepts them would soon make it more
STUCK_GROUPS = 0.2  # share of groups that the captioner no longer tells apart
LONGER = 1.5  # times the early length, or the same shorter
SEEN = {"brightness": 0.05, "contrast": 0.05, "entropy": 0.5}  # a smaller change of a drawing is not seen by eye
FLAT_MATCHING = 0.005  # deviation within groups; the tiny Janus has 0.03, and drawings of 0.01 look alike
AT_LIMIT = 0.1  # share of answers that were cut off
AGREES = 0.9  # text consistency: a caption that says what the prompt says may well be the same for a group

_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_TAGS = re.compile(r"</?answer>", re.IGNORECASE)
_REASON = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_TEXT_PARTS = ("cycle.spice", "cycle.scene_graph", "cycle.embedding")


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
    if not any(read_options(question) for seen in record.late("mm2t") for question in seen.questions):
        raise Unchecked("no late question shows options")
    yield from _answers(
        record,
        _lists_all,
        name="all options listed",
        seen="to multiple-choice questions name every option after the reasoning",
        remedy="Look whether they are rewarded: `accuracy` pays for one option only, a reward of your own may not.",
    )


def length_drift(record: Record) -> Iterable[Alarm]:
    """Answers that grow or shrink out of proportion."""
    early, late = halves(record, "mm2t")
    lengths = [[mean for seen in half for mean in group_means(seen, seen.recorded.lengths)] for half in (early, late)]
    found = _change(*lengths)
    if found.differs and not 1 / LONGER < found.late / max(found.early, 1e-6) < LONGER:
        yield Alarm(
            name="length drift",
            severity="warning",
            task="mm2t",
            seen=f"Answers went from {found.early:.0f} to {found.late:.0f} tokens (difference ± {found.stderr:.1f}).",
            remedy="Read them: padding or a skipped reasoning is paid for by some reward, or punished by none.",
            samples=extremes(late, [seen.recorded.lengths for seen in late], found.late > found.early),
        )


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


def appearance_drift(record: Record) -> Iterable[Alarm]:
    """Drawings that leave the look of the real images while a reward rises: the reward pays for the look."""
    early, late = halves(record, "t2i")
    rising = [spec.name for spec in record.recipe.rewards.t2i if _rises(early, late, spec.name)]
    drifts = {
        name: _change(*([gap for seen in half for gap in gaps(seen, name)] for half in (early, late))) for name in SEEN
    }
    seen = {
        name: f"{name} from {drift.early:+.3f} to {drift.late:+.3f} (difference ± {drift.stderr:.3f})"
        for name, drift in drifts.items()
        if drift.differs and abs(drift.late - drift.early) > SEEN[name] and abs(drift.late) > abs(drift.early)
    }
    if rising and seen:
        first, *_ = names = list(seen)
        yield Alarm(
            name=f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} drift",
            severity="alarm",
            task="t2i",
            seen=(
                f"Relative to the real images drawings went in {', in '.join(seen.values())}, while "
                f"{' and '.join(rising)} rose."
            ),
            remedy="Look at the drawings through time: the reward may pay for the look instead of the content.",
            samples=extremes(late, [each.looks[first] for each in late], drifts[first].late > drifts[first].early),
        )


def same_captions(record: Record) -> Iterable[Alarm]:
    """One caption for a whole group that is not the prompt's: the text half of `cycle` says nothing."""
    late = [seen for seen in record.late("t2i") if seen.captions]
    if not late:
        raise Unchecked("no captions are recorded" if _trains(record, "cycle") else "the run has no `cycle`")
    groups, stuck = 0, []
    for seen in late:
        words = seen.captions
        groups += len(seen.groups())
        agreement = _agreement(seen)
        same = [rows for rows in seen.groups() if words[rows.start] and len({words[row] for row in rows}) == 1]
        for rows in same:
            prompts = {seen.prompts[other.start] for other in same if words[other.start] == words[rows.start]}
            if len(prompts) > 1 or float(agreement[list(rows)].mean()) < AGREES:
                stuck.append(seen.evidence(rows.start, words[rows.start]))
    if len(stuck) / groups > STUCK_GROUPS:
        yield Alarm(
            name="identical captions in a group",
            severity="alarm",
            task="t2i",
            seen=f"In {portion(len(stuck), groups)} late groups all drawings have one caption, and not the prompt's.",
            remedy="Look at the drawings: they are all alike, or the captioner no longer sees them. Try another one.",
            samples=spread(stuck),
        )


def flat_matching(record: Record) -> Iterable[Alarm]:
    """TIM that hardly differs within a group: its order is noise, and normalising would make it loud."""
    if not _trains(record, "matching"):
        raise Unchecked("the run has no `matching`")
    late = record.late("t2i")
    spreads = [spread for seen in late for spread in group_deviations(seen, seen.scores("matching"))]
    if not spreads:
        raise Unchecked("no late group has two scores of it")
    if (mean := sum(spreads) / len(spreads)) < FLAT_MATCHING:
        yield Alarm(
            name="near-constant matching",
            severity="warning",
            task="t2i",
            seen=f"Within late groups `matching` has a deviation of {mean:.1e}: it hardly tells drawings apart.",
            remedy="Leave it out or take hidden: reference; do not normalise it, which would make its noise loud.",
            samples=extremes(late, [seen.scores("matching") for seen in late], True),
        )


def _answers(record: Record, odd: Callable[[str, str], bool], *, name: str, seen: str, remedy: str) -> Iterable[Alarm]:
    """An alarm when too many late answers are odd."""
    late = record.late("mm2t")
    total = sum(len(step.outputs) for step in late)
    found = [
        step.evidence(row) for step in late for row, text in enumerate(step.outputs) if odd(step.questions[row], text)
    ]
    if len(found) / total > ODD_ANSWERS:
        said = f"{portion(len(found), total)} late answers {seen}."
        yield Alarm(name=name, severity="alarm", task="mm2t", seen=said, remedy=remedy, samples=spread(found))


def _lists_all(question: str, text: str) -> bool:
    """Whether the answer asserts every option, reasons given for one left aside."""
    options = read_options(question)
    said = _REASON.split(_TAGS.sub(" ", text.rpartition("</think>")[2]))[0]
    return len(options) > 1 and asserted(said, options) == options.keys()


def _agreement(seen: Seen) -> Tensor:
    """Text consistency of each row, 0 where it is not known."""
    known = [name for name in _TEXT_PARTS if name in seen.recorded.rewards.parts]
    return seen.scores(known[0]).nan_to_num() if known else torch.zeros(len(seen.outputs))


def _change(early: Sequence[float], late: Sequence[float]) -> Change:
    found = change(early, late)
    if found is None:
        raise Unchecked("one group on a side has no standard error")
    return found


def _rises(early: Sequence[Seen], late: Sequence[Seen], name: str) -> bool:
    """Whether a reward pays late samples more than early ones."""
    found = change(
        *([mean for seen in half for mean in group_means(seen, seen.scores(name))] for half in (early, late))
    )
    return found is not None and found.rises


def _trains(record: Record, name: str) -> bool:
    return any(spec.name == name for spec in record.recipe.rewards.t2i)
