"""Questions that a task puts to the driver while it runs. In the process of the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DEADLINE = 60.0
"""Seconds that the driver has for an answer."""


class Unanswered(RuntimeError):
    """The driver did not answer in time, or there is no way to ask it."""


Ask = Callable[[Mapping[str, Any], bool, float], Any]
_ask: Ask | None = None


def connect(ask: Ask | None) -> None:
    """Set how questions are put: given the question, whether an answer is wanted, and its deadline in seconds."""
    global _ask
    _ask = ask


def ask(question: Mapping[str, Any], timeout: float = DEADLINE) -> Any:
    """Ask the driver, and wait for its answer.

    Args:
        question: JSON values.
        timeout: seconds to wait.

    Raises:
        Unanswered: no answer came in time, or this is no task of `gap.run`.
    """
    return _way()(question, True, timeout)


def tell(question: Mapping[str, Any]) -> None:
    """Tell the driver something, without waiting.

    Raises:
        Unanswered: this is no task of `gap.run`.
    """
    _way()(question, False, 0.0)


def _way() -> Ask:
    if _ask is None:
        raise Unanswered("This is not a task that sparkgap runs, so there is no driver to ask.")
    return _ask
