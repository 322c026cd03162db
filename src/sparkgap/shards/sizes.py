"""Sizes as users write them."""

from __future__ import annotations

import re

from sparkgap._errors import ConfigurationError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size_of(name: str, size: int | str) -> int:
    """Return the bytes of a number, or of ``"64m"`` and the like.

    Raises:
        ConfigurationError: it is no size above 0; `name` tells which option.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", str(size).lower())
    found = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if found <= 0:
        raise ConfigurationError(f'{name} is {size!r}: bytes above 0, or a number with k, m, g or t, like "64m".')
    return found
