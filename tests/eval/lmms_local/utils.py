"""A small lmms-eval task: records with one image or two, some answers that it cannot score."""


def visual(doc):
    return [doc[name] for name in ("first", "second") if doc[name] is not None]


def text(doc, settings):
    return doc["question"] + settings["post_prompt"]


def results(doc, answers):
    if doc["answer"] == "unanswerable":
        raise ValueError("this record has no answer")
    print("a line that a task prints")
    return {"exact": float(answers[0] == doc["answer"]), "letters": answers[0]}


def letters(answers, args):
    """The mean length of the answers as they arrive: an aggregate that is no mean of values."""
    return sum(len(answer) for answer in answers) / len(answers)
