"""Policies on transformers' classes, which a torchvision that does not fit would break: it is mended on import."""

from contextlib import suppress

from corl_cli.core.errors import CorlError
from corl_cli.models import torchvision_guard

with suppress(CorlError):  # what cannot be mended is told by whoever loads a model
    torchvision_guard.check()
