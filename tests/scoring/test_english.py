import pytest

from corl_cli.scoring.english import NUMBERS, plural, read_number, singular, with_digits


@pytest.mark.parametrize(
    ("plural", "single"),
    [
        ("crosses", "cross"),
        ("circles", "circle"),
        ("boxes", "box"),
        ("berries", "berry"),
        ("knives", "knife"),
        ("leaves", "leaf"),
        ("waves", "wave"),
        ("people", "person"),
        ("women", "woman"),
        ("firemen", "fireman"),
        ("glasses", "glasses"),
        ("bus", "bus"),
        ("glass", "glass"),
        ("this", "this"),
        ("houses", "house"),
    ],
)
def test_singular(plural, single):
    assert singular(plural) == single
    assert singular(single) == single


@pytest.mark.parametrize(
    ("single", "several"),
    [
        *(("cross", "crosses"), ("box", "boxes"), ("berry", "berries"), ("toy", "toys"), ("knife", "knives")),
        *(("person", "people"), ("fireman", "firemen"), ("glasses", "glasses"), ("dish", "dishes"), ("cat", "cats")),
    ],
)
def test_plural(single, several):
    assert plural(single) == several
    assert singular(several) == single


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("two hundred and five apples", (205, 4)),
        ("twenty one", (21, 2)),
        ("two three", (2, 1)),
        ("one thousand two hundred", (1200, 4)),
        ("hundred", (0, 0)),
        ("apples two", (0, 0)),
    ],
)
def test_read_number(words, number):
    assert read_number(words.split()) == number


@pytest.mark.parametrize("word", NUMBERS)
def test_every_number_word_reads_as_its_value(word):
    assert read_number([word]) == (NUMBERS[word], 1)
    assert with_digits(f"{word} dogs") == f"{NUMBERS[word]} dogs"
