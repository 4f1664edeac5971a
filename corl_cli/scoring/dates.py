"""Dates and times of day in short answers, in whatever order or notation they are written."""

from __future__ import annotations

import re

from corl_cli.scoring.english import word_list

MAX_CHARS = 40

_MONTHS = word_list(
    """
    january february march april may june july august september october november december
    """
)
_MONTH_OF = {name: number for number, month in enumerate(_MONTHS, 1) for name in (month, month[:3])} | {"sept": 9}
_DAY = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?")
_YEAR = re.compile(r"\d{3,4}")
_TIME = re.compile(r"(?:at )?(\d{1,2})(?:[:.](\d{2}))? ?(?:([ap])\.? ?m\b\.?|o'clock)?")

Date = tuple[int | None, int, int | None]


def read_date(text: str) -> Date | None:
    """(year, month, day) of a lower-case text that is a date with a month by name; what it leaves out is None."""
    if len(text) > MAX_CHARS:
        return None
    words = [word for word in re.split(r"[\s,.]+", text) if word and word not in ("the", "of", "in", "on")]
    months = [word for word in words if word in _MONTH_OF]
    years = [word for word in words if _YEAR.fullmatch(word)]
    days = [match[1] for word in words if (match := _DAY.fullmatch(word))]
    if len(months) != 1 or len(years) > 1 or len(days) > 1 or len(words) != 1 + len(years) + len(days):
        return None
    return int(years[0]) if years else None, _MONTH_OF[months[0]], int(days[0]) if days else None


def read_time(text: str) -> tuple[int, int, str] | None:
    """(hour, minute, "a", "p" or "") of a lower-case text that is a time of day; a bare number is none."""
    if len(text) > MAX_CHARS or not (match := _TIME.fullmatch(text)):
        return None
    hour, minute, half = match.groups()
    if ":" not in text and not half and "o'clock" not in text:
        return None
    return int(hour), int(minute or 0), half or ""
