"""What has to differ from lmms-eval 0.7.3 for right scores: no guesses, an end, We-Math's and POPE's numbers."""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any

SECONDS = 5  # for one comparison of two expressions; most take a tenth of a second

_STEPS = {f"{steps}steps_multi": [f"{steps}steps_{step}" for step in range(1, steps + 1)] for steps in (2, 3)}


class _NoGuess:
    """Stands where MMMU's parser looks for `random`: an answer that names no option chooses none."""

    @staticmethod
    def choice(options: Sequence[str]) -> str:
        return ""


def _no_algebra(*_: object) -> None:
    raise NotImplementedError("the gold answers of We-Math and LogicVista are letters; nothing is compared as algebra")


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("a comparison took too long")


def _bounded(equal: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    """A comparison that takes what it cannot settle in time for different."""

    @wraps(equal)
    def compare(one: str, other: str) -> bool:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            return equal(one, other)
        except TimeoutError:
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return compare


def mend() -> None:
    """Make lmms-eval's tasks load, and score without guesses and in finite time.

    To be called in the main thread of the process that scores, before the tasks load. MathVision evaluates an answer, a
    tower of powers for ever; MMMU draws an option where an answer names none. We-Math and LogicVista import
    math_verify, of which pip installs a version beside lmms-eval that cannot be imported: it lacks
    latex2sympy2_extended, whose antlr4 cannot stand beside that of the latex2sympy2 which MathVision needs.
    """
    sys.modules["math_verify"] = algebra = ModuleType("math_verify")
    vars(algebra).update(parse=_no_algebra, verify=_no_algebra)
    vars(import_module("lmms_eval.tasks._task_utils.mmmu_mcq_utils"))["random"] = _NoGuess
    signal.signal(signal.SIGALRM, _out_of_time)
    comparison = vars(import_module("lmms_eval.tasks.mathvision.eval_utils"))
    comparison["is_equal"] = _bounded(comparison["is_equal"])


def we_math(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """We-Math's strict and loose scores in percent, over the problems of which every step was answered.

    `records` are the values of the task's `wemath_strict`: ID, key (2steps_1 … 3steps_multi), acc_score. A problem
    counts 1 when it and its steps are solved (loose: at least one step), 0.5 when its steps are and it is not, else 0
    (We-Math, arXiv 2407.01284). lmms-eval divides by zero where no composite problem is solved and takes all 525
    problems for answered. `problems` is how many there were; where it is 0, it stands alone.
    """
    problems: dict[str, dict[str, bool]] = defaultdict(dict)
    for record in records:
        problems[str(record["ID"])][record["key"]] = record["acc_score"] == 1
    strict, loose = [], []
    for solved in problems.values():
        whole = next((key for key in _STEPS if key in solved), None)
        if whole is None or not all(step in solved for step in _STEPS[whole]):
            continue
        steps = [solved[step] for step in _STEPS[whole]]
        partly = 0.5 * (all(steps) and not solved[whole])
        strict.append(partly + (all(steps) and solved[whole]))
        loose.append(partly + (any(steps) and solved[whole]))
    if not strict:
        return {"problems": 0}
    return {
        "wemath_strict": 100 * sum(strict) / len(strict),
        "wemath_loose": 100 * sum(loose) / len(loose),
        "problems": len(strict),
    }


def pope(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """POPE's precision, recall and F1 of "yes", and the share of "yes" among the answers, in percent.

    POPE is arXiv 2305.10355. `records` are the values of one of the task's metrics: prediction, ground_truth. lmms-eval
    leaves a question out whose right answer is yes and whose answer is neither yes nor no, and takes the share of "yes"
    among the right answers. A ratio of nothing is 0, as there.
    """
    yes = [record["prediction"] == "yes" for record in records]
    gold = [record["ground_truth"] == "yes" for record in records]
    right = sum(said and wanted for said, wanted in zip(yes, gold, strict=True))
    return {
        "pope_precision": 100 * right / max(1, sum(yes)),
        "pope_recall": 100 * right / max(1, sum(gold)),
        "pope_f1_score": 200 * right / max(1, sum(yes) + sum(gold)),
        "pope_yes_ratio": 100 * sum(yes) / max(1, len(yes)),
    }


# Metrics of which lmms-eval's aggregate is not asked.
NUMBERS = {
    "wemath_strict": we_math,
    "wemath_loose": we_math,
    "pope_precision": pope,
    "pope_recall": pope,
    "pope_f1_score": pope,
    "pope_yes_ratio": pope,
}
