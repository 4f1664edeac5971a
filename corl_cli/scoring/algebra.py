"""A program, run by scoring/symbolic.py: one line of JSON with two expression trees in, one word out.

It says "ready" when it can begin, then for each line `equal`, `different` or `undecided`. A comparison that takes more
than SECONDS of its own processor time (not of the clock: a busy machine changes no verdict) ends the process by
SIGPROF, whoever still waits for it; memory is bounded too. It ends with its input, so it never outlives its parent.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

import sympy  # type: ignore[import-untyped]

SECONDS = 2.0
MEMORY = 2**30  # bytes
POINTS = 3  # where two expressions are compared before anything is proved
DIGITS = 30

_RELATIONS = ("=", "<", "≤")
_FUNCTIONS = {
    "√": sympy.sqrt,
    "ln": sympy.log,
    "log": sympy.Function("log_"),  # of base 10 for some, e for others: only equal to itself
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "abs": sympy.Abs,
    **{
        name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")
    },
}
_OPERATIONS = {
    "+": lambda one, other: one + other,
    "-": lambda one, other: one - other,
    "*": lambda one, other: one * other,
    "/": lambda one, other: one / other,
    "^": lambda one, other: one**other,
}


def build(tree: list[Any]) -> Any:
    """The sympy expression of a tree of scoring/expressions.py; symbols are real, e is Euler's number."""
    name, *branches = tree
    if name == "number":
        return sympy.Rational(branches[0])
    if name == "symbol":
        return sympy.E if branches[0] == "e" else sympy.Symbol(branches[0], real=True)
    if name == "π":
        return sympy.pi
    values = [build(branch) for branch in branches]
    return _OPERATIONS[name](*values) if name in _OPERATIONS else _FUNCTIONS[name](*values)


def compare(one: list[Any], other: list[Any]) -> str:
    """Whether two expressions are equal for all values of their symbols, two relations up to a constant factor."""
    relation = one[0] if one[0] in _RELATIONS else ""
    if relation != (other[0] if other[0] in _RELATIONS else ""):
        return "different"
    if not relation:
        return "equal" if _vanishes(build(one) - build(other)) else "different"
    first, second = (build(tree[1]) - build(tree[2]) for tree in (one, other))
    if first.is_zero or second.is_zero:
        return "equal" if first.is_zero and second.is_zero else "different"
    factor = sympy.simplify(first / second)
    same = factor.is_positive or (relation == "=" and factor.is_negative)
    return "equal" if factor.is_number and factor.is_finite and same else "different"


def _vanishes(difference: Any) -> bool:
    """Whether an expression is zero everywhere: looked at in a few points, then proved."""
    if any(_differs(difference, point) for point in range(POINTS)):
        return False
    return bool(sympy.simplify(difference) == 0)


def _differs(difference: Any, point: int) -> bool:
    """Whether an expression is clearly not zero at a point; a point where it has no value says nothing."""
    symbols = sorted(difference.free_symbols, key=str)
    place = {symbol: sympy.Rational(sympy.prime(9 + index + 7 * point), 11) for index, symbol in enumerate(symbols)}
    if point == POINTS - 1:
        place = {symbol: -value for symbol, value in place.items()}
    value = difference.subs(place).evalf(DIGITS)
    return bool(value.is_number and value.is_finite and abs(value) > sympy.Float(10) ** (-DIGITS // 2))


def _bound() -> None:
    """Let the system end this process at its limits, whatever it inherited."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    if sys.platform == "linux":  # elsewhere the limit is not kept, or refused
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard < 0 else min(MEMORY, hard), hard))


def main() -> None:
    """Answer line by line until the input ends."""
    _bound()
    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdict = compare(*json.loads(line))
        except Exception:  # sympy raises many things at expressions without sense: 1/0, a comparison of complex numbers
            verdict = "undecided"
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(verdict, flush=True)


if __name__ == "__main__":
    main()
