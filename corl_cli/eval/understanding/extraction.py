"""The final answer in what a policy wrote."""

import re

EXTRACTOR = "last <answer> block; without one what follows </think>, else the whole text"

_BLOCK = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)


def extract(text: str) -> tuple[str, bool]:
    """The final answer, stripped, and whether it stood between <answer> tags; see EXTRACTOR."""
    blocks = _BLOCK.findall(text)
    return (blocks[-1].strip(), True) if blocks else (_THOUGHT.sub("", text).strip(), False)
