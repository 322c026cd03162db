"""Values that any browser takes: texts of bounded length, and only the floats that JSON has a word for."""

from __future__ import annotations

import math
from typing import Any

MAX_TEXT = 4000


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return `text`, or its beginning where it has more than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def finite(value: Any) -> Any:
    """Return `value` with every float that JSON has no word for as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
