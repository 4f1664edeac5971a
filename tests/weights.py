"""What a folder of weights holds."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors in it, by name."""
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
