"""Which process family this process belongs to: the first family that loads a model claims it."""

from __future__ import annotations

import sys
import threading

_lock = threading.Lock()
_claimed: str | None = None


def claim(wanted: str | None) -> bool:
    """Say whether a model of that family may load in this process, and claim the process for it if so.

    Args:
        wanted: name of the family; None for models that can live with anything.

    Returns:
        False where another family has the process already: the model needs a process of its own.
    """
    global _claimed
    if wanted is None:
        return True
    with _lock:
        if _claimed is None:
            _claimed = _told_by_imports() or wanted
        return _claimed == wanted


def _told_by_imports() -> str | None:
    """Find the family that user code has claimed already by importing a framework by itself."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend"):
        backend = str(keras.backend.backend())
        return "tensorflow" if backend == "tensorflow" else f"keras-{backend}"
    for name in ("tensorflow", "paddle"):
        if name in sys.modules:
            return name
    return None
