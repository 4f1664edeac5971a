import pytest

from corl_cli.scoring.dates import read_date, read_time


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("may 5, 2020", (2020, 5, 5)),
        ("5th of may 2020", (2020, 5, 5)),
        ("sept. 2020", (2020, 9, None)),
        ("may", (None, 5, None)),
        ("in january", (None, 1, None)),
        ("maybe", None),
        ("5 2020", None),
        ("may or june", None),
        ("may 5 6", None),
    ],
)
def test_reads_dates(text, date):
    assert read_date(text) == date


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("3:30", (3, 30, "")),
        ("3 pm", (3, 0, "p")),
        ("5:30 p.m", (5, 30, "p")),
        ("3 o'clock", (3, 0, "")),
        ("3", None),
        ("3.30", None),
        ("330", None),
    ],
)
def test_reads_times_of_day(text, time):
    assert read_time(text) == time
