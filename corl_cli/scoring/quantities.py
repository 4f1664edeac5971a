"""Exact quantities: numbers, fractions, powers, roots and multiples of pi, with a unit. Nothing large is computed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt

from corl_cli.scoring.english import read_number, singular, word_list

MAX_CHARS = 80  # of an expression
MAX_DIGITS = 30  # of any number read or made
MAX_EXPONENT = 30

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*({NUMBER}|[-+*/^()√π])")
_MIXED = re.compile(r"(-?)(\d{1,9}) (\d{1,9})/(\d{1,9})")
_SPLIT = re.compile(r"([$€£¥]?)\s*((?:[-+]\s*)?[\d.(√π][\d.,\s()√π^*/+-]*?)\s*([a-z°%$€£¥][a-z°%/ ^\d]*)?\.?")

_UNITS = {
    "percent": "% percent percentage pct",
    "degree": "° degree deg",
    "dollar": "$ dollar usd buck",
    "euro": "€ euro eur",
    "pound sterling": "£ gbp",
    "yen": "¥ yen",
    "cent": "cent",
    "millimeter": "mm millimeter millimetre",
    "centimeter": "cm centimeter centimetre",
    "meter": "m meter metre",
    "kilometer": "km kilometer kilometre",
    "inch": "in inch",
    "foot": "ft foot",
    "yard": "yd yard",
    "mile": "mi mile",
    "milligram": "mg milligram",
    "gram": "g gram",
    "kilogram": "kg kilogram kilo",
    "pound": "lb lbs pound",
    "ounce": "oz ounce",
    "milliliter": "ml milliliter millilitre",
    "liter": "l liter litre",
    "second": "s sec second",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year yearsold yearold",
    "celsius": "°c celsius degreescelsius degreecelsius",
    "fahrenheit": "°f fahrenheit degreesfahrenheit degreefahrenheit",
    "mile/hour": "mph",
    "kilometer/hour": "kmh kph",
    "unit": "unit",
}
_UNIT_OF = {alias: unit for unit, aliases in _UNITS.items() for alias in aliases.split()}
_SQUARES = re.compile(r"(?:square|sq\.?) (\w+)|(\w+) ?(?:\^2|squared)")
_RATE = re.compile(r"([a-z ]{1,20}?) ?(?:/| per ) ?([a-z]{1,20})")
_CUBES = re.compile(r"cubic (\w+)|(\w+) ?(?:\^3|cubed)")
_MONEY = frozenset(
    word_list(
        """
    $ € £ ¥ cost price pay paid money much worth spend spent dollar earn
    """
    )
)
_SETTINGS = {  # words of a question that fix the unit of its answer
    "percent": frozenset(["%", "percent", "percentage"]),
    "degree": frozenset(["°", "degree", "angle"]),
    "year": frozenset(["old", "age"]),
    **dict.fromkeys(("dollar", "euro", "pound sterling", "yen"), _MONEY),
}


@dataclass(frozen=True)
class Value:
    """coefficient * sqrt(radicand) * pi ** power; the radicand is square-free."""

    coefficient: Fraction
    radicand: int = 1
    power: int = 0


@dataclass(frozen=True)
class Quantity:
    """A value with its unit; an empty unit is a plain number."""

    value: Value
    unit: str = ""


class _Unreadable(Exception):
    pass


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a cleaned, lower-case text is, from start to end; None for anything else."""
    if not (parts := split_unit(_spell_out(text.strip()))):
        return None
    value = read_value(parts[0])
    return Quantity(value, parts[1]) if value else None


def split_unit(text: str) -> tuple[str, str] | None:
    """The numeric expression and the unit (empty for none) that a cleaned text is made of; None for anything else."""
    if len(text) > MAX_CHARS or not (match := _SPLIT.fullmatch(text)):
        return None
    currency, expression, name = match.groups()
    unit = read_unit(name or "") if name else ""
    if unit is None or (currency and unit):
        return None
    return expression, unit or (currency and _UNIT_OF[currency])


def same_unit(gold: str, answer: str, question: str) -> bool:
    """Whether two units agree: they are one, or one is left out and the question fixes it."""
    return gold == answer or (not (gold and answer) and _fixes(question, gold or answer))


def same_quantity(gold: Quantity, answer: Quantity, question: str) -> bool:
    """Whether two quantities are equal; a unit may be left out where the question fixes it.

    A percentage equals its value (50 % is 0.5), and a bare 50 only when the question asks for a percentage.
    """
    if gold.value == answer.value:
        return same_unit(gold.unit, answer.unit, question)
    with_unit, bare = (gold, answer) if gold.unit else (answer, gold)
    share = Value(with_unit.value.coefficient / 100, with_unit.value.radicand, with_unit.value.power)
    return with_unit.unit == "percent" and not bare.unit and share == bare.value


def read_unit(name: str) -> str | None:
    """The unit that a word or symbol names, as square, cube or rate too; None when it names none."""
    name = name.strip().rstrip(".")
    for pattern, power in ((_SQUARES, "^2"), (_CUBES, "^3")):
        if match := pattern.fullmatch(name):
            base = _base_unit(match[1] or match[2])
            return base and base + power
    if match := _RATE.fullmatch(name):
        over, under = _base_unit(match[1]), _base_unit(match[2])
        return f"{over}/{under}" if over and under else None
    return _base_unit(name)


def _base_unit(name: str) -> str | None:
    return _UNIT_OF.get(name) or _UNIT_OF.get(singular(name)) or _UNIT_OF.get(name.replace(" ", ""))


