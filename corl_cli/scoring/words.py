"""Whether two short open-ended answers say the same."""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

from corl_cli.scoring.dates import read_date, read_time
from corl_cli.scoring.english import MAX_WORDS, ORDINALS, read_number, singular, word_list
from corl_cli.scoring.notation import EDGES, clean, plain, strip
from corl_cli.scoring.quantities import (
    NUMBER,
    read_quantity,
    read_unit,
    read_value,
    same_quantity,
    same_unit,
    split_unit,
)
from corl_cli.scoring.symbolic import same_expression

_LEAD = re.compile(
    r"^(?:(?:so |thus |therefore )?,?(?:the )?(?:final |correct )?"
    r"(?:answer|equation|expression|value|result)(?: is|:|=) ?:?"
    r"|(?:it|he|she|they|there|this|that)(?:'?s|'re| is| are) |(?:[a-z](?:\([a-z]\))?)? ?= ?)+"
)
_UNKNOWN = re.compile(r"([a-z]) ?= ?")
_REASON = re.compile(r",?\s(?:because|since)\s")
_ASIDE = re.compile(rf"{_REASON.pattern}|(?<=\w),?\s(?:rather than|instead of)\s|(?<=\w),\s(?:and\s)?not\s")
_ARTICLES = frozenset(("a", "an", "the"))
_FILLERS = frozenset(
    word_list(
        """
    a an the it is it's its this that there are was were be they he she in on at of to i think image picture
    photo answer final so have has see can side
    """
    )
)
_FEW = frozenset(("the", "it", "is"))
_DIRECTIONS = frozenset(("off", "out", "up", "down"))
_HEDGES = frozenset(
    word_list(
        """
    or and not no nor neither either maybe perhaps possibly but never none without than vs
    """
    )
)
_SPELLINGS = {
    "gray": "grey",
    "color": "colour",
    "center": "centre",
    "theater": "theatre",
    "meter": "metre",
    "tire": "tyre",
    "donut": "doughnut",
    "airplane": "aeroplane",
    "jewelry": "jewellery",
    "yoghurt": "yogurt",
    "mustache": "moustache",
    "pajamas": "pyjamas",
    "aluminum": "aluminium",
    "flavor": "flavour",
    "favorite": "favourite",
    "neighbor": "neighbour",
    "harbor": "harbour",
    "plow": "plough",
    "fiber": "fibre",
}
_ALIKE = 0.8  # similarity from which two words count as nearly one
_LONG_WORD = 40  # a longer word is like no other; bounds the work

_YES_NO = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no"}


def same_answer(question: str, gold: str, answer: str) -> tuple[bool, str]:
    """Whether an open-ended answer says what `gold` says, and the rule that decided.

    Beyond equal words, an answer may repeat words of the question and short function words, so a hedge, a list or a
    negation is wrong: every word besides the gold ones would have to be no rival of theirs.
    """
    question = clean(question)
    wanted, said = plain(gold), plain(answer)
    if not wanted or not said:
        return False, "empty answer"
    if wanted in ("yes", "no") and (polarity := _polarity(_REASON.split(said)[0])):
        return polarity == wanted, "yes or no"
    said = strip(_ASIDE.split(said)[0]) or said
    equations = wanted, said
    wanted, bare = equations if _of_different_unknowns(*equations) else (_bare(wanted), _bare(said))
    if _compact(wanted) in (_compact(said), _compact(bare)):
        return True, "same words"
    if wanted[0] in "([" and "," in wanted:
        return _same_tuple(wanted, bare), "same tuple"
    for kind, read in (("date", read_date), ("time", read_time)):
        if (one := read(wanted)) and (other := read(bare)):
            return one == other, f"same {kind}"
    quantities = read_quantity(wanted), read_quantity(bare)
    if quantities[0] and quantities[1]:
        return same_quantity(quantities[0], quantities[1], question), "same quantity"
    if any(_same_list(*texts) for texts in ((wanted, bare), equations)):
        return True, "same list"
    if any(_same_words(question, *texts) for texts in ((wanted, said), (wanted, bare), (bare, wanted))):
        return True, "same words"
    return _same_mathematics(question, *(equations if all("=" in text for text in equations) else (wanted, bare)))


