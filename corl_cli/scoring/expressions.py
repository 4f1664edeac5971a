"""Mathematical expressions as trees, read from model text by a grammar of our own: nothing of it is ever evaluated.

A tree is a list whose first item names it: ["number", "1/2"], ["symbol", "x"], ["π"], ["√", a], ["+", a, b],
["sin", a], ["=", a, b], ["<", a, b] and so on ("a > b" is "b < a"). What is long, deep, or large when its powers are
written out, is not read.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from corl_cli.scoring.english import word_list
from corl_cli.scoring.quantities import MAX_DIGITS, MAX_EXPONENT, NUMBER, read_unit

Tree = list[Any]

MAX_CHARS = 200
MAX_DEPTH = 20  # of parentheses, roots and functions inside each other
MAX_WEIGHT = 200  # numbers and symbols, were all powers written out as products

FUNCTIONS = frozenset(
    word_list(
        """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp abs
    """
    )
)
_GREEK = dict(
    zip(
        word_list(
            """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi psi
    omega infty
    """
        ),
        "αβγδεζηθικλμνξορστυφχψω∞",
        strict=True,
    )
)
_TOKEN = re.compile(
    rf"\s*(?:({NUMBER})|\\?({'|'.join(sorted(FUNCTIONS, key=len, reverse=True))})(?![a-z])|\\([a-z]+)"
    r"|([a-zα-ω∞](?:_(?:\w|\{\w{1,3}\}))?)|([-+*/^()=<>≤≥√π]))"
)
_MIRRORED = {"=": "=", "<": ">", "≤": "≥", ">": "<", "≥": "≤"}
_RUN = re.compile(r"(?<![a-z\\_{])[a-z]{2,}")


class _Unreadable(Exception):
    pass


def read_expression(text: str) -> Tree | None:
    """The tree of a cleaned, lower-case text that is all expression, equation or inequality; else None."""
    if len(text) > MAX_CHARS or not all(_is_product(text, run) for run in _RUN.finditer(text)):
        return None
    try:
        tree = _Parser(_tokens(text)).parse()
    except (_Unreadable, ZeroDivisionError):
        return None
    return tree if _weight(tree) <= MAX_WEIGHT else None


def is_sum_of_numbers(tree: Tree) -> bool:
    """Whether a tree adds or subtracts plain numbers: a score of 3-2 or a span of years, and no mathematics."""
    return _is_numeric(tree) and _adds(tree)


def _is_numeric(tree: Tree) -> bool:
    return tree[0] == "number" or (tree[0] in ("+", "-", "*", "/", "^") and all(map(_is_numeric, tree[1:])))


def _adds(tree: Tree) -> bool:
    return tree[0] in ("+", "-") or any(_adds(branch) for branch in tree[1:] if isinstance(branch, list))


def is_atom(tree: Tree) -> bool:
    """Whether a tree is a lone number or symbol."""
    return tree[0] in ("number", "symbol", "π")


def _is_product(text: str, run: re.Match[str]) -> bool:
    """Whether a run of letters may stand in mathematics: a function, symbols after a number ("2xy"),
    or two of them in a formula ("y = mx + b"); no word."""
    after_number = run.start() > 0 and text[run.start() - 1].isdigit()
    if run[0] in FUNCTIONS or (after_number and len(run[0]) <= 3 and read_unit(run[0]) is None):
        return True
    return len(run[0]) == 2 and any(operator in text for operator in "+*/^=")


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of every token; the kinds are number, function, symbol, and the operators themselves."""
    tokens, position = [], 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise _Unreadable
        number, function, name, letter, operator = match.groups()
        if name and name not in _GREEK:
            raise _Unreadable
        if number:
            tokens.append(("number", number.replace(",", "")))
        elif operator:
            tokens.append((operator, operator))
        else:
            tokens.append(("function", function) if function else ("symbol", _GREEK.get(name, letter)))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent with a bounded depth."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    def parse(self) -> Tree:
        tree = self._sum()
        if self._next in _MIRRORED:
            relation, other = self._take()[0], self._sum()
            tree = [relation, tree, other] if relation in "=<≤" else [_MIRRORED[relation], other, tree]
        if self._next:
            raise _Unreadable
        return tree

    @property
    def _next(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def _take(self) -> tuple[str, str]:
        if not self._next:
            raise _Unreadable
        self.position += 1
        return self.tokens[self.position - 1]

    def _sum(self) -> Tree:
        tree = self._product()
        while self._next in ("+", "-"):
            sign = self._take()[0]
            tree = [sign, tree, self._product()]
        return tree

    def _product(self) -> Tree:
        if self._next in ("+", "-"):
            return ["*", ["number", f"{self._take()[0]}1"], self._product()]
        tree = self._power()
        while self._next in ("*", "/", "(", "√", "π", "symbol", "function"):
            sign = self._take()[0] if self._next in ("*", "/") else "*"
            tree = [sign, tree, self._power()]
        return tree

    def _power(self) -> Tree:
        return self._raised(self._atom())

    def _raised(self, base: Tree) -> Tree:
        if self._next != "^":
            return base
        self._take()
        exponent = self._exponent()
        if self._next == "^":
            raise _Unreadable  # a tower
        return ["^", base, exponent]

    def _exponent(self) -> Tree:
        if self._next == "-":
            self._take()
            return ["*", ["number", "-1"], self._atom()]
        return self._atom()

    def _atom(self) -> Tree:
        kind, text = self._take()
        if kind == "number":
            if len(text) > MAX_DIGITS:
                raise _Unreadable
            return ["number", str(Fraction(text))]
        if kind == "symbol":
            return ["symbol", text]
        if kind == "π":
            return ["π"]
        if kind not in ("(", "√", "function"):
            raise _Unreadable
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Unreadable
        tree = self._group() if kind == "(" else ["√", self._atom()] if kind == "√" else self._function(text)
        self.depth -= 1
        return tree

    def _group(self) -> Tree:
        tree = self._sum()
        if self._take()[0] != ")":
            raise _Unreadable
        return tree

    def _function(self, name: str) -> Tree:
        """sin(2x), sin 2x, sin^2 x; an argument without parentheses ends before an operator and must not meet "/"."""
        power = None
        if self._next == "^":
            self._take()
            power = self._exponent()
        if self._next == "(":
            argument = self._atom()
        else:
            argument = self._power()
            while self._next in ("symbol", "π"):
                argument = ["*", argument, self._power()]
            if self._next in ("/", "("):
                raise _Unreadable
        tree = [name, argument]
        return tree if power is None else ["^", tree, power]


def _weight(tree: Tree) -> float:
    """How many digits and symbols a tree has when its powers are written out; infinite for an exponent too large."""
    if tree[0] == "number":
        return len(tree[1])
    if is_atom(tree):
        return 1
    weights = [_weight(branch) for branch in tree[1:]]
    if tree[0] != "^":
        return sum(weights)
    size = _size(tree[2])
    return weights[0] * max(1, size) + weights[1] if size <= MAX_EXPONENT else float("inf")


def _size(exponent: Tree) -> float:
    """An upper bound of an exponent's absolute value; symbols count 1."""
    if exponent[0] == "number":
        return abs(float(Fraction(exponent[1])))
    if is_atom(exponent):
        return 1
    sizes = [_size(branch) for branch in exponent[1:]]
    if exponent[0] in ("+", "-"):
        return sum(sizes)
    if exponent[0] == "*":
        return sizes[0] * sizes[1]
    if exponent[0] == "/" and exponent[2][0] == "number":
        return sizes[0] / sizes[1] if sizes[1] else float("inf")
    return sizes[0] if len(sizes) == 1 else float("inf")
