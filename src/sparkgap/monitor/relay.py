"""What a model says in a process of its own, carried to the task that it works for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sparkgap.monitor import capture, events, reporter
from sparkgap.monitor.events import Event

MAX_KEPT = 250
"""Events between two answers of the child; the oldest go first."""

_kept: deque[Event] | None = None


def begin() -> None:
    """Note that this is the process of a model; called by the child."""
    global _kept
    _kept = deque(maxlen=MAX_KEPT)


def keep(event: Event) -> bool:
    """Keep an event for the next answer; False where this is not the process of a model."""
    if _kept is None:
        return False
    _kept.append(event)
    return True


def listening() -> bool:
    """Whether this is the process of a model, so that events are kept."""
    return _kept is not None


def drain() -> list[dict[str, Any]]:
    """Take what waits, encoded; called by the child."""
    if not _kept:
        return []
    told = [events.encode(e) for e in _kept]
    _kept.clear()
    return told


def pass_on(told: Sequence[Mapping[str, Any]]) -> None:
    """Say what the child has said, for the attempt at hand; called by the parent."""
    begun = reporter.at_hand
    if begun is None:
        return
    for raw in told:
        event = events.decode({**raw, "run": begun.run, "task": begun.task})
        if isinstance(event, events.Metrics):
            for at, step, *values in event.points:
                point = dict(zip(event.names, values, strict=True))
                begun.add_point((begun.next_number(), at or time.time(), step, point))
        elif event is not None:
            begun.say(event)


def line(text: str) -> None:
    """Pass on a line that the child has printed."""
    if text.strip():
        capture.say("PRINT", "model process", text, time.time())