def gist(text: str) -> str:
    """A short answer in normal form, without articles: "Two grey cats." and "the 2 gray cats" alike; case is ignored.

    By it answers can be hashed. `same_answer` accepts more, for it knows the question.
    """
    return " ".join(_content(_words(plain(text)))) or plain(text)


def _of_different_unknowns(wanted: str, said: str) -> bool:
    """Whether both texts begin with "x =", of two letters."""
    ours, theirs = _UNKNOWN.match(wanted), _UNKNOWN.match(said)
    return bool(ours and theirs and ours[1] != theirs[1])


def overlap(gold: str, answer: str) -> float:
    """The soft Jaccard index I / (|A| + |B| - I) of the sets of words of two short texts, in 0..1.

    Words are lower-case and without punctuation around them. I counts 1 for a word of both texts; the others are paired
    one to one, the most similar first, and a pair counts its similarity (difflib's ratio 2 M / T) where that is 0.8 or
    more. Source: the paper's public code, whose pairs depend on the order of a set; here they do not.
    """
    ours, theirs = ({word.strip(EDGES) for word in plain(text).split()} - {""} for text in (gold, answer))
    shared = len(ours & theirs) + sum(_similar_pairs(sorted(ours - theirs), sorted(theirs - ours)))
    return shared / (len(ours) + len(theirs) - shared) if ours and theirs else 0.0


def _similar_pairs(ours: list[str], theirs: list[str]) -> list[float]:
    """The similarities of words paired one to one, the most similar first."""
    candidates = sorted(
        (-SequenceMatcher(None, one, other).ratio(), one, other)
        for one in ours
        for other in theirs
        if max(len(one), len(other)) <= _LONG_WORD and min(len(one), len(other)) >= _ALIKE / 2 * len(one + other)
    )
    paired: set[tuple[str, str]] = set()
    similarities = []
    for ratio, one, other in candidates:
        if -ratio >= _ALIKE and ("gold", one) not in paired and ("answer", other) not in paired:
            paired |= {("gold", one), ("answer", other)}
            similarities.append(-ratio)
    return similarities


def _bare(text: str) -> str:
    """Without "the answer is", "it is", "x ="."""
    return strip(_LEAD.sub("", text, count=1)) or text


def _compact(text: str) -> str:
    """Without the white space that touches punctuation or operators."""
    return re.sub(r"\s*([^\w\s])\s*", r"\1", text)


def _polarity(answer: str) -> str | None:
    """What an answer that begins with yes or no says; "both" when it takes that back."""
    first, *rest = re.findall(r"[\w']+|/", answer) or [""]
    said = _YES_NO.get(first)
    if said is None:
        return None
    doubts = {"or", "/", "maybe", "perhaps", *(word for word, meaning in _YES_NO.items() if meaning != said)}
    doubts |= {"not"} if said == "yes" else {"idea", "clue"}
    return "both" if any(word in doubts or (said == "yes" and word.endswith("n't")) for word in rest) else said


def _same_mathematics(question: str, wanted: str, said: str) -> tuple[bool, str]:
    """Whether two expressions with or without a unit are the same, and the rule; words were compared before."""
    ours, theirs = split_unit(wanted) or (wanted, ""), split_unit(said) or (said, "")
    verdict = same_expression(ours[0], theirs[0])
    if verdict is None:
        return False, "same words"
    return verdict[0] and same_unit(ours[1], theirs[1], question), verdict[1]


def _same_tuple(wanted: str, said: str) -> bool:
    if (wanted[0], wanted[-1]) != (said[0], said[-1]):
        return False
    ours, theirs = wanted[1:-1].split(","), said[1:-1].split(",")
    return len(ours) == len(theirs) and all(
        _same_part(one.strip(), other.strip()) for one, other in zip(ours, theirs, strict=True)
    )


def _same_part(one: str, other: str) -> bool:
    value = read_value(one)
    if one == other or (value is not None and value == read_value(other)):
        return True
    return same_expression(one, other) == (True, "same expression")


def _same_list(wanted: str, said: str) -> bool:
    """Whether two enumerations have the same items in any order."""
    parts = _parts(wanted)
    return bool(parts) and sorted(parts) == sorted(_parts(said))


