"""The nine lmms-eval tasks: what they ask, in which form they score an answer, and what one answer is worth.

Read from the sources of lmms-eval 0.7.3. The prompt of the plain protocol is the task's own `doc_to_text`, called where
lmms-eval is imported (a child process); everything here is plain Python over the data set's records and over what the
task's `process_results` returned.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corl_cli.core.types import AnswerType
from corl_cli.scoring import choices
from corl_cli.scoring.notation import plain

Doc = Mapping[str, Any]  # one record of a data set
Metrics = Mapping[str, Any]  # what a task's process_results returned for one record

_PLACEHOLDER = re.compile(r"<image ?\d*>")
_APART = re.compile(r"(^|[.?!:]\s*)<image ?\d*>\s*(?![a-z])")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_PARENTHESISED = re.compile(r"\([a-zA-Z]\)")
_BOX = re.compile(r"\\boxed\s*\{")
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_CONCLUSION = re.compile(r"\b[Aa]nswer(?: is)?:? *(?:[Oo]ption *)?[(*]*([A-J])\b(?!\s*(?:,|/|or\b|and\b))")


@dataclass(frozen=True, kw_only=True)
class LmmsTask:
    """One task of lmms-eval, its data set, and how answers are handed to it and read back.

    `form` is how the task reads a final answer correctly: "bare", or "tag" (between <answer> tags); `headline` is the
    metric whose aggregate, times `scale`, is the benchmark's number in percent; `value` is what one record's metrics
    are worth, 0..1, None where they say nothing; `group` is what results are broken down by. `document` is the record
    as the task's scoring has to see it. `said` and `chosen` put an open-ended answer, and the letter of a chosen
    option, into the words that the task compares.
    """

    task: str
    dataset: str
    split: str
    form: Literal["bare", "tag"]
    headline: str
    question: Callable[[Doc], str]
    value: Callable[[Metrics], float | None]
    group: Callable[[Doc], str]
    answer_type: Callable[[Doc], AnswerType] = lambda doc: "oe"
    options: Callable[[Doc], dict[str, str]] = lambda doc: {}
    said: Callable[[Doc, str], str] = lambda doc, answer: answer
    chosen: Callable[[Doc, str], str] = lambda doc, letter: letter
    document: Callable[[Doc], dict[str, Any]] = dict
    judged: bool = False
    scale: float = 1.0

    def hand(self, doc: Doc, answer: str) -> str:
        """A final answer in the form that the task scores: a choice as its letter, in tags where the task wants them.

        What is boxed is the answer; a judge reads an open-ended one whole. A choice that is none, or several, goes to
        the judge as it is, and empty where there is no judge: the parsers of these tasks would take an option from any
        capital letter.
        """
        final = boxed(answer)
        text = self.said(doc, answer if self.judged else final)
        if self.answer_type(doc) == "mc":
            letter = _chosen(final, self.options(doc))
            text = self.chosen(doc, letter) if letter else answer if self.judged else ""
        return f"<answer>{text}</answer>" if self.form == "tag" else text


def _bare(text: str) -> str:
    """A text in which the one image has no number: it stands before the question."""
    return _PLACEHOLDER.sub("the image", _APART.sub(r"\1", text)).strip()


def boxed(answer: str) -> str:
    r"""What stands in an answer's last \boxed{…} that holds something, without \text{}; the answer where none does."""
    for box in reversed(list(_BOX.finditer(answer))):
        depth = 1
        for place in range(box.end(), len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[place], 0)
            if not depth:
                if content := _TEXT.sub(r"\1", answer[box.end() : place]).strip():
                    return content
                break
    return answer


