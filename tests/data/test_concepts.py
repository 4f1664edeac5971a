import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.data.concepts import _MEANINGS, choose, concepts, coverage

WORDS = st.lists(
    st.sampled_from(("man", "men", "dogs", "bike", "bicycle", "riding", "a", "the", "two", "2", "what", "left", "red")),
    max_size=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the man riding on?", {"man", "ride"}),
        ("Two dogs and 3 cats", {"2", "dog", "3", "cat"}),
        ("one dog, a cat, zero birds", {"dog", "cat", "bird"}),  # an article says "one" already
        ("The children's T-shirts are left of the leaves.", {"child", "shirt", "left", "leaf"}),
        ("Which of these pictures shows the answer: (A) or (B)?", set()),
        ("people sitting, stood, played", {"person", "sit", "stand", "play"}),
        ("1,200 kg or 3.5 kg", {"1,200", "kg", "3.5"}),
        ("", set()),
    ],
)
def test_concepts_are_lemmas_of_content_words(text: str, expected: set[str]) -> None:
    assert concepts(text) == expected


def test_coverage_by_hand() -> None:
    text = "What is the man in the water riding on?\nsurfboard"  # man, water, ride, surfboard
    assert coverage("A man riding a wave on top of a surfboard.", text) == 3 / 4
    assert coverage("Two zebras graze", text) == 0
    assert coverage("A surfer", text) == 0
    assert coverage("", text) == 0
    assert math.isnan(coverage("A man", "What is this? yes"))


def test_synonyms_name_a_concept_where_they_are_wanted() -> None:
    assert coverage("a bike on the pavement", "Is the bicycle on the sidewalk?") == 1
    assert coverage("a bike on the pavement", "Is the bicycle on the sidewalk?", synonyms=False) == 0
    assert coverage("a gray cab", "grey car") == 1 / 2  # an auto may be either, but a car is no cab


def test_words_of_one_meaning_are_written_as_concepts() -> None:
    assert [word for meaning in _MEANINGS for word in meaning if concepts(word) != {word}] == []


def test_the_caption_that_covers_most_is_chosen() -> None:
    text = "What is the dog chasing? ball"  # dog, chase, ball
    assert choose(["A dog outside", "A dog chases a ball", "A ball"], text) == (1, 1.0)


def test_ties_go_to_the_caption_that_names_most_then_to_the_first() -> None:
    captions = ["the dog runs", "a brown dog near a tree", "a white dog under a tree"]
    assert choose(captions, "dog, cat") == (1, 1 / 2)
    index, share = choose(captions, "What is this?")
    assert index == 1
    assert math.isnan(share)
    with pytest.raises(ValueError, match="needs a caption"):
        choose([], "dog")


@given(WORDS, WORDS, st.booleans())
def test_coverage_is_a_share_that_no_order_changes_and_no_word_lowers(
    prompt: list[str], text: list[str], synonyms: bool
) -> None:
    share = coverage(" ".join(prompt), " ".join(text), synonyms)
    if not concepts(" ".join(text)):
        assert math.isnan(share)
        return
    assert 0 <= share <= 1
    assert coverage(" ".join(reversed(prompt)), " ".join(reversed(text)), synonyms) == share
    assert coverage(" ".join([*prompt, "dogs"]), " ".join(text), synonyms) >= share
    assert coverage(" ".join(text), " ".join(text), synonyms) == 1


@given(st.text(), st.text(max_size=30))
def test_any_text_has_a_coverage(prompt: str, text: str) -> None:
    share = coverage(prompt, text)
    assert math.isnan(share) or 0 <= share <= 1
