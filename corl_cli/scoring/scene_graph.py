"""Rule-based scene graphs of short captions, and how far two of them agree.

The idea is SPICE's (arXiv 1607.08822): a caption is a set of tuples (object), (object, attribute) and
(subject, object, relation), and two captions are compared by the F score of their tuples. What differs: the parser is
a few rules and word lists instead of a dependency parser, matching is one-to-one (so the score never exceeds 1),
repeated tuples count, and a relation told from either side is one relation. It is not SPICE and not called so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from corl_cli.core.requirements import Requirement
from corl_cli.scoring import captions, lexicon
from corl_cli.scoring.captions import Link, Thing
from corl_cli.scoring.english import NUMBERS, plural
from corl_cli.scoring.measure import Measured, failed

SceneTuple = tuple[str, ...]


class SceneGraphs:
    """The F score of the scene graphs of prompt and caption, as a measure.Consistency."""

    def __init__(self, *, synonyms: bool) -> None:
        self.synonyms = synonyms

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return []

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def __call__(self, prompts: Sequence[str], captions: Sequence[str]) -> Measured:
        """See measure.Consistency; a prompt that names nothing has no score."""
        values, details = [], []
        for prompt, caption in zip(prompts, captions, strict=True):
            wanted, said = parse(prompt), parse(caption)
            if wanted.things:
                values.append(f_score(said.tuples(), wanted.tuples(), synonyms=self.synonyms))
                details.append(explain(said, wanted, synonyms=self.synonyms))
            else:
                values.append(torch.nan)
                details.append(failed("the prompt names nothing" if prompt.strip() else "the prompt is empty"))
        return Measured(torch.tensor(values), details)


@dataclass(frozen=True)
class SceneGraph:
    """What a caption says: things, and the relations between them."""

    things: list[Thing]
    links: list[Link]

    @property
    def objects(self) -> list[str]:
        """The name of every thing, in the order of the caption."""
        return [thing.name for thing in self.things]

    @property
    def attributes(self) -> list[tuple[str, str]]:
        """(object, attribute) of every attribute."""
        return [(thing.name, attribute) for thing in self.things for attribute in thing.attributes]

    @property
    def relations(self) -> list[SceneTuple]:
        """(subject, object, relation); between things of one name their attributes follow, to tell them apart."""
        return [self._relation(link) for link in self.links]

    def tuples(self) -> list[SceneTuple]:
        """Objects, attributes and relations, as `f_score` compares them."""
        return [*((name,) for name in self.objects), *self.attributes, *self.relations]

    def phrases(self) -> list[str]:
        """The tuples as text, in their order; a relation from the side from which the caption tells it."""
        return [*map(phrase, [*((name,) for name in self.objects), *self.attributes]), *map(self._told, self.links)]

    def _told(self, link: Link) -> str:
        first, second = self.things[link.subject], self.things[link.target]
        if link.told != link.name:
            first, second = second, first
        ends = [thing.name for thing in (first, second)]
        if first.name == second.name:
            ends = [" ".join([*thing.attributes, thing.name]) for thing in (first, second)]
        return phrase((*ends, link.told))

    def _relation(self, link: Link) -> SceneTuple:
        first, second, name = self.things[link.subject], self.things[link.target], link.name
        told_apart = [" ".join(sorted(thing.attributes)) for thing in (first, second)]
        ends = [(first.name, told_apart[0]), (second.name, told_apart[1])]
        if name in lexicon.SYMMETRIC:
            ends.sort()
        (one, one_is), (other, other_is) = ends
        return (one, other, name) if one != other else (one, other, name, one_is, other_is)


def parse(text: str) -> SceneGraph:
    """The scene graph of a short caption; words that the rules do not know are taken for objects. Never fails."""
    return SceneGraph(*captions.read(text))


def f_score(candidate: Sequence[SceneTuple], reference: Sequence[SceneTuple], *, synonyms: bool = True) -> float:
    """2PR / (P + R) of the best one-to-one matching of tuples; 0 when either side is empty, always in 0..1.

    An attribute or a relation implies its objects. With `synonyms` words match by number, case and shared meaning,
    without only as equal strings.
    """
    candidate, reference = _closed(candidate), _closed(reference)
    total = len(candidate) + len(reference)
    return 2 * len(_matching(candidate, reference, synonyms)) / total if candidate and reference else 0.0


def explain(candidate: SceneGraph, reference: SceneGraph, *, synonyms: bool = True) -> dict[str, str]:
    """Which tuples are matched, which of the reference are missing, and which of the candidate are extra."""
    pairs = _matching(candidate.tuples(), reference.tuples(), synonyms)
    said, wanted = candidate.phrases(), reference.phrases()
    return account(
        matched=[wanted[index] for index in sorted(pairs)],
        missing=[text for index, text in enumerate(wanted) if index not in pairs],
        extra=[text for index, text in enumerate(said) if index not in pairs.values()],
    )


def account(*, matched: Sequence[str], missing: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """The labelled lines that make an agreement of tuples believable."""
    groups = {"matched": matched, "missing": missing, "extra": extra}
    return {label: ", ".join(phrases) or "nothing" for label, phrases in groups.items()}


def phrase(words: SceneTuple) -> str:
    """A tuple as a person would say it: "circle", "red circle", "two circles", "circle above square"."""
    if len(words) < 3:
        thing, *attributes = words
        many = any(NUMBERS.get(attribute, 1) > 1 for attribute in attributes)
        return " ".join([*attributes, plural(thing) if many else thing])
    return f"{words[0]} {words[2]} {words[1]}"


def _closed(tuples: Sequence[SceneTuple]) -> list[SceneTuple]:
    """The tuples and the objects that they imply."""
    known = {words[0] for words in tuples if len(words) == 1}
    ends = [end for words in tuples if len(words) > 1 for end in (words[:1] if len(words) == 2 else words[:2])]
    return [*((end,) for end in dict.fromkeys(ends) if end not in known), *tuples]


def _matching(candidate: list[SceneTuple], reference: list[SceneTuple], synonyms: bool) -> dict[int, int]:
    """A largest one-to-one matching {reference index: candidate index}, by augmenting paths (Kuhn)."""
    partners = [
        [index for index, other in enumerate(reference) if _same(words, other, synonyms)] for words in candidate
    ]
    matched: dict[int, int] = {}

    def augment(row: int, tried: set[int]) -> bool:
        for index in partners[row]:
            if index not in tried:
                tried.add(index)
                if index not in matched or augment(matched[index], tried):
                    matched[index] = row
                    return True
        return False

    for row in range(len(candidate)):
        augment(row, set())
    return matched


def _same(words: SceneTuple, others: SceneTuple, synonyms: bool) -> bool:
    if not synonyms:
        return words == others
    return len(words) == len(others) and all(map(lexicon.same_meaning, words, others))