def _chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one option that an answer chooses, or that its last "answer is X" names.

    Of an option that is itself a letter only the one before it is read: "D" and "the answer is D" are the same.
    """
    letters = {letter: option for letter, option in options.items() if plain(option).upper() in options}
    for letter, option in letters.items():
        if re.fullmatch(rf"\W*{letter}[).:]+\s*{re.escape(option)}\W*", answer):
            return letter
    conclusions = _CONCLUSION.findall(answer)
    chosen = choices.choose(answer, {**options, **{letter: letter for letter in letters}})
    return chosen or (conclusions[-1] if conclusions else None)


def _lettered(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(choices.LETTERS, options, strict=False)]
    return "\n".join((question, *lines))


def _by_letter(options: Sequence[str]) -> dict[str, str]:
    return dict(zip(choices.LETTERS, options, strict=False))


def _mmmu_options(doc: Doc) -> list[str]:
    options: list[str] = literal_eval(doc["options"])  # the data set keeps the list as Python text
    return options


def _mmmu_question(doc: Doc) -> str:
    text: str = doc["question"]
    if doc["question_type"] == "multiple-choice":
        text = _lettered(text, _mmmu_options(doc))
    return text if len(set(_PLACEHOLDER.findall(text))) > 1 else _bare(text)


def _mmmu_value(metrics: Metrics) -> float:
    """Whether what the task took as the answer is right, by the rules of its `evaluate_mmmu`."""
    found = metrics["mmmu_acc"]
    gold, taken = found["answer"], found["parsed_pred"][0]
    if found["question_type"] == "multiple-choice":
        return float(taken == gold)
    try:
        wanted: list[Any] = [round(float(gold.replace(",", "")), 2)]
    except ValueError:
        wanted = [gold.strip().lower()]
        if len(wanted[0]) == 1:
            wanted = [f" {wanted[0]}", f"{wanted[0]} "]
    texts = [said for said in taken if isinstance(said, str)]
    return float(
        any(text in said for text in wanted if isinstance(text, str) for said in texts)
        or any(said in wanted for said in taken if not isinstance(said, str))
    )


def _mmmu_subject(doc: Doc) -> str:
    return str(doc["id"]).split("_", 1)[1].rsplit("_", 1)[0].replace("_", " ")


def _mmstar_question(doc: Doc) -> str:
    return _bare(doc["question"].replace(" Please answer yes or no.", ""))


def _wemath_question(doc: Doc) -> str:
    return f"{_bare(doc['question'])}\n{doc['option']}"


def _mmvet_value(metrics: Metrics) -> float | None:
    """The judge's grade; a judge that gave none has no name, and stands there with 0."""
    graded = metrics["gpt_eval_score"]
    return float(graded["score"]) if graded["eval_model"] else None


def _yes_or_no(doc: Doc, answer: str) -> str:
    """The one word that POPE compares; an answer that says both, and begins with neither, stays as it is."""
    said = [word.lower() for word in _YES_NO.findall(answer)]
    begins = _YES_NO.match(answer.lstrip(" \n\"'*("))
    return said[0] if said and (begins or len(set(said)) == 1) else answer


def _mathvista_question(doc: Doc) -> str:
    unit = f" (Unit: {doc['unit']})" if doc.get("unit") else ""
    return _lettered(_bare(doc["question"]) + unit, doc["choices"] or [])


def _mathvista_choice(doc: Doc, letter: str) -> str:
    """The option's own words, for which the judge is not asked; the letter where the task misreads these as letters."""
    option = str(doc["choices"][choices.LETTERS.index(letter)])
    return letter if _PARENTHESISED.search(option) or option in choices.LETTERS else option


def _mathvista_document(doc: Doc) -> dict[str, Any]:
    """The record with a whole number of decimals, and an empty option.

    The data set's precision is a float, for which the task's round() fails: every answer with decimals would be wrong.
    What is no option is taken for the nearest one: of no answer at all, that would be the shortest.
    """
    options = [*(doc["choices"] or []), ""] if doc["question_type"] == "multi_choice" else doc["choices"]
    return {**doc, "precision": int(doc.get("precision") or 0), "choices": options}


def _mathverse_question(doc: Doc) -> str:
    return _bare(doc["question"]) or "Answer the question that is shown in the image."


