"""The embedded world: scenes, their language and checker, and a tiny Janus that draws and answers in it."""

from pathlib import Path

from corl_cli import models  # noqa: F401 (mends torchvision before transformers is imported)


def checkpoint() -> Path:
    """The folder of the shipped tiny Janus (transformers' format)."""
    return Path(__file__).parent / "tiny_janus"
