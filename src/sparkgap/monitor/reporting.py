"""`gap.report` and `gap.show`: what code that runs inside a task says to the people who watch."""

from __future__ import annotations

import logging
import time
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap.monitor import events, local, reporter, shown

_log = logging.getLogger("sparkgap.monitor")

SHOW_EVERY = 0.25
"""Seconds between two things of the same name: what comes sooner is counted as dropped, and not even looked at."""


def report(step: float | None = None, **values: float) -> None:
    """Report numbers from inside a task: they are on the driver, on the page and in the exporters within a second.

    Never blocks and never fails the work; where too much is said, the oldest values go, and are counted. Takes less than
    a microsecond. Outside of a task the same call is kept in this process, under the run ``"local"``.

    Args:
        step: where in the work this was.
        values: numbers by name; arrays and tensors of one element will do.

    Example:
        >>> import sparkgap as gap
        >>> gap.report(loss=0.25, step=10)
    """
    begun = reporter.at_hand
    if begun is None:
        local.report(step, values)
        return
    number = begun.next_number()
    if number % begun.every:
        begun.add_newest((number, step, values))
    else:
        begun.add_point((number, time.time(), step, values))


def show(name: str, value: Any, *, kind: str | None = None, step: int | None = None) -> None:
    """Show something to look at from inside a task: it appears in the gallery of the page.

    It is made small first: at most 16 pictures, 50 rows, one histogram. What cannot be shown is said in the log and
    never fails the work. Several things of one name are states of the same thing, at most four a second.

    Args:
        name: what it is called.
        value: pictures, a table, an array or tensor, or a text; see `sparkgap.monitor.shown.prepare`.
        kind: ``"image"``, ``"table"``, ``"tensor"``, ``"histogram"`` or ``"text"``. Default: by the value.
        step: where in the work this was.

    Example:
        >>> import numpy as np
        >>> import sparkgap as gap
        >>> gap.show("weights", np.zeros((3, 4)), kind="histogram")
    """
    begun = reporter.at_hand
    if begun is not None and not begun.may_show(str(name), SHOW_EVERY):
        begun.drop("artifact")
        return
    try:
        made = shown.prepare(value, kind)
    except ConfigurationError as error:
        _log.warning("gap.show(%r): %s", name, error)
        return
    except Exception:  # values of any library: looking at one must not end the work
        _log.warning("gap.show(%r) could not look at a %s.", name, type(value).__qualname__, exc_info=True)
        return
    run, task = (begun.run, begun.task) if begun is not None else (local.RUN, None)
    event = events.Artifact(
        run=run, time=time.time(), task=task, name=str(name), kind=made.kind, media=made.media, data=made.data,
        step=step, caption=made.caption,
    )  # fmt: skip
    if begun is not None:
        begun.say(event)
    else:
        local.say(event)
