"""`gap.report` and `gap.show` outside of a task: the same calls, kept in this process under the run ``"local"``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sparkgap.monitor import events
from sparkgap.monitor.events import Event
from sparkgap.monitor.points import numbers

RUN = "local"


def report(step: float | None, values: Mapping[str, Any]) -> None:
    """Keep one call of `gap.report`."""
    clean = numbers(values)
    if clean:
        now = time.time()
        say(events.Metrics(run=RUN, time=now, names=tuple(clean), points=((now, step, *clean.values()),)))


def say(event: Event) -> None:
    """Keep an event in the store of this process."""
    from sparkgap.monitor import driver  # on an executor this is never loaded

    driver.monitor().store.say(event)