def _parts(text: str) -> list[str]:
    """The items of an enumeration or a set, each in normal form; empty when the text is none."""
    if text[0] + text[-1] == "{}":
        text = text[1:-1].replace(",", ", ")
    if re.search(r"[()\[\]/]| not ", text):
        return []
    items = [item for item in re.split(r"\s*(?:,\s+(?:(?:and|or)\s+)?|;\s*|&|\s+(?:and|or)\s+)\s*", text) if item]
    kind = ["or"] if " or " in text else []
    return [" ".join(_content(_words(item))) for item in items] + kind if len(items) > 1 else []


def _same_words(question: str, wanted: str, said: str) -> bool:
    gold, answer, asked = _words(wanted), _words(said), frozenset(_words(question))
    if set(gold) <= _FILLERS | _DIRECTIONS:  # "A", "on", "it": what fills elsewhere is a rival here
        allowed = _FEW if "or" in asked else _FEW | asked
        return answer[-len(gold) :] == gold and all(_is_filler(word, allowed) for word in answer[: -len(gold)])
    gold, answer = _content(gold), _content(answer)
    if gold == answer or ("".join(gold) == "".join(answer) and "".join(gold).isalpha()):
        return True
    allowed = _FILLERS if "or" in asked or asked & set(gold) else _FILLERS | asked
    spans = range(len(answer) - len(gold) + 1)
    return any(
        answer[start : start + len(gold)] == gold
        and all(_is_filler(word, allowed) for word in answer[:start] + answer[start + len(gold) :])
        and (start + len(gold) == len(answer) or answer[-1] not in _ARTICLES)  # "Vitamin A" is not vitamin
        for start in spans
    )


def _is_filler(word: str, allowed: frozenset[str]) -> bool:
    return word in allowed and word not in _HEDGES and not word.startswith("#")


def _content(words: list[str]) -> list[str]:
    """Without articles; a last word is none ("Vitamin A")."""
    return [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]


def _words(text: str) -> list[str]:
    """Words in normal form: singular, one spelling, no accents; numbers as #value, their units by name."""
    text = _SIDE.sub(r"\1", text)
    chunks = [piece for chunk in text.split() for piece in _pieces(chunk.strip(EDGES + "()[]{}"))]
    words: list[str] = []
    position = 0
    while position < len(chunks):
        value, used = read_number(chunks[position : position + MAX_WORDS])
        if used:
            words.append(f"#{value}")
        else:
            used = 1
            words.append(_word(chunks[position], after_number=bool(words) and words[-1].startswith("#")))
        position += used
    return words


_SIDE = re.compile(r"\b(left|right)(?:-hand)? (?:side|one)\b")
_ACRONYM = re.compile(r"(?:[a-z]\.)+[a-z]?")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_QUANTITY = re.compile(rf"([$€£¥]?)(-?(?:{NUMBER})(?:/\d+)?)([a-z°%$€£¥]*)")


def _pieces(chunk: str) -> list[str]:
    """A chunk between spaces, split where numbers meet units, and words meet hyphens and slashes."""
    if match := _QUANTITY.fullmatch(chunk):
        currency, number, unit = match.groups()
        if (value := read_value(number)) and (not unit or read_unit(unit)):
            return [f"#{value.coefficient}", *filter(None, (unit, currency))]
    if _ACRONYM.fullmatch(chunk):
        return [chunk.replace(".", "")]
    if re.fullmatch(r"[^\W\d]+(?:-[^\W\d]+)+", chunk):
        return chunk.split("-")
    if re.fullmatch(r"[^\W\d][\w']*(?:/[\w']+)+", chunk):
        return re.split(r"(/)", chunk)
    return [chunk] if chunk else []


def _word(word: str, *, after_number: bool) -> str:
    if after_number and (unit := read_unit(word)):
        return unit
    if ordinal := ORDINALS.get(word) or ((match := _ORDINAL.fullmatch(word)) and match[1]):
        return f"{ordinal}th"
    bare = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c)).removesuffix("'s")
    return _SPELLINGS.get(singular(bare), singular(bare)) if bare else word
