"""One notation for what people and models write in many: letters, marks, spaces, and LaTeX as plain mathematics."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_MARKS = str.maketrans(
    {**dict.fromkeys("−–—‐‑‒", "-"), **dict.fromkeys("’‘`´", "'"), **dict.fromkeys("“”", '"'), "⁄": "/"}
)
_WHOLE = r"(\d{1,9})"
_LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle|big|Big)(?![a-zA-Z])|\\[,;:! ]|\\[()\[\]]"), " "),
    (re.compile(r"\\([{}])"), r"\1"),
    (re.compile(rf"(?<![\w.^]){_WHOLE}\s*\\[dt]?frac\s*\{{\s*{_WHOLE}\s*\}}\s*\{{\s*{_WHOLE}\s*\}}"), r"\1 \2/\3"),
    (re.compile(rf"(?<![\w.^]){_WHOLE}\s*\\[dt]?frac\s*(\d)\s*(\d)"), r"\1 \2/\3"),
    (re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)"), r"(\1)/(\2)"),
    (re.compile(r"(?:∠|\\angle)\s*"), "angle "),
    (re.compile(r"(?:△|\\triangle)\s*"), "triangle "),
    (re.compile(r">=|\\geq?(?![a-zA-Z])|\\geqslant|⩾"), "≥"),
    (re.compile(r"<=|\\leq?(?![a-zA-Z])|\\leqslant|⩽"), "≤"),
    (re.compile(r"\^\s*\{?\s*\\?(?:circ|degree)(?![a-zA-Z])\s*\}?|\\(?:degree|circ)(?![a-zA-Z])|º"), "°"),
    (re.compile(r"\\pi(?![a-zA-Z])|(?<![a-zA-Z])pi(?![a-zA-Z])"), "π"),
    (re.compile(r"(?<![a-zA-Z])sqrt\s*(?=\()|\\sqrt\s*(?=[\da-z])"), "√"),
    (re.compile(r"(?<=\d)[eE]\+?(?=-?\d{1,3}\b)"), "*10^"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])|[×·⋅]"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\pm(?![a-zA-Z])"), "±"),
    (re.compile(r"\\infty(?![a-zA-Z])"), "∞"),
    (re.compile(r"\\([%$#&_])"), r"\1"),
)
_GROUPS = (
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|boxed)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\s*\{([^{}]*)\}"), r"√(\1)"),
    (re.compile(r"\\sqrt\s*\[\s*(\d)\s*\]\s*\{([^{}]*)\}"), r"((\2)^(1/\1))"),
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"(?<=\w)_\{(\w{1,3})\}"), r"_\1"),
)
_SPACES = re.compile(r"[^\S\n]+")
_BREAKS = re.compile(r" ?\n[ \n]*")
_MATH = re.compile(r"\$\$?([^$]{1,200})\$\$?(?!\d)")
_NESTING = 8  # groups inside groups that are read
EDGES = " \t\n.,;:!?\"'*_`~"
_BEFORE = re.compile(r"^(?:[\s,;:!?\"'*_`~]|\.(?!\d))+")


def clean(text: str) -> str:
    """Lower case, one kind of dash, quote and space, no invisible characters, LaTeX as plain mathematics."""
    return normalise(text).casefold()


def normalise(text: str) -> str:
    """`clean` with the case kept."""
    text = re.sub(r"(?<=[\w)}])([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", lambda match: f"^({match[1].translate(_SUPERSCRIPTS)})", text)
    text = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKC", text).translate(_MARKS)
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cf", "Cc"))
    text = _BREAKS.sub("\n", _SPACES.sub(" ", text))  # short runs of space keep every pattern below linear
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    for _ in range(_NESTING):
        before = text
        for pattern, replacement in _GROUPS:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    text = _MATH.sub(r"\1", text)
    text = re.sub(r"\^\((-?\d+)\)", r"^\1", text)
    return _SPACES.sub(" ", text).strip()


def plain(text: str) -> str:
    """A cleaned text without the punctuation around it; empty when it says nothing."""
    return strip(" ".join(clean(text).split()))


def strip(text: str) -> str:
    """A text without punctuation at its ends; a point before a digit stays."""
    return _BEFORE.sub("", text.rstrip(EDGES))
