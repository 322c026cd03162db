"""A task that tells: the block in which an executor works on one partition."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import TaskContext

from sparkgap.monitor import events
from sparkgap.monitor.capture import captured
from sparkgap.monitor.events import Task
from sparkgap.monitor.reporter import Attempted, reporter
from sparkgap.monitor.sending import sender
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.wire import Address

MAX_TRACEBACK = 20_000


class TakenAway(Exception):
    """Spark cut the rows of a task off: it needs no more of them, or what gives them has failed."""


@contextmanager
def telling(address: Address | None, run: str, stats: TaskStats, cpus: int = 1) -> Iterator[Attempted | None]:
    """Tell the driver what happens in the block: start, progress, reports, logs, failure, end.

    Args:
        address: where events go; None to tell nothing.
        run: id of the run.
        stats: the counters that the block keeps; read by another thread while it goes on.
        cpus: cores of the task.
    """
    if address is None:
        yield None
        return
    context = TaskContext.get()
    earlier = 0 if context is None else context.attemptNumber()
    begun = reporter().begin(sender(address), run, Task(stats.stage, stats.partition, stats.attempt), stats, cpus, earlier)
    ok: bool | None = False
    try:
        with captured():
            yield begun
        ok = True
    except GeneratorExit:  # Spark needs no more rows, as with LIMIT
        ok = True
        raise
    except TakenAway:  # no failure of the task; Spark knows what it was
        ok = None
        raise
    except BaseException as error:
        begun.say(failure(begun, error))
        raise
    finally:
        reporter().end(begun, ok)


@contextmanager
def phase(begun: Attempted | None, name: str) -> Iterator[None]:
    """Tell what an attempt does in the block, where that can take long: loading a model."""
    if begun is not None:
        begun.say(events.Phase(run=begun.run, time=time.time(), task=begun.task, name=name))
    try:
        yield
    finally:
        if begun is not None:
            begun.say(events.Phase(run=begun.run, time=time.time(), task=begun.task, name=""))


def say_failure(begun: Attempted | None, error: str, message: str, traceback_text: str) -> None:
    """Tell of something that failed within an attempt, and did not end it."""
    if begun is not None:
        begun.say(
            events.Failure(
                run=begun.run, time=time.time(), task=begun.task, error=error, message=message, traceback=traceback_text
            )
        )


def failure(begun: Attempted, error: BaseException) -> events.Failure:
    """Return the event that tells of an exception."""
    text = "".join(traceback.format_exception(error))
    return events.Failure(
        run=begun.run, time=time.time(), task=begun.task, error=type(error).__qualname__, message=str(error)[:MAX_TRACEBACK],
        traceback=text[-MAX_TRACEBACK:],
    )  # fmt: skip
