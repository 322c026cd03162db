"""Errors of sparkgap's that a Spark task raised, out of what Spark says on the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparkgap import _errors

_OURS = re.compile(r"sparkgap\._errors\.(\w+): ([^\n]*)")


def ours_in(text: str) -> Exception | None:
    """Return the error of sparkgap's that a traceback tells of; None where there is none."""
    match = _OURS.search(text)
    kind: Any = None if match is None else getattr(_errors, match[1], None)
    return None if match is None or kind is None else kind(match[2])


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise a task's own error in the place of Spark's, which is of many classes, by session and version."""
    try:
        yield
    except Exception as error:
        own = ours_in(str(error))
        if own is None:
            raise
        raise own from error
