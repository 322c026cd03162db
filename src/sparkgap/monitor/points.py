"""Numbers that users report, made clean."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("sparkgap.monitor")
_complained: set[str] = set()


def numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return values as JSON has them: NaN and infinities are None. One that is no number is left out, and said once."""
    found: dict[str, float | None] = {}
    for name, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            if name not in _complained:
                _complained.add(name)
                _log.warning(
                    "gap.report got %s=%s, which is not one number (%s); left out.", name, type(value).__name__, error
                )
            continue
        found[name] = number if number - number == 0 else None
    return found
