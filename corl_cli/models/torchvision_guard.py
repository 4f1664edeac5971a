"""A torchvision that does not fit the installed torch breaks transformers' image classes; this mends or names it.

corl needs no torchvision, but lpips, timm and lmms-eval bring one along, and its registry wheel cannot load its
compiled part next to a CPU build of torch. transformers sees that the package exists, imports it, and fails with "Could
not import module". Absent is fine; broken is not.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from corl_cli.core.errors import CorlError

# torchvision registers shape functions for these two even when its compiled part is missing, and fails if nobody
# has declared them. Schemas as in torchvision/csrc/ops.
SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def check() -> None:
    """Make an installed torchvision importable, before transformers' image classes are; CorlError when it cannot be."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or "torchvision" in sys.modules:
        return
    if not _load_compiled(Path(spec.origin).parent):
        undeclared = (name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name))  # by a look before
        for name in undeclared:
            torch.library.define(f"torchvision::{name}", SCHEMAS[name])
    try:
        import_module("torchvision")
    except Exception as error:  # a mismatch shows as RuntimeError, AttributeError or ImportError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorlError(
            f"torchvision is installed but does not work with torch {torch.__version__}: {reason}",
            "Remove it, corl does not need it: pip uninstall torchvision. Or install the build that fits your torch.",
        ) from error


def _load_compiled(package: Path) -> bool:
    """Whether the compiled part (_C.so, _C.pyd) is there and loads."""
    for library in sorted([*package.glob("_C*.so"), *package.glob("_C*.pyd")]):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False
