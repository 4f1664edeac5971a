"""Reading drawings from a result's folder."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def read(path: Path) -> Image.Image:
    """The drawing in RGB, whole in memory; ValueError that says so when it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # PIL's, of damaged files
        raise ValueError("the drawing cannot be read") from error
