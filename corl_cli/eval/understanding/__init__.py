"""The nine understanding benchmarks: lmms-eval asks and scores, corl answers."""

from corl_cli.eval.understanding.benchmark import Understanding, UnderstandingOptions
from corl_cli.eval.understanding.tasks import TASKS

__all__ = [
    "LogicVista",
    "MMStar",
    "MMVet",
    "MathVerse",
    "MathVision",
    "MathVista",
    "Mmmu",
    "Pope",
    "Understanding",
    "UnderstandingOptions",
    "WeMath",
]


class Mmmu(Understanding):
    """College-level questions of thirty subjects, arXiv 2311.16502."""

    title = "MMMU"
    measure = "accuracy on the validation split, in percent (lmms-eval's mmmu_acc)"
    lmms = TASKS["mmmu"]


class MMStar(Understanding):
    """Questions that need the image, arXiv 2403.20330."""

    title = "MMStar"
    measure = "mean accuracy of 18 fine categories, in percent (lmms-eval's average)"
    lmms = TASKS["mmstar"]


class WeMath(Understanding):
    """Problems of two and three steps with their sub-problems, arXiv 2407.01284."""

    title = "WeMath"
    measure = "strict score of testmini's multi-step problems, in percent (lmms-eval's wemath_strict)"
    lmms = TASKS["wemath"]


class MMVet(Understanding):
    """Open-ended questions that combine six abilities, graded by a judge, arXiv 2308.02490."""

    title = "MM-Vet"
    measure = "mean grade by the judge, in percent (lmms-eval's gpt_eval_score)"
    lmms = TASKS["mmvet"]


class Pope(Understanding):
    """Whether an object is in the image: yes or no, arXiv 2305.10355."""

    title = "POPE"
    measure = "F1 of 'yes', in percent (lmms-eval's pope_f1_score)"
    lmms = TASKS["pope"]


class LogicVista(Understanding):
    """Questions of logic about images, arXiv 2407.04973."""

    title = "LogicVista"
    measure = "accuracy, in percent (lmms-eval's acc_score)"
    lmms = TASKS["logicvista"]


class MathVista(Understanding):
    """Mathematics in visual contexts, arXiv 2310.02255; a judge reads the answers that are no bare answer."""

    title = "MathVista"
    measure = "accuracy on testmini, in percent (lmms-eval's llm_as_judge_eval)"
    lmms = TASKS["mathvista"]
    packages = ("Levenshtein",)


class MathVerse(Understanding):
    """Problems whose text is in the image, arXiv 2403.14624; a judge compares answers."""

    title = "MathVerse (vision only)"
    measure = "accuracy by the judge on testmini, vision only, in percent (lmms-eval's gpt_eval_score)"
    lmms = TASKS["mathverse"]


class MathVision(Understanding):
    """Problems of mathematics competitions, arXiv 2402.14804."""

    title = "MathVision"
    measure = "accuracy on the test split, in percent (lmms-eval's mathvision_standard_eval)"
    lmms = TASKS["mathvision"]
