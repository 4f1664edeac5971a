import subprocess
import sys
import threading
import time

import psutil
import pytest

from corl_cli.scoring.expressions import MAX_CHARS, read_expression
from corl_cli.scoring.notation import plain
from corl_cli.scoring.symbolic import Algebra, same_expression

X, TWO = ["symbol", "x"], ["number", "2"]


def tower(height: int) -> list:
    tree = ["number", "9"]
    for _ in range(height):
        tree = ["^", tree, ["number", "9"]]
    return tree


@pytest.fixture(scope="module")
def algebra():
    algebra = Algebra()
    yield algebra
    algebra.close()


def same(one: str, other: str) -> tuple[bool, str] | None:
    return same_expression(plain(one), plain(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2x+1", "1 + 2x"),
        ("\\frac{\\sqrt{3}+1}{2}", "(1+sqrt(3))/2"),
        ("2\\pi r", "r*2π"),
        ("x^2-1", "(x-1)(x+1)"),
        ("\\sin^2\\theta + \\cos^2 θ", "1+0x"),
        ("2 \\sin x \\cos x", "sin(2x)"),
        ("e^{2x}", "exp(x)^2"),
        ("\\sqrt[3]{x}", "x^(1/3)"),
        ("y = 2x + 1", "2x + 1 = y"),
        ("2y = 4x", "y - 2x = 0"),
        ("x > 3", "3 < x"),
        ("2x ≤ 6", "x \\leq 3"),
        ("x_{1} + x_2", "x_2 + x_1"),
    ],
)
def test_equal(one, other):
    assert same(one, other) == (True, "same expression")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2x+1", "2x-1"),
        ("a^2+b^2", "(a+b)^2"),
        ("\\sqrt{x^2}", "x"),
        ("y = 2x", "y = 3x"),
        ("x > 3", "x < 3"),
        ("x > 3", "x ≥ 3"),
        ("x > 3", "-x > -3"),
        ("x + 1 = 0", "x + 1"),
        ("1/0", "x+0"),
        ("log(x)", "\\ln x"),
    ],
)
def test_different(one, other):
    assert same(one, other) == (False, "same expression")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "act"),
        ("a", "b"),
        ("red or blue", "blue or red"),
        ("5 cm", "cm 5"),
        ("3-2", "2/2"),
        ("2010-2012", "-2"),
        ("", "x+1"),
        ("9^9^9", "2+1"),
        ("((9^9)^9)^9", "2+1"),
        ("9^{99}", "2+1"),
        ("x^(y^99)", "2+1"),
        ("(" * 30 + "x" + ")" * 30 + "+1", "x+1"),
        ("1+" * MAX_CHARS + "1", "x+1"),
        ("7" * 31 + "+x", "x+1"),
        ("__import__('os')", "x+1"),
        ("2+(lambda: 3)()", "x+1"),
    ],
)
def test_what_is_no_mathematics_or_too_large_is_not_compared(one, other):
    assert same(one, other) is None


def test_reads_a_tree():
    assert read_expression("2x^2 - √3") == [
        "-",
        ["*", ["number", "2"], ["^", ["symbol", "x"], ["number", "2"]]],
        ["√", ["number", "3"]],
    ]


def test_hostile_algebra_ends_the_process_and_a_new_one_answers(algebra):
    assert algebra.compare(tower(9), TWO) == "timed out"
    assert algebra.compare(["+", X, X], ["*", TWO, X]) == "equal"


def test_a_process_that_was_killed_is_replaced(algebra):
    assert algebra.compare(X, X) == "equal"
    algebra._process.kill()
    algebra._process.wait()
    assert algebra.compare(X, TWO) == "different"


def test_nonsense_is_undecided(algebra):
    assert algebra.compare(["no such function", X], X) == "undecided"
    assert algebra.compare(X, X) == "equal"


def test_threads_take_turns(algebra):
    verdicts: dict[int, str] = {}

    def ask(number: int) -> None:
        tree = ["*", ["number", str(number)], X]
        verdicts[number] = algebra.compare(tree, ["+", X, X])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: "equal" if number == 2 else "different" for number in range(6)}


def test_the_process_ends_with_its_parent_even_at_work():
    code = (
        "import os, threading, time\n"
        "from corl_cli.scoring.symbolic import Algebra\n"
        "algebra = Algebra()\n"
        "algebra.compare(['symbol', 'x'], ['symbol', 'x'])\n"
        "print(algebra._process.pid, flush=True)\n"
        "tree = ['number', '9']\n"
        "for _ in range(9): tree = ['^', tree, ['number', '9']]\n"
        "threading.Thread(target=algebra.compare, args=(tree, tree[:]), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    parent.wait()
    while _lives(pid):  # bounded by the processor time that it may use
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_forked_child_asks_a_process_of_its_own():
    code = (
        "import os\n"
        "from corl_cli.scoring.symbolic import same_expression\n"
        "assert same_expression('2x+1', '1+2x')[0]\n"
        "child = os.fork()\n"
        "good = same_expression('3x+1', '1+3x')[0]\n"
        "if not child: os._exit(0 if good else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0 and good and same_expression('4x+1', '1+4x')[0]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
