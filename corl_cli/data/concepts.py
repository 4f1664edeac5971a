"""Concept coverage: how much of a question and its answer a caption names, by which a caption is chosen.

Source: the paper's section on data (arXiv 2505.17534): "for each image the prompt is the one of its original COCO
captions with the best entity coverage of the problem and solution". How entities are found it does not say; here they
are lemmas without function words and without the words of asking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

import simplemma

from corl_cli.scoring.english import NUMBERS, word_list
from corl_cli.scoring.lexicon import verb

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")

# Words that name nothing a picture could show. An article says "one" already, so it is no number here.
_FUNCTION = """
a about above across after again against all along already also although among an and another any anyone anything around
as at away back because before behind being below beneath beside between beyond both but by can cannot could despite
down due during each either else etc even ever every everyone everything except far few for from further get go got have
he hence her here hers herself him himself his how however i if in inside instead into it its itself just least less
like likely lot made make many may me might mine more most much must my myself near neither never next no nobody none
nor not nothing now of off often on once one only onto or other otherwise our out outside over own per perhaps possible
possibly probably quite rather really same seem shall she should since so some somebody someone something somewhere
still such than that the their them themselves then there therefore these they this those though through thus to
together too toward towards under until unto up upon us use very via was we well were what whatever when where whether
which while who whom whose why will with within without would yes yet you your zero d don ll m re s t ve doesn didn isn
aren wasn weren won wouldn couldn shouldn hasn haven hadn be do 1 0
"""
_ASKING = """
answer ask appear base believe call caption choice choose color colour conclude conclusion consider
correct count deduce depict describe description determine explain explanation evidence fact figure find following
give guess identify illustrate image imply indicate infer kind know letter list look mean mention name number object
option photo photograph picture present provide question reason reasonable refer scene see select show shown similar
solution sort statement step suggest tell thing think true type understand view visible way word correctly best
"""
# A word and those that mean the same of what is seen; the relation is symmetric and no more: an auto may be a car and a
# cab, a car is no cab.
_MEANINGS = [
    frozenset(line.split())
    for line in """gray grey
airplane aeroplane plane aircraft jet
bicycle bike cycle
motorcycle motorbike
car automobile auto
taxi cab
bus coach
truck lorry
train locomotive
boat ship
person human
man guy gentleman
woman lady
child kid
boy lad
girl lass
baby infant
cat kitten kitty
dog puppy pup
rabbit bunny
sofa couch
tv television
phone telephone cellphone smartphone mobile
refrigerator fridge
stove oven
toilet restroom bathroom
trouser pants
glasses eyeglass spectacle
rock stone
street road
sidewalk pavement
grass lawn
ocean sea
beach shore
food meal
donut doughnut
circle disc disk
big large huge
small little tiny
middle center centre
theater theatre
tire tyre
happy glad
smile grin
hold grasp
run jog
purple violet
red scarlet crimson""".splitlines()
]
_SYNONYMS = {
    word: frozenset().union(*(meaning for meaning in _MEANINGS if word in meaning)) - {word}
    for word in frozenset().union(*_MEANINGS)
}
_LEMMAS = {  # where the dictionary's reading is not what a caption means, or the words are not in it
    "people": "person",
    "leaves": "leaf",
    "left": "left",
    "glasses": "glasses",
    "tvs": "tv",
    "ground": "ground",
    "wound": "wound",
    "saw": "saw",
    "rose": "rose",
}


def concepts(text: str) -> frozenset[str]:
    """The distinct concepts of a text: lemmas of its words without function words and the words of asking.

    Numbers are concepts, words or digits alike, except one and zero; single letters are none, being names of options.
    """
    return frozenset(filter(None, map(_concept, _WORD.findall(text.lower()))))


def coverage(prompt: str, text: str, synonyms: bool = True) -> float:
    """The share, 0..1, of the concepts of a text that a prompt names; NaN where the text has none.

    With `synonyms` a concept is also named by a word of the same meaning (a small table).
    """
    return _share(concepts(prompt), concepts(text), synonyms)


def choose(captions: Sequence[str], text: str, synonyms: bool = True) -> tuple[int, float]:
    """The index of the caption with the best coverage of a text, and that coverage.

    Of equal ones it is the caption that names the most concepts, being the better prompt to draw from; then the first.
    ValueError without captions.
    """
    if not captions:
        raise ValueError("choose needs a caption")
    wanted = concepts(text)
    named = [concepts(caption) for caption in captions]
    shares = [_share(names, wanted, synonyms) for names in named]
    best = max(range(len(captions)), key=lambda index: (shares[index] if wanted else 0, len(named[index]), -index))
    return best, shares[best]


def _share(named: frozenset[str], wanted: frozenset[str], synonyms: bool) -> float:
    if not wanted:
        return math.nan
    found = len(wanted & named)
    if synonyms:
        found += sum(concept in _SYNONYMS and not _SYNONYMS[concept].isdisjoint(named) for concept in wanted - named)
    return found / len(wanted)


@lru_cache(maxsize=1 << 16)
def _concept(word: str) -> str:
    """The concept of a lower-case word, empty when it is none."""
    if word in _STOPPED:
        return ""
    number = str(NUMBERS.get(word, word))
    lemma = number if number[0].isdigit() else _lemma(word)
    return "" if lemma in _STOPPED or (len(lemma) == 1 and not lemma.isdigit()) else lemma


def _lemma(word: str) -> str:
    """`sitting` and `children` as `sit` and `child`; a word that is in no dictionary as it is."""
    if word in _LEMMAS:
        return _LEMMAS[word]
    base = verb(word)
    return base if base and base != word else simplemma.lemmatize(word, lang="en").lower()


_STOPPED = frozenset(word_list(_FUNCTION) + word_list(_ASKING))
