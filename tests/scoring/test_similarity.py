import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.scoring.similarity import pixel

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_pixel_by_hand():
    half = flat((0, 0, 0))
    half.paste((255, 255, 255), (0, 0, 4, 2))
    scores = pixel([flat((0, 0, 0))] * 4, [flat((0, 0, 0)), flat((255, 255, 255)), half, flat((51, 0, 0))])
    # mean squared errors 0, 1, 1/2, and (51/255)^2 / 3 = 0.04 / 3
    assert scores.tolist() == pytest.approx([1.0, 0.0, 0.5, 1 - 0.04 / 3])
    assert scores.dtype == torch.float32


def test_pixel_resizes_to_the_real_image():
    assert pixel([flat((9, 9, 9), (8, 6))], [flat((9, 9, 9), (3, 5))]).tolist() == [1.0]


@given(COLOURS, COLOURS)
def test_pixel_is_bounded_and_symmetric(one, other):
    score = pixel([flat(one)], [flat(other)])
    assert 0 <= float(score) <= 1
    assert torch.equal(score, pixel([flat(other)], [flat(one)]))
