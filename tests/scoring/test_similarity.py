import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from corl_cli.scoring.similarity import Pixel, fitted

COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_pixel_by_hand():
    half = flat((0, 0, 0))
    half.paste((255, 255, 255), (0, 0, 4, 2))
    found = Pixel()([flat((0, 0, 0))] * 4, [flat((0, 0, 0)), flat((255, 255, 255)), half, flat((51, 0, 0))])
    # mean squared errors 0, 1, 1/2, and (51/255)^2 / 3 = 0.04 / 3
    assert found.values.tolist() == pytest.approx([1.0, 0.0, 0.5, 1 - 0.04 / 3])
    assert found.values.dtype == torch.float32
    assert found.details[3] == {"mean squared error": "0.0133"}


@given(COLOURS, COLOURS)
def test_pixel_is_bounded_and_symmetric(one, other):
    score = Pixel()([flat(one)], [flat(other)]).values
    assert 0 <= float(score) <= 1
    assert torch.equal(score, Pixel()([flat(other)], [flat(one)]).values)


def test_the_picture_is_bright_where_pixels_differ():
    changed = flat((9, 9, 9))
    changed.putpixel((1, 2), (255, 255, 255))
    picture = Pixel().differences(flat((9, 9, 9)), changed)
    assert (picture.mode, picture.size) == ("RGB", (4, 4))
    brightness = np.asarray(picture.convert("L"))
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (2, 1)
    assert len(np.unique(brightness)) == 2


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = flat((1, 2, 3))
    assert fitted(image, (4, 4), "stretch") is fitted(image, (4, 4), "crop") is image


def test_an_image_of_another_size_is_stretched_or_cropped():
    wide = flat((255, 0, 0), (8, 4))
    wide.paste((0, 0, 255), (2, 0, 6, 4))  # blue in the middle square
    assert fitted(wide, (4, 4), "crop").getpixel((0, 0)) == (0, 0, 255)
    stretched = fitted(wide, (4, 4), "stretch")
    assert stretched.size == (4, 4)
    assert stretched.getpixel((0, 0))[0] > stretched.getpixel((0, 0))[2]  # its red edge is still there
