from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.scoring.quantities import Value, read_quantity, read_value, same_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000.50", Value(Fraction(2001, 2))),
        ("-3/6", Value(Fraction(-1, 2))),
        ("1 1/2", Value(Fraction(3, 2))),
        ("2π/3", Value(Fraction(2, 3), power=1)),
        ("√8", Value(Fraction(2), 2)),
        ("1/√2", Value(Fraction(1, 2), 2)),
        ("√(1/2)", Value(Fraction(1, 2), 2)),
        ("2^(-1)", Value(Fraction(1, 2))),
        ("3*10^8", Value(Fraction(300_000_000))),
        ("0*π", Value(Fraction(0))),
    ],
)
def test_reads_exact_values(text, value):
    assert read_value(text) == value


@pytest.mark.parametrize(
    "text", ["9^9^9", "9^(9^9)", "10^99", "1/0", "7" * 31, "2 3", "1,2", "2+", "", "(1", "√(0-1)", "(" * 5000]
)
def test_leaves_the_rest_unread(text):
    assert read_value(text) is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5cm", "centimeter"),
        ("$5", "dollar"),
        ("five dollars", "dollar"),
        ("25 °c", "celsius"),
        ("6 feet", "foot"),
        ("50 percent", "percent"),
        ("5 cm^2", "centimeter^2"),
        ("60 km/h", "kilometer/hour"),
        ("5", ""),
    ],
)
def test_reads_units(text, unit):
    quantity = read_quantity(text)
    assert quantity is not None
    assert quantity.unit == unit


@pytest.mark.parametrize(
    ("gold", "answer", "question", "same"),
    [
        ("5 cm", "5", "how long in cm?", True),
        ("5 cm", "5", "how long?", False),
        ("5 in", "5", "what is in it?", False),
        ("50%", "50", "what percentage?", True),
        ("50", "50%", "how many?", False),
        ("50%", "0.5", "how likely?", True),
        ("$5", "5", "what does it cost?", True),
        ("5 kg", "5 g", "how many kg?", False),
    ],
)
def test_units_may_be_left_out_where_the_question_fixes_them(gold, answer, question, same):
    quantities = read_quantity(gold), read_quantity(answer)
    assert quantities[0] is not None
    assert quantities[1] is not None
    assert same_quantity(*quantities, question) == same


@given(st.fractions(max_denominator=999).filter(lambda x: abs(x) < 10**9))
def test_fractions_come_back(fraction):
    assert read_value(str(fraction)) == Value(fraction)


@given(st.text(alphabet="0123456789.,+-*/^()√π ", max_size=80))
def test_any_expression_is_read_or_left(text):
    value = read_value(text)
    assert value is None or abs(value.coefficient) <= 10**30
