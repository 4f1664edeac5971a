"""Made-up items for the data sets behind the nine lmms-eval tasks, in each data set's own columns.

    dataset("pope").save_to_disk(folder)      # a DatasetDict with the split that the task reads
    for item in ITEMS["pope"]: item.record, item.right, item.wrong

`right` and `wrong` are final answers, as they stand between <answer> tags or as a model without tags says them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
from PIL import Image


@dataclass(frozen=True)
class Item:
    """One record of a data set with final answers that are right, and some that are wrong."""

    record: dict[str, Any]
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def _image(colour: str) -> Image.Image:
    return Image.new("RGB", (32, 24), colour)


def _mmmu(number: int, question: str, options: list[str], answer: str, **more: Any) -> dict[str, Any]:
    images = {f"image_{k}": None for k in range(1, 8)}
    return {
        "id": f"validation_Art_Theory_{number}",
        "question": question,
        "options": repr(options),
        "explanation": "",
        **images,
        "image_1": _image("red"),
        "img_type": "['Photographs']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if options else "open",
        "subfield": "Theory",
        **more,
    }


def _mmstar(index: int, question: str, answer: str, category: str, fine: str) -> dict[str, Any]:
    return {
        "index": index,
        "question": question,
        "image": _image("green"),
        "answer": answer,
        "category": category,
        "l2_category": fine,
        "meta_info": {"source": "MMBench", "split": "val", "image_path": f"images/{index}.jpg"},
    }


def _wemath(problem: str, key: str, answer: str) -> dict[str, Any]:
    return {
        "ID": problem,
        "split": "testmini",
        "knowledge concept": "Perimeter of Squares",
        "question": "As shown in the figure, the side of the square is 3 cm. What is its perimeter ( ) cm?",
        "option": "A. 9; B. 12; C. 6; D. 3; E. No correct answer",
        "answer": answer,
        "image_path": _image("blue"),
        "key": key,
        "question number": int(problem),
        "knowledge concept description": "Perimeter of Squares: the sum of four equal sides.",
    }


def _mmvet(number: int, question: str, answer: str, capability: str) -> dict[str, Any]:
    return {
        "question_id": f"v1_{number}",
        "image": _image("white"),
        "question": question,
        "answer": answer,
        "image_source": "made up",
        "capability": capability,
    }


def _pope(number: int, thing: str, answer: str, category: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "question_id": str(number),
        "question": f"Is there a {thing} in the image?",
        "answer": answer,
        "image_source": f"COCO_val2014_{number:012d}",
        "image": _image("gray"),
        "category": category,
    }


def _logicvista(number: int, question: str, answer: str) -> dict[str, Any]:
    return {
        "question_id": number,
        "image": _image("black"),
        "question": question,
        "answer": answer,
        "skill": "inductive",
    }


def _mathvista(pid: int, question: str, choices: list[str], kind: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "pid": str(pid),
        "question": question,
        "image": f"images/{pid}.jpg",
        "decoded_image": _image("yellow"),
        "choices": choices,
        "unit": None,
        "precision": None,
        "answer": answer,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": kind,
        "metadata": {
            "category": "math-targeted-vqa",
            "context": "synthetic scene",
            "grade": "elementary school",
            "img_height": 24,
            "img_width": 32,
            "language": "english",
            "skills": ["arithmetic reasoning"],
            "source": "CLEVR-Math",
            "split": "testmini",
            "task": "math word problem",
        },
        "query": question,
        **more,
    }


def _mathverse(number: int, question: str, answer: str) -> dict[str, Any]:
    choice = "Choices" in question
    asked = "provide the correct option letter, e.g., A, B, C, D." if choice else "provide the final value."
    return {
        "sample_index": str(number),
        "problem_index": str(number),
        "problem_version": "Vision Only",
        "question": "",
        "image": _image("orange"),
        "answer": answer,
        "question_type": "multi-choice" if choice else "free-form",
        "metadata": {"split": "testmini", "source": "GeoQA", "subject": "Plane Geometry", "subfield": "Angle"},
        "query_wo": f"According to the question shown in the image, please directly answer the question and {asked}",
        "query_cot": f"According to the question shown in the image, please first reason, then {asked}",
        "question_for_eval": question,
    }


def _mathvision(number: int, question: str, options: list[str], answer: str) -> dict[str, Any]:
    return {
        "id": str(number),
        "question": question,
        "options": options,
        "image": f"images/{number}.jpg",
        "decoded_image": _image("purple"),
        "answer": answer,
        "solution": None,
        "level": 3,
        "subject": "metric geometry - area",
    }


_LETTER_B = ("B", "(B)", "B.", "The answer is B", "Answer: B")

ITEMS: dict[str, list[Item]] = {
    "mmmu": [
        Item(
            _mmmu(1, "<image 1> Which agency built it?", ["CIA", "NASA HQ", "FDA", "EPA"], "B"),
            (*_LETTER_B, "B. NASA HQ", "NASA HQ", "Because of the logo, the answer is B."),
            ("A", "C. FDA", "The answer is D", "B or C", "I do not know", ""),
        ),
        Item(
            _mmmu(
                2,
                "Compare <image 1> and <image 2>. Which is older?",
                ["<image 1>", "<image 2>", "Neither"],
                "A",
                image_2=_image("pink"),
            ),
            ("A", "(A)"),
            ("B", "C. Neither", "older"),
        ),
        Item(_mmmu(3, "What is the area in <image 1>?", [], "24.30"), ("24.3", "24.30 m"), ("25", "2.43", "")),
        Item(_mmmu(4, "Which chord is in <image 1>?", [], "Major"), ("major", "It is a major chord"), ("minor",)),
    ],
    "mmstar": [
        Item(
            _mmstar(
                0,
                "Where is the suitcase?\nOptions: A: on the book, B: beneath the cat, C: on the bed, D: by the Dog",
                "B",
                "coarse perception",
                "image scene and topic",
            ),
            (*_LETTER_B, "beneath the cat", "Because it lies beneath the cat, B"),
            ("A", "C", "on the bed", "A or B", "Absolutely", ""),
        ),
        Item(
            _mmstar(1, "<image 1>What is 2 + 3?\nOptions: A: 4, B: 5, C: 6, D: 7", "D", "math", "geometry"),
            ("D", "D: 7", "Answer: D"),
            ("B", "5", "A: 4", "DUNNO"),
        ),
    ],
    "wemath": [
        *(
            Item(
                _wemath(problem, key, "B"),
                (*_LETTER_B, "12", "Each side is 3, so the answer is B"),
                ("A", "9", "C", ""),
            )
            for problem, key in [("1", "2steps_1"), ("1", "2steps_2"), ("1", "2steps_multi")]
        ),
        *(
            Item(_wemath("2", key, "C"), ("C", "C. 6", "Answer: C"), ("B", "12", "Certainly not"))
            for key in ("3steps_1", "3steps_2", "3steps_3", "3steps_multi")
        ),
    ],
    "mmvet": [
        Item(_mmvet(0, "What is x in the equation?", "-1<AND>-5", "ocr,math"), ("x = -1 <AND> -5",), ("x = 3", "")),
        Item(_mmvet(1, "What is the name of the dish?", "spaghetti", "rec"), ("It is spaghetti.",), ("bread",)),
    ],
    "pope": [
        Item(
            _pope(1, "dog", "yes", "adversarial"),
            ("yes", "Yes", "Yes.", "Yes, there is a dog."),
            ("no", "No, none.", ""),
        ),
        Item(
            _pope(2, "cat", "no", "random"),
            ("no", "No.", "There is no cat.", "No, I see no cat; yes, there is a dog."),
            ("yes", "Yes, there is no doubt.", "maybe", "It may be yes or no."),
        ),
    ],
    "logicvista": [
        Item(
            _logicvista(1, "Which figure comes next? Select from A, B, C, D, and E.", "B"),
            (*_LETTER_B, "Each figure turns, so the answer is B."),
            ("A", "E", "B or C", "Dots", ""),
        ),
        Item(
            _logicvista(2, "Which statement follows?\nA. All are red.\nB. Some are red.\nC. None is red.", "C"),
            ("C", "C. None is red.", "None is red"),
            ("A", "Some are red", "Cannot be said"),
        ),
        Item(
            _logicvista(3, "Which two figures are alike? Select from A, B, C and D.", "A, C"), ("A, C",), ("B, D", "")
        ),
    ],
    "mathvista": [
        Item(
            _mathvista(1, "What fraction is blue?", ["3/11", "8/11", "6/11", "3/5"], "text", "8/11"),
            (*_LETTER_B, "8/11", "(B) 8/11"),
            ("A", "3/11", "(D) 3/5", ""),
        ),
        Item(_mathvista(2, "How many are left?", [], "integer", "12"), ("12", "There are 12 left."), ("13", "11 left")),
        Item(
            _mathvista(3, "How long is it?", [], "float", "1.5", precision=1.0, unit="m"),
            ("1.5", "1.50", "1.5 m"),
            ("1.6", "15"),
        ),
    ],
    "mathverse": [
        Item(
            _mathverse(1, "As shown, angle 1 is 50°. Angle 2 is ()\nChoices:\nA:40°\nB:50°\nC:60°\nD:70°", "B"),
            ("B", "50°"),
            ("A", "C:60°"),
        ),
        Item(_mathverse(2, "As shown, find the length of AB.", "7"), ("7", "AB = 7"), ("8",)),
    ],
    "mathvision": [
        Item(
            _mathvision(1, "How many eyes?\n<image1>", ["A", "B", "C", "D", "E"], "B"),
            (*_LETTER_B, "\\boxed{B}", "A has 2, C has 4, so \\boxed{\\text{B}}."),
            ("A", "\\boxed{C}", "B has 2, so \\boxed{D}.", "Dragons", "B or C", ""),
        ),
        Item(
            _mathvision(2, "<image1> What is the area?", ["$\\frac{1}{2}$", "4", "6", "8", "9"], "C"),
            ("C", "6", "(C) 6", "The answer is 6"),
            ("B", "4", "9", "$\\frac{1}{2}$"),
        ),
        Item(
            _mathvision(3, "<image1> How many squares?", [], "24"),
            ("24", "The answer is 24.", "\\boxed{24}", "24.0"),
            ("25", "\\boxed{23}", ""),
        ),
    ],
}

SPLITS = {
    "mmmu": "validation",
    "mmstar": "val",
    "wemath": "testmini",
    "mmvet": "test",
    "pope": "test",
    "logicvista": "test",
    "mathvista": "testmini",
    "mathverse": "vision_only",
    "mathvision": "test",
}

_NULLABLE = {"image_2": datasets.Image(), "precision": datasets.Value("float64"), "unit": datasets.Value("string")}
_EMPTY = {"solution": datasets.Value("string"), **{f"image_{k}": datasets.Image() for k in range(3, 8)}}


def dataset(name: str) -> datasets.DatasetDict:
    """The items of one benchmark, in the split that its task reads."""
    rows = datasets.Dataset.from_list([item.record for item in ITEMS[name]])
    types = {column: kind for column, kind in {**_NULLABLE, **_EMPTY}.items() if column in rows.column_names}
    return datasets.DatasetDict({SPLITS[name]: rows.cast(datasets.Features({**rows.features, **types}))})
