"""Multiple choice: which options a question offers, and which one an answer chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from corl_cli.scoring.english import with_digits, word_list
from corl_cli.scoring.notation import normalise, plain
from corl_cli.scoring.quantities import read_quantity
from corl_cli.scoring.words import same_answer

LETTERS = "ABCDEFGHIJ"

Mention = tuple[int, int, str]  # from, to, and the letter of the option

_LINE = re.compile(r"^[^\S\n]*[(\[]?([A-Ja-j])(?:[)\].:]|\s[-–]\s|\s)[^\S\n]{0,8}\n?[^\S\n]{0,8}(\S.*)$", re.MULTILINE)
_MARKER = re.compile(r"(?<![\w./])[(\[]?([A-J])[)\].:](?!\w\.)|(?<!\S)[(\[]([a-j])[)\]]")
_INSTRUCTION = re.compile(r"\s(?:Answer (?:the|with|by)|Please |Choose |Select |Your (?:answer|response)|Think )")
_PREFIX = re.compile(r"[(\[]?([A-Ja-j])[)\].:]\s")

_AFTER_LETTER = frozenset(
    word_list(
        """
    is was because since and or but not as isn't wasn't cannot can't would could has does
    """
    )
)
_DECORATION = " \t\n.,;:!?\"'*_`~()[]{}<>"
_NEGATION = re.compile(
    r"(?:(?:\b(?:not|never|neither|nor|cannot|except|excluding|unlike)|n't|rather than|instead of|anything but)"
    r"(?: (?:the|a|an|be|it|it's|is|option|answer|choice|letter|think|believe|say|sure|that))*|\bno) ?[(\[\"']*$",
    re.IGNORECASE,
)
_REJECTION = re.compile(
    r"^[)\].\"']*,? (?:(?:is|was|are|can|could|would|does|do)(?:n't| not|not| never)\b"
    r"|(?:is|was|are|seems|looks|must be) (?:\w+ )?(?:wrong|incorrect|false|excluded|impossible|ruled out|eliminated))",
    re.IGNORECASE,
)
_CUED = r"\b(?i:answer|option|choice|letter)(?: is)?:? ?\(?([a-j])(?=\)|[.,;:]|\s*$)"
_WORD_EDGES = r"(?<!\w)", r"(?!\w)"
_NUMBER_EDGES = r"(?<![\w.,/√^-])", r"(?![\w/%√π^-]|[.,]\d)"
_SEPARATOR = re.compile(r"[)\].\"']*(?:,? (?:and|or|nor) |, ?|/|&| & )(?:option )?[(\[\"']*")
_CONJUNCTION = re.compile(r"\b(?:and|or|nor)\b|[/&]")
# What comes after the choice: a reason, or a new line that does not begin with a further letter.
_REASON = re.compile(r"\n(?!\s{0,8}[(\[]?[A-Ja-j](?:[)\].:]|\s{0,8}(?:\n|$)))|,?\s(?:because|since)\s", re.IGNORECASE)


def read_options(question: str) -> dict[str, str]:
    """The options of a question by letter; empty when it shows none.

    Read are lettered lines, lettered options inside a line, and the forms without marks "red A green B" (the world's)
    and "A red B green"; an instruction after them may itself speak of letters.
    """
    lines = [(match[1].upper(), match[2]) for match in _LINE.finditer(question)]
    if len(found := _longest_run(lines)) > 1:
        return _tidy(found)
    markers = list(_MARKER.finditer(question))
    ends = [*(marker.start() for marker in markers[1:]), len(question)]
    inline = [
        ((marker[1] or marker[2]).upper(), question[marker.end() : end])
        for marker, end in zip(markers, ends, strict=False)
    ]
    if len(found := _longest_run(inline)) > 1:
        return _tidy(found)
    return _unmarked(question)


def choose(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one option that an answer chooses; None when it chooses none, several, or takes it back."""
    text = normalise(answer)
    bare = text.strip(_DECORATION)
    if len(bare) == 1 and bare.upper() in (options or LETTERS):
        return bare.upper()
    named = [letter for letter, option in options.items() if plain(option) == plain(text)]
    if prefix := _PREFIX.match(text):
        letter = prefix[1].upper()
        if told := _named(text[prefix.end() :], options):
            return letter if letter in told else None
        text = text[: prefix.start(1)] + letter + text[prefix.end(1) :]
    named = named or ([] if prefix else _named(text, options))
    if len(named) == 1:
        return named[0]
    for part in (_REASON.split(text)[0], text):
        if found := _asserted(" ".join(part.split()), options):
            return found.pop() if len(found) == 1 else None
    return None


def asserted(answer: str, options: Mapping[str, str]) -> set[str]:
    """The letters of all options that an answer names, by letter or by text, and does not reject."""
    return _asserted(" ".join(normalise(answer).split()), options)


def named(text: str, options: Mapping[str, str]) -> set[str]:
    """The letters of the options that a text names, one or several."""
    chosen = choose(text, options)
    return {chosen} if chosen else _asserted(" ".join(normalise(text).split()), options)


def _named(text: str, options: Mapping[str, str]) -> list[str]:
    """The letters of the options whose text says the same; else of those that say it as a sentence, or with a unit."""
    said = plain(text)
    holding = [letter for letter, option in options.items() if said in plain(option)]
    if len(holding) > 1 and all(plain(option) != said for option in options.values()):
        return []  # "table" beside "on the table" and "under the table"
    if same := [letter for letter, option in options.items() if same_answer("", option, text)[0]]:
        return same
    if (quantity := read_quantity(said)) and not quantity.unit:
        found = {letter: read_quantity(plain(option)) for letter, option in options.items()}
        return [letter for letter, other in found.items() if other and other.value == quantity.value]
    return [letter for letter in holding if same_answer("", text, options[letter])[0]]


def _longest_run(found: list[tuple[str, str]]) -> dict[str, str]:
    """The longest, then last, run A, B, C … among lettered texts."""
    best: dict[str, str] = {}
    for start, (letter, _) in enumerate(found):
        if letter != "A":
            continue
        run: dict[str, str] = {}
        for letter, text in found[start:]:
            if len(run) < len(LETTERS) and letter == LETTERS[len(run)]:
                run[letter] = text
            elif letter == "A":
                break
        best = max(run, best, key=len)
    return best


def _tidy(options: dict[str, str]) -> dict[str, str]:
    """Options without what follows the last one, or the marks between them."""
    return {
        letter: _INSTRUCTION.split(text.strip().split("\n")[0])[0].strip(" \t,;|") for letter, text in options.items()
    }


def _unmarked(question: str) -> dict[str, str]:
    """The options of "what colour is it? red A green B", or of "what is it? A cat B dog"."""
    for line in question.split("\n"):
        chunks: list[list[str]] = [[]]
        for word in re.split(r"[?:]\s", _INSTRUCTION.split(line)[0])[-1].split():
            if len(chunks) <= len(LETTERS) and word == LETTERS[len(chunks) - 1]:
                chunks.append([])
            else:
                chunks[-1].append(word)
        first, *texts, last = [" ".join(chunk) for chunk in chunks] if len(chunks) > 2 else [""] * 3
        texts = [first, *texts] if first and not last else [*texts, last] if last and not first else []
        if texts and all(texts):
            return dict(zip(LETTERS, texts, strict=False))
    return {}


def _asserted(text: str, options: Mapping[str, str]) -> set[str]:
    """`asserted` of a text in one notation and on one line."""
    text = with_digits(text)
    mentions: list[Mention] = []
    hidden = text
    for letter, option in sorted(options.items(), key=lambda item: -len(item[1])):
        words = with_digits(" ".join(normalise(option).split()))
        if len(words) < 2 and not words.isdigit():
            continue
        before, after = _NUMBER_EDGES if words[-1].isdigit() else _WORD_EDGES
        for match in re.finditer(before + re.escape(words) + after, hidden, re.IGNORECASE):
            mentions.append((match.start(), match.end(), letter))
            hidden = hidden[: match.start()] + "\0" * len(match[0]) + hidden[match.end() :]
    for match in re.finditer(r"(?<![\w'\-])([A-J])(?![\w'+#]|-\w)", hidden):
        if match[1] in (options or LETTERS) and _is_letter(hidden, match, options, mentions):
            mentions.append((match.start(), match.end(), match[1]))
    for pattern in (r"\(([a-j])\)", _CUED):
        mentions += [
            (match.start(1), match.end(1), match[1].upper())
            for match in re.finditer(pattern, hidden)
            if match[1].upper() in (options or LETTERS)
        ]
    found: set[str] = set()
    for group in _lists(sorted(mentions), text):
        start, end = group[0][0], group[-1][1]
        if not _NEGATION.search(text[max(0, start - 60) : start]) and not _REJECTION.match(text[end : end + 60]):
            found |= {letter for _, _, letter in group}
    return found


def _lists(mentions: list[Mention], text: str) -> list[list[Mention]]:
    """Mentions in groups that share a negation: "B, C and D"; without a conjunction each stands alone."""
    groups: list[list[Mention]] = []
    for mention in mentions:
        if groups and _SEPARATOR.fullmatch(text, groups[-1][-1][1], mention[0]):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    joined = [group for group in groups if _CONJUNCTION.search(text, group[0][1], group[-1][0])]
    return [part for group in groups for part in ([group] if group in joined else [[one] for one in group])]


def _is_letter(
    text: str, match: re.Match[str], options: Mapping[str, str], mentions: list[tuple[int, int, str]]
) -> bool:
    """Whether a lone capital is an option's letter, and not the article "A" or the pronoun "I"."""
    after = text[match.end() :]
    if match[1] not in "AI" or not (following := re.match(r" ([\w'\0]+)", after)):
        return True
    if following[1] in (options or LETTERS):
        return True  # "A B C"
    if following[1].startswith("\0"):
        return any(start == match.end() + 1 and letter == match[1] for start, _, letter in mentions)
    return following[1].casefold() in _AFTER_LETTER and match[1] == "A"
