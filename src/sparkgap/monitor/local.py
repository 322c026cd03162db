"""`gap.report` and `gap.show` outside of a task: the same calls, kept in this process under the run ``"local"``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from sparkgap.monitor import events, relay
from sparkgap.monitor.events import Event
from sparkgap.monitor.points import numbers

RUN = "local"
_log = logging.getLogger("sparkgap.monitor")
_complained = False


def report(step: float | None, values: Mapping[str, Any]) -> None:
    """Keep one call of `gap.report`."""
    clean = numbers(values)
    if clean:
        now = time.time()
        say(events.Metrics(run=RUN, time=now, names=tuple(clean), points=((now, step, *clean.values()),)))


def say(event: Event) -> None:
    """Keep an event in the store of this process; not on an executor, where nobody would ever look at it."""
    if relay.keep(event) or _on_executor():
        return
    from sparkgap.monitor import driver  # on an executor this is never loaded

    driver.monitor().store.say(event)


def _on_executor() -> bool:
    global _complained
    pyspark = sys.modules.get("pyspark")
    if pyspark is None or pyspark.TaskContext.get() is None:
        return False
    if not _complained:
        _complained = True
        _log.warning("gap.report and gap.show tell nothing here: this task has no way to the driver.")
    return True
