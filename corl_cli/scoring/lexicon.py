"""The words that scene graphs are made with: relations, positions, attributes, verbs, and words of one meaning."""

from __future__ import annotations

import re
from functools import cache, lru_cache

from corl_cli.scoring.english import NUMBERS, singular, word_list

CONVERSE = {"right of": "left of", "below": "above", "behind": "in front of"}
SYMMETRIC = frozenset({"next to"})

DETERMINERS = frozenset(
    word_list(
        """
    a an the this these those some his her its their my your our another each every both all
    """
    )
)
SKIPPED = frozenset(
    word_list(
        """
    is are was were be been being am that which who whose where there here it they he she to up down out off
    as while very really so just also it's then than only image shows showing seen not
    """
    )
)

_SPATIAL = {
    "left of": "to the left of|on the left side of|on the left of|left of",
    "right of": "to the right of|on the right side of|on the right of|right of",
    "above": "up above|above|over",
    "below": "below|underneath|under|beneath",
    "on": "on top of|upon|atop|onto|on",
    "in front of": "in front of",
    "behind": "in back of|behind",
    "next to": "next to|close to|adjacent to|right beside|right by|beside|alongside|nearby|near|by",
    "in": "in the middle of|in the center of|in the centre of|inside of|inside|into|within|in",
    "with": "with|has|have|having",
}
_OTHER = word_list(
    """
    at of around between against along across through from for without toward towards outside
    """
)
_RELATIONS = {phrase: name for name, phrases in _SPATIAL.items() for phrase in phrases.split("|")}
_RELATIONS |= {word: word for word in _OTHER}

_CORNER = r"(?P<row>top|upper|bottom|lower)[- ](?P<column>left|right)(?: corner| side)?"
_SIDE = r"(?:at|in|on) the (?P<side>left|right|top|bottom|middle|center|centre|background|foreground)(?: side)?"
_PICTURE = r" of (?:the|this|an?) (?:image|picture|photo|frame|canvas)"
_MEASURES = {
    r"an? (?:couple|pair) of": "two",
    r"an? (?:group|bunch|set|lot|number|row|pile|piece) of": "some",
    r"(?:an? |the )?(?:photo|picture|image|photograph|drawing|view) (?:of|shows)": "",
}


def _position(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if side := groups.get("side"):
        return f" @{'middle' if side.startswith('cent') else side} "
    row = {"upper": "top", "lower": "bottom"}.get(groups["row"], groups["row"])
    return f" @{row}-{groups['column']} "


def mark_phrases(line: str) -> str:
    """A lower-case line with its relations written as `_left_of`, its positions as `@top-left`, measures resolved."""
    for pattern, word in _MEASURES.items():
        line = re.sub(rf"\b{pattern}\b", word, line)
    line = re.sub(rf"(?:(?:at|in|on) )?(?:the )?\b{_CORNER}\b(?:{_PICTURE})?", _position, line)
    line = re.sub(rf"\b{_SIDE}(?:{_PICTURE}|(?! of)(?!-)\b)", _position, line)
    return _relation_pattern().sub(lambda match: f" _{_RELATIONS[match[0]].replace(' ', '_')} ", line)


@cache
def _relation_pattern() -> re.Pattern[str]:
    longest_first = sorted(_RELATIONS, key=len, reverse=True)
    return re.compile(rf"(?<![\w@-])(?:{'|'.join(longest_first)})(?![\w-])")


_COLOURS = """red green blue yellow purple black white orange pink brown gray grey cyan magenta violet beige tan gold
silver golden maroon turquoise teal scarlet crimson"""
_QUALITIES = """big small large little tiny huge tall short long wide narrow thick thin giant old young new modern
wooden metal plastic glass stone brick leather concrete paper round rectangular triangular circular striped spotted
dark light bright colorful colourful empty full open closed wet dry dirty clean hot cold fresh happy sad beautiful
pretty cute furry fluffy snowy grassy sandy rocky busy several many few multiple various different other same"""
ADJECTIVES = frozenset((*_COLOURS.split(), *_QUALITIES.split()))


def is_attribute(word: str) -> bool:
    """Whether a word on its own describes a thing instead of naming one."""
    return word in ADJECTIVES or word in NUMBERS or word.isdecimal()


def attribute(word: str) -> str:
    """An attribute in its usual spelling: small numbers as words."""
    return _WORDS_OF.get(word, word)


_WORDS_OF = {str(value): word for word, value in NUMBERS.items()}

_BASES = word_list(
    """
    sit stand ride hold play walk eat look fly lie wear carry run hang rest drink read jump lean swim sleep
    talk cut pull push throw catch hit kick surf ski skate drive wait watch use cook serve lay smile graze
    perch float travel chase reach feed brush face point cross
    """
)
_PARTICIPLES = word_list(
    """
    parked seated covered filled topped surrounded decorated dressed painted mounted located made loaded
    attached stacked placed
    """
)
_NOT_VERBS = frozenset(
    word_list(
        """
    building ceiling painting clothing string ring king wing railing awning morning evening thing something
    anything nothing everything wedding pudding sling earring stocking swing spring siding topping icing
    """
    )
)


def _gerund(base: str) -> str:
    if base.endswith("ie"):
        return f"{base[:-2]}ying"
    if base.endswith("e"):
        return f"{base[:-1]}ing"
    doubled = base in ("sit", "run", "swim", "cut", "hit")
    return f"{base}{base[-1] if doubled else ''}ing"


def _third_person(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeiou":
        return f"{base[:-1]}ies"
    return f"{base}es" if base.endswith(("ch", "sh", "ss")) else f"{base}s"


# "crosses" and the like are shapes here, never verbs
_VERBS = {form: base for base in _BASES for form in (_gerund(base), _third_person(base)) if form != "crosses"}
_VERBS |= {word: word for word in _PARTICIPLES}


def verb(word: str) -> str | None:
    """The base of a verb's form, or None: known forms, and unknown words in -ing."""
    if word in _VERBS:
        return _VERBS[word]
    return word if len(word) > 5 and word.endswith("ing") and word not in _NOT_VERBS else None


# Not transitive: a picture may be a photo or a movie, a photo is no movie.
_MEANINGS = [
    frozenset(line.split())
    for line in """photo photograph picture
movie film picture
painting picture
image picture
red scarlet crimson
gray grey
purple violet
circle disc disk
bike bicycle
motorbike motorcycle
car automobile auto
taxi cab
plane airplane aeroplane aircraft
sofa couch
tv television
boy lad
kid child
rabbit bunny
big large
small little
colorful colourful
rock stone
refrigerator fridge
cellphone phone telephone
mobile cellphone
trousers pants
street road
hot-dog hotdog frankfurter
middle center centre""".splitlines()
]


@lru_cache(maxsize=1 << 14)
def same_meaning(word: str, other: str) -> bool:
    """Whether two words are one word in number, case and spelling of numbers, or share a meaning of the table."""
    word, other = _base(word), _base(other)
    return word == other or any(word in meaning and other in meaning for meaning in _MEANINGS)


@lru_cache(maxsize=1 << 14)
def _base(word: str) -> str:
    return singular(attribute(word.lower()))
