"""Numbers as files hold them."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The value for JSON, which has no NaN and no infinity: such a number is null, in mappings and lists too."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