TASKS: dict[str, LmmsTask] = {
    "mmmu": LmmsTask(
        task="mmmu_val",
        dataset="lmms-lab-encoder/MMMU",
        split="validation",
        form="bare",
        headline="mmmu_acc",
        scale=100,
        answer_type=lambda doc: "mc" if doc["question_type"] == "multiple-choice" else "oe",
        question=_mmmu_question,
        options=lambda doc: _by_letter(_mmmu_options(doc)),
        value=_mmmu_value,
        group=_mmmu_subject,
    ),
    "mmstar": LmmsTask(
        task="mmstar",
        dataset="Lin-Chen/MMStar",
        split="val",
        form="bare",
        headline="average",
        scale=100,
        answer_type=lambda doc: "mc",
        question=_mmstar_question,
        options=lambda doc: choices.read_options(_mmstar_question(doc)),
        value=lambda metrics: float(metrics["average"]["score"]),
        group=lambda doc: str(doc["category"]),
    ),
    "wemath": LmmsTask(
        task="wemath_testmini_reasoning",
        dataset="We-Math/We-Math",
        split="testmini",
        form="tag",
        headline="wemath_strict",
        answer_type=lambda doc: "mc",
        question=_wemath_question,
        options=lambda doc: choices.read_options(_wemath_question(doc)),
        value=lambda metrics: float(metrics["acc_score"]),
        group=lambda doc: str(doc["key"]),
    ),
    "mmvet": LmmsTask(
        task="mmvet",
        dataset="lmms-lab-encoder/MMVet",
        split="test",
        form="bare",
        headline="gpt_eval_score",
        judged=True,
        question=lambda doc: _bare(doc["question"]),
        value=_mmvet_value,
        group=lambda doc: str(doc["capability"]),
    ),
    "pope": LmmsTask(
        task="pope",
        dataset="lmms-lab-encoder/POPE",
        split="test",
        form="bare",
        headline="pope_f1_score",
        scale=100,
        question=lambda doc: _bare(doc["question"]),
        said=_yes_or_no,
        value=lambda metrics: float(metrics["pope_accuracy"]["score"]),
        group=lambda doc: str(doc.get("category") or "all"),
    ),
    "logicvista": LmmsTask(
        task="logicvista_reasoning",
        dataset="lscpku/LogicVista",
        split="test",
        form="tag",
        headline="acc_score",
        scale=100,
        answer_type=lambda doc: "mc" if len(str(doc["answer"]).strip()) == 1 else "oe",
        question=lambda doc: _bare(doc["question"]),
        options=lambda doc: choices.read_options(doc["question"]),
        value=lambda metrics: float(metrics["acc_score"]),
        group=lambda doc: str(doc.get("skill") or doc.get("category") or "all"),
    ),
    "mathvista": LmmsTask(
        task="mathvista_testmini_format",
        dataset="AI4Math/MathVista",
        split="testmini",
        form="bare",
        headline="llm_as_judge_eval",
        judged=True,
        answer_type=lambda doc: "mc" if doc["question_type"] == "multi_choice" else "oe",
        question=_mathvista_question,
        options=lambda doc: _by_letter(doc["choices"] or []),
        chosen=_mathvista_choice,
        document=_mathvista_document,
        value=lambda metrics: float(metrics["llm_as_judge_eval"]["true_false"]),
        group=lambda doc: str(doc["metadata"]["task"]),
    ),
    "mathverse": LmmsTask(
        task="mathverse_testmini_vision_only",
        dataset="CaraJ/MathVerse-lmmseval",
        split="vision_only",
        form="bare",
        headline="gpt_eval_score",
        scale=100,
        judged=True,
        answer_type=lambda doc: "mc" if doc["question_type"] == "multi-choice" else "oe",
        question=_mathverse_question,
        options=lambda doc: choices.read_options(doc["question_for_eval"]),
        value=lambda metrics: float(metrics["gpt_eval_score"]),
        group=lambda doc: str(doc["metadata"]["subfield"]),
    ),
    "mathvision": LmmsTask(
        task="mathvision_test",
        dataset="MathLLMs/MathVision",
        split="test",
        form="bare",
        headline="mathvision_standard_eval",
        answer_type=lambda doc: "mc" if doc["options"] else "oe",
        question=lambda doc: _lettered(_bare(doc["question"]), doc["options"]),
        options=lambda doc: _by_letter(doc["options"]),
        value=lambda metrics: float(metrics["mathvision_standard_eval"]["scores"][0]),
        group=lambda doc: str(doc["subject"]),
    ),
}
