"""How alike two images are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def pixel(real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Tensor:
    """1 - mean squared error of RGB values in 0..1, for each pair; [N] float32 in 0..1.

    A drawing of another size is resized (bicubic) to the size of the real image.
    """
    scores = [1.0 - float(np.square(_values(a) - _values(b, a.size)).mean()) for a, b in zip(real, drawn, strict=True)]
    return torch.tensor(scores, dtype=torch.float32)


def _values(image: Image.Image, size: tuple[int, int] | None = None) -> NDArray[np.float64]:
    image = image.convert("RGB")
    if size and image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float64) / 255
