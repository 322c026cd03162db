"""Environment variables that a framework reads while it is imported: set for that moment only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def environment(values: Mapping[str, str], *, keep: bool = False) -> Iterator[None]:
    """Set environment variables inside a `with` block and put back what was there.

    Args:
        values: name -> text.
        keep: leave alone what the user has set already.
    """
    with _lock:
        before = {name: os.environ.get(name) for name in values}
        os.environ.update({n: v for n, v in values.items() if not keep or before[n] is None})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
