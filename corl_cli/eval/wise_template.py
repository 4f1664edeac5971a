"""What a judge is told about a drawing for WISE, in corl's words, and how strictly its answer is read.

Criteria, scales and the form of the answer are those of WISE's own evaluators (github.com/PKU-YuanGroup/WISE:
gpt_eval.py of the legacy version; the README of WISE_Verified); no sentence of theirs is used, so that a judge may
differ by a little from one that was told in theirs. A changed wording is a new version: answers are kept by its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """The words, {prompt} and {explanation} in them, and the labelled scores 0..top that must come back."""

    name: str
    text: str
    labels: Sequence[str]
    top: int

    def write(self, prompt: str, explanation: str) -> str:
        """The whole question about one drawing, which goes with it."""
        return self.text.format(prompt=prompt, explanation=explanation)

    def read(self, answer: str) -> dict[str, int]:
        """The score under each label; ValueError when one is missing, no whole number in 0..top, or given two ways.

        Bold marks, bullets and a scale behind the label or the score ("(0-2)", "/2") are put up with, as is what a
        reasoning judge thinks before </think>. Words behind a score are not: they may take it back.
        """
        found: dict[str, int] = {}
        for line in answer.rpartition("</think>")[2].splitlines():
            plain = " ".join(_BULLET.sub("", _MARKUP.sub(" ", line)).split())
            for label in self.labels:
                labelled = re.fullmatch(rf"{label}\s?(?:\(0 ?[-–] ?{self.top}\))?\s?[:=：](.*)", plain, re.IGNORECASE)
                if labelled is None:
                    continue
                value = self._value(label, labelled[1].strip())
                if found.setdefault(label, value) != value:
                    raise ValueError(f"{label} is given as {found[label]} and as {value}")
        if missing := [label for label in self.labels if label not in found]:
            raise ValueError(f"no score for {', '.join(missing)}")
        return found

    def _value(self, label: str, text: str) -> int:
        whole = re.fullmatch(rf"([0-9]+)(?:\.0+)?(?: ?/ ?{self.top})?\.?", text, re.ASCII)
        if whole is None:
            raise ValueError(f"{label} is {text!r}, no single score")
        if int(whole[1]) > self.top:
            raise ValueError(f"{label} is {whole[1]}, outside 0..{self.top}")
        return int(whole[1])


_MARKUP = re.compile(r"[*_`#]+")
_BULLET = re.compile(r"^\s*(?:[-•>]\s*|\d+[.)]\s+)*")

LEGACY = Template(
    name="corl-wise-legacy-1",
    labels=("Consistency", "Realism", "Aesthetic Quality"),
    top=2,
    text="""\
You judge images that a text-to-image model has drawn. Be very strict: give 2 only to an image without any flaw in \
that respect, and the lower of two scores whenever you hesitate.

The model was given this prompt, which says what to draw in a roundabout way:
PROMPT: {prompt}
This is what the prompt means and what a correct drawing of it has to show; the model did not see it:
EXPLANATION: {explanation}

Give the attached image three whole scores, each 0, 1 or 2.

Consistency: does the image show what the prompt means?
0: what matters most is missing, or the image says something else.
1: part of it is there; something is missing, wrong or only hinted at.
2: all of it is there, every detail as it should be, and it can be read in one way only.

Realism: could it be a photograph?
0: plainly artificial, or impossible in the physical world.
1: believable at first sight, with smaller faults in light, matter, shape or space.
2: not to be told from a photograph: light, material and space are right throughout.

Aesthetic Quality: is it good to look at?
0: badly composed, without appeal or artistic merit.
1: pleasant enough; composition and colours are in order, but nothing stands out.
2: outstanding composition, colour and style, as of a master's work.

Answer with these three lines and nothing else, a score in place of each N:
Consistency: N
Realism: N
Aesthetic Quality: N
""",
)

VERIFIED = Template(
    name="corl-wise-verified-1",
    labels=("Score",),
    top=1,
    text="""\
You judge images that a text-to-image model has drawn: is the attached one a correct drawing of its prompt, yes or no?

The model was given this prompt, which takes knowledge of the world to understand:
PROMPT: {prompt}
This is what the prompt means and what a correct drawing of it has to show; the model did not see it:
EXPLANATION: {explanation}

Score 1 if the image shows what is meant, with the right things in the right relations, and is realistic and clear \
enough for that to be seen.
Score 0 if what is meant is missing or wrong, if a relation that matters is wrong, if the image is too unrealistic or \
too ambiguous to tell, or if faults of the drawing get in the way.
How beautiful it is does not count.

Answer with this line and nothing else, 0 or 1 in place of N:
Score: N
""",
)
