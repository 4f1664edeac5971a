"""Reads a short caption into the things it names, their attributes and the relations between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from corl_cli.scoring import lexicon
from corl_cli.scoring.english import NUMBERS, singular

MAX_WORDS = 200  # of a caption; what follows is not read

MAX_LIST = 8  # members of a list that a relation reaches


class Link(NamedTuple):
    """A relation between two things, by their indices: "left of"; `told` is "right of" where the text says so."""

    subject: int
    target: int
    name: str
    told: str


@dataclass
class Thing:
    """An object of a caption with its attributes."""

    name: str
    attributes: list[str] = field(default_factory=list)


def read(text: str) -> tuple[list[Thing], list[Link]]:
    """The things of a caption in order, and the relations between them. Never fails.

    Words that no list knows are taken for names; the last of a noun phrase is its thing, the others are its
    attributes. Things alike in name and attributes are counted as one: "a red cross and a red cross" is "two red
    crosses".
    """
    things: list[Thing] = []
    steps = _steps(_tokens(text), things)
    return _counted(things, _links(steps))


def _tokens(text: str) -> list[str]:
    """Lower-case words, marks, `_relation` and `@position` tokens."""
    words = re.findall(r"[^\W_]+(?:[-'][^\W_]+)*|[,.;:!?]", text[: 40 * MAX_WORDS].lower())[:MAX_WORDS]
    return lexicon.mark_phrases(" ".join(words)).split()


@dataclass
class _Group:
    """Things joined by "and"."""

    members: list[int]


_Step = _Group | str  # a group of things, or the name of the relation to the next group


def _steps(tokens: list[str], things: list[Thing]) -> list[_Step]:
    """Groups and relations in reading order; `things` is filled."""
    steps: list[_Step] = []
    joined = False
    start = 0
    while start < len(tokens):
        token = tokens[start]
        end = _phrase_end(tokens, start)
        words = [word for word in tokens[start:end] if word not in ("and", ",") and word not in lexicon.DETERMINERS]
        if words and _names_thing(tokens[start], words):
            things.append(_thing(words))
            if joined and steps and isinstance(steps[-1], _Group):
                steps[-1].members.append(len(things) - 1)
            else:
                steps.append(_Group([len(things) - 1]))
        elif words:
            _describe(things, words)
        elif token.startswith("_"):
            _relate(steps, token[1:].replace("_", " "))
        elif token.startswith("@"):
            _describe(things, [token[1:]])
        elif base := lexicon.verb(token):
            if _starts_phrase(tokens, start + 1):
                _relate(steps, base)
            else:
                _describe(things, [base])
        elif token in ".;!?" and steps and isinstance(steps[-1], str):
            steps.pop()  # a relation never crosses the end of a sentence
        joined = token == "and" and end == start
        start = max(end, start + 1)
    return steps


def _phrase_end(tokens: list[str], start: int) -> int:
    """The index after the noun phrase that begins at `start`; `start` when none does."""
    end = start
    while end < len(tokens) and _continues(tokens, start, end):
        end += 1
    return end


def _continues(tokens: list[str], start: int, end: int) -> bool:
    token = tokens[end]
    if token in lexicon.DETERMINERS:
        return end == start
    if token in ("and", ","):  # a red and white kite
        around = tokens[max(start, end - 1) : end] + tokens[end + 1 : end + 2]
        return len(around) == 2 and all(word in lexicon.ADJECTIVES for word in around)
    if lexicon.verb(token):  # a flying kite
        before = tokens[max(start, end - 1) : end]
        after = tokens[end + 1 : end + 2]
        return bool(before and before[0] in lexicon.DETERMINERS and after and _is_word(after[0]))
    return _is_word(token)


def _is_word(token: str) -> bool:
    plain = token[0] not in "_@,.;:!?" and token not in ("and", "or") and token not in lexicon.SKIPPED
    return plain and token not in lexicon.DETERMINERS and not lexicon.verb(token)


def _starts_phrase(tokens: list[str], index: int) -> bool:
    return index < len(tokens) and (tokens[index] in lexicon.DETERMINERS or _is_word(tokens[index]))


def _names_thing(first: str, words: list[str]) -> bool:
    """ "an orange" names a thing, "orange" alone describes the one before."""
    return first in lexicon.DETERMINERS or not all(map(lexicon.is_attribute, words))


def _thing(words: list[str]) -> Thing:
    head = max((index for index, word in enumerate(words) if not lexicon.is_attribute(word)), default=len(words) - 1)
    others = words[:head] + words[head + 1 :]
    attributes = (lexicon.verb(word) or lexicon.attribute(word) for word in others)
    return Thing(singular(words[head]), [word for word in dict.fromkeys(attributes) if word != "one"])


def _describe(things: list[Thing], words: list[str]) -> None:
    if things:
        known = things[-1].attributes
        known += [word for word in map(lexicon.attribute, words) if word not in known]


def _relate(steps: list[_Step], name: str) -> None:
    if steps and isinstance(steps[-1], _Group):
        steps.append(name)


def _links(steps: list[_Step]) -> list[Link]:
    """Each relation between the groups around it; a group between two relations lends each its nearer member."""
    links = []
    for index, name in enumerate(steps):
        if not isinstance(name, str) or index + 1 == len(steps):
            continue
        before, after = steps[index - 1], steps[index + 1]
        assert isinstance(before, _Group)
        assert isinstance(after, _Group)
        is_object = index > 1 and isinstance(steps[index - 2], str)
        is_subject = index + 2 < len(steps) and isinstance(steps[index + 2], str)
        subjects = before.members[-1:] if is_object else before.members[-MAX_LIST:]
        targets = after.members[:1] if is_subject else after.members[:MAX_LIST]
        links += [_canonical(subject, target, name) for subject in subjects for target in targets]
    return links


def _canonical(subject: int, target: int, name: str) -> Link:
    """One name for a relation told from either side."""
    if converse := lexicon.CONVERSE.get(name):
        return Link(target, subject, converse, name)
    return Link(subject, target, name, name)


def _counted(things: list[Thing], links: list[Link]) -> tuple[list[Thing], list[Link]]:
    """Equal things merged into one with their number; a thing that has a number already stays itself."""
    groups: dict[object, list[int]] = {}
    for index, thing in enumerate(things):
        has_number = any(word in NUMBERS for word in thing.attributes)
        groups.setdefault(index if has_number else (thing.name, frozenset(thing.attributes)), []).append(index)
    merged: list[Thing] = []
    place: dict[int, int] = {}
    for position, members in enumerate(groups.values()):
        first = things[members[0]]
        number = [lexicon.attribute(str(len(members)))] if len(members) > 1 else []
        merged.append(Thing(first.name, [*number, *first.attributes]))
        place |= dict.fromkeys(members, position)
    return merged, [link._replace(subject=place[link.subject], target=place[link.target]) for link in links]
