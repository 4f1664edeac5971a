"""How alike two images are, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from corl_cli.core.requirements import Requirement
from corl_cli.scoring.heatmap import heatmap
from corl_cli.scoring.measure import Measured

Resize = Literal["stretch", "crop"]


class Pixel:
    """1 - mean squared error of RGB values in 0..1: a stand-in for LPIPS where there are no weights."""

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return []

    def load(self, device: torch.device) -> None:
        """There is nothing to load."""

    def __call__(self, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Measured:
        """See measure.Likeness; values in 0..1."""
        errors = [float(np.square(_values(a) - _values(b)).mean()) for a, b in zip(real, drawn, strict=True)]
        return Measured(
            torch.tensor([1.0 - error for error in errors], dtype=torch.float32),
            [{"mean squared error": f"{error:.4f}"} for error in errors],
        )

    def differences(self, real: Image.Image, drawn: Image.Image) -> Image.Image:
        """See measure.Likeness; from no difference to that of black and white."""
        errors = np.square(_values(real) - _values(drawn)).mean(-1)
        return heatmap(drawn, torch.from_numpy(errors).sqrt(), 0.0, 1.0)


def fitted(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """The image at `size`, stretched, or its centre of that shape (bicubic); the same object where nothing changes."""
    if image.size == size:
        return image
    if resize == "stretch":
        return image.resize(size, Image.Resampling.BICUBIC)
    return ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def _values(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.convert("RGB"), np.float64) / 255
