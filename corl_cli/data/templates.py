"""Instructions added after a question when it is asked; questions are stored bare."""

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import Instruction
from corl_cli.core.types import AnswerType

_THINK = (
    "Answer the question based on the image and your knowledge. Please write your thinking process inside "
    "<think> </think> tags, and provide your final answer ({what}) inside <answer> </answer> tags. Your response MUST "
    "strictly follow this format: <think> ...</think> <answer>{form}</answer>"
)

# The two think-answer texts are the paper's own (arXiv 2505.17534).
INSTRUCTIONS: dict[str, str] = {
    "none": "",
    "think-answer-letter": _THINK.format(what="option letter, e.g., A/B/C/D", form="option letter"),
    "think-answer-words": _THINK.format(what="only 1-3 words", form="concise answer"),
}


def dress(question: str, answer_type: AnswerType, instruction: Instruction) -> str:
    """The question as it is asked: with the recipe's instruction for its type, unless it already carries it."""
    text = INSTRUCTIONS[getattr(instruction, answer_type)]
    return question if not text or question.rstrip().endswith(text) else f"{question}\n{text}"


def check(instruction: Instruction) -> None:
    """UsageError when the recipe names an instruction that does not exist."""
    for answer_type, name in instruction.model_dump().items():
        if name not in INSTRUCTIONS:
            raise UsageError(
                f"data.instruction.{answer_type}: there is no instruction '{name}'.",
                f"Choose one of {', '.join(INSTRUCTIONS)}.",
            )
