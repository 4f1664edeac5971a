"""A program that a test gives a deadline: long repetitions as completion, answer, gold answer and question."""

from corl_cli.scoring.answers import format_fault, infer_type, judge

LENGTH = 50_000
QUESTION = "What is it?\nA. cat\nB. dog"
UNITS = [
    *("<think>", "</think>", "<answer>", "<answer>b</answer>", "<think></think>"),
    *("(", "[", "{", " ", "\n", "\n ", "$", "-", ",", "'", "\\"),
    *("7", "9^", "9**9", "1e9", "1e999999999 ", "1,", "$1", "٣", "⁹", "½", "√", "√(", "sin ", "x = "),
    *("\\frac{", "\\frac{1}{2}", "\\text{", "\\sqrt ", "^ ", "^ {", "_{"),
    *("A. ", "(A) ", "A. x\nB. y\n", "B ", "dog ", "the answer is ", " because", "and ", "not "),
    *("squared", "m^2 ", "a per ", "one ", "hundred ", "a/", "a-", "a."),
    *("\u0301", "\u200b", "\u202e", "\ufdfa"),
]


def main() -> None:
    """Judge every unit, repeated, in every place."""
    for unit in UNITS:
        long = (unit * LENGTH)[:LENGTH]
        for answer_type in ("mc", "oe"):
            judge(QUESTION, "B", long, answer_type)
            judge(QUESTION, "B", f"<think>a</think><answer>{long}</answer>", answer_type)
            judge(QUESTION, f"x+{long[:190]}", f"{long[:190]}+x", answer_type)
            judge(QUESTION, long[:900], long[:901], answer_type)
            judge(QUESTION, long, "B", answer_type)
            judge(long, "5 cm", "5", answer_type)
        format_fault(long)
        infer_type(long, "B")
        infer_type(QUESTION, long)


if __name__ == "__main__":
    main()
