"""What images look like, by hand."""

import numpy as np
import pytest
from PIL import Image

from corl_cli.scoring.appearance import appearance


def test_appearance_by_hand():
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (300, 200), "white")
    halves = Image.new("RGB", (8, 8))
    halves.paste("white", (0, 0, 4, 8))
    found = appearance([black, white, halves])
    assert found["brightness"].tolist() == pytest.approx([0, 1, 0.5])
    assert found["contrast"].tolist() == pytest.approx([0, 0, 0.5])
    assert found["entropy"].tolist() == pytest.approx([0, 0, 1])


def test_entropy_counts_colours_that_differ_visibly():
    noise = np.full((16, 16, 3), 100, np.uint8)
    noise[::2] += 3  # 100 and 103 are of one level
    four = np.zeros((4, 4, 3), np.uint8)
    four[:2, :2], four[:2, 2:], four[2:, :2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    entropy = appearance([Image.fromarray(noise), Image.fromarray(four)])["entropy"].tolist()
    assert entropy == pytest.approx([0, 2])


def test_other_modes_are_read_as_colours():
    assert appearance([Image.new("L", (4, 4), 255)])["brightness"].tolist() == pytest.approx([1])
    assert appearance([])["entropy"].tolist() == []