def read_value(text: str) -> Value | None:
    """The value of an expression of numbers, + - signs, * / ^, parentheses, √ and π; None when it is none, or large."""
    if len(text) > MAX_CHARS:
        return None
    text = text.strip()
    if mixed := _MIXED.fullmatch(text):
        sign, whole, over, under = mixed.groups()
        if not int(under):
            return None
        total = int(whole) + Fraction(int(over), int(under))
        return Value(-total if sign else total)
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            return None
        tokens.append(match[1])
        position = match.end()
    try:
        return _Parser(tokens).parse()
    except (_Unreadable, ZeroDivisionError):
        return None


class _Parser:
    """Recursive descent; the input's length bounds its depth."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    def parse(self) -> Value:
        value = self._product()
        if self.position != len(self.tokens):
            raise _Unreadable
        return value

    @property
    def _next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next
        self.position += 1
        return token

    def _product(self) -> Value:
        value = self._signed()
        while self._next in ("*", "/") or self._next in ("(", "√", "π"):
            if self._next == "/":
                self._take()
                value = _times(value, _inverse(self._power()))
            else:
                if self._next == "*":
                    self._take()
                value = _times(value, self._power())
        return value

    def _signed(self) -> Value:
        if self._next in ("-", "+"):
            sign = -1 if self._take() == "-" else 1
            return _times(Value(Fraction(sign)), self._power())
        return self._power()

    def _power(self) -> Value:
        base = self._atom()
        if self._next != "^":
            return base
        self._take()
        exponent = self._signed() if self._next != "(" else self._atom()
        if self._next == "^":
            raise _Unreadable  # a tower
        return _raised(base, exponent)

    def _atom(self) -> Value:
        token = self._take()
        if token == "(":
            value = self._product()
            if self._take() != ")":
                raise _Unreadable
            return value
        if token == "√":
            return _root(self._atom())
        if token == "π":
            return Value(Fraction(1), power=1)
        if token and (token[0].isdigit() or token[0] == ".") and len(token) <= MAX_DIGITS:
            return Value(Fraction(token.replace(",", "")))
        raise _Unreadable


def _times(one: Value, other: Value) -> Value:
    coefficient, radicand = _simplified(one.coefficient * other.coefficient, one.radicand * other.radicand)
    return _checked(Value(coefficient, radicand, one.power + other.power))


def _inverse(value: Value) -> Value:
    return _checked(Value(1 / (value.coefficient * value.radicand), value.radicand, -value.power))


def _raised(base: Value, exponent: Value) -> Value:
    times = exponent.coefficient
    if times.denominator != 1 or abs(times) > MAX_EXPONENT or exponent.radicand != 1 or exponent.power:
        raise _Unreadable
    result = Value(Fraction(1))
    for _ in range(abs(int(times))):
        result = _times(result, base)
    return _inverse(result) if times < 0 else result


def _root(value: Value) -> Value:
    number = value.coefficient
    if value.radicand != 1 or value.power or number < 0:
        raise _Unreadable
    # sqrt(p / q) = sqrt(p q) / q
    coefficient, radicand = _simplified(Fraction(1, number.denominator), number.numerator * number.denominator)
    return _checked(Value(coefficient, radicand))


def _simplified(coefficient: Fraction, radicand: int) -> tuple[Fraction, int]:
    """Take square factors out of the root."""
    if radicand > 10**6:
        whole = isqrt(radicand)
        if whole * whole != radicand:
            raise _Unreadable
        return coefficient * whole, 1
    factor = next((root for root in range(isqrt(radicand), 1, -1) if radicand % root**2 == 0), 1)
    coefficient, radicand = coefficient * factor, radicand // factor**2
    return (coefficient, radicand) if coefficient and radicand else (Fraction(0), 1)


def _checked(value: Value) -> Value:
    limit = 10**MAX_DIGITS
    if abs(value.coefficient.numerator) > limit or value.coefficient.denominator > limit:
        raise _Unreadable
    return value if value.coefficient else Value(Fraction(0))


def _fixes(question: str, unit: str) -> bool:
    if unit.startswith("unit"):
        return True  # "6 units" says no more than 6
    asked = re.findall(r"[a-z]+(?:/[a-z]+)?|[°%$€£¥]", question.lower())
    setting = _SETTINGS.get(unit, frozenset())
    return any(word in setting or singular(word) in setting or _names(word, unit) for word in asked)


def _names(word: str, unit: str) -> bool:
    """Whether a word of a question names the unit; "in" there is the preposition."""
    return word != "in" and read_unit(word) == unit.removesuffix("^2").removesuffix("^3")


_SCALES = {"thousand": 3, "million": 6, "billion": 9}
_SCALED = re.compile(rf"(?<=\d) ?({'|'.join(_SCALES)})\b")


def _spell_out(text: str) -> str:
    """Number words to digits at the start of a text: "minus twenty-one cm" to "-21 cm"."""
    text = _SCALED.sub(lambda match: f"*10^{_SCALES[match[1]]}", text)
    words = text.replace("-", " - ").split()
    negative = bool(words) and words[0] in ("minus", "negative")
    words = words[negative:]
    value, used = read_number([word for word in words if word != "-"])
    if used:
        rest = [word for word in words if word != "-"][used:]
        return " ".join([f"{'-' if negative else ''}{value}", *rest])
    return re.sub(r"^(?:minus|negative) ", "-", text)
