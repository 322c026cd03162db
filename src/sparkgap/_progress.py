"""A live line of progress on a terminal while Spark works; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkgap._spark import is_connect

if TYPE_CHECKING:
    from pyspark import StatusTracker
    from pyspark.sql import SparkSession
    from rich.console import Console
    from rich.progress import Progress

_EVERY = 0.2  # seconds between two looks at Spark
_SETTLE_LOOKS = 10
_GIVE_UP = 5.0  # seconds that the end waits for a look that is under way


@dataclass(frozen=True)
class Status:
    """Tasks of the Spark jobs watched so far.

    Attributes:
        done: tasks that ended well.
        total: tasks known; grows when a job brings another stage.
        running: tasks that run now.
        failed: attempts that failed; Spark tries a task again where it may.
    """

    done: int = 0
    total: int = 0
    running: int = 0
    failed: int = 0


@contextlib.contextmanager
def progress(spark: SparkSession, *, enabled: bool | None = None, console: Console | None = None) -> Iterator[None]:
    """Show how far the Spark work in the block is; driver side, in one line on stderr.

    Spark is asked five times a second in a thread of its own (classic), or tells by itself (Connect). A look that
    fails ends the display and never the work. At the end one line stays: tasks and seconds.

    Args:
        spark: the session that works.
        enabled: whether to show anything; default: only where stderr is a terminal.
        console: where to draw; default: stderr.
    """
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield
        return
    from rich.console import Console as RichConsole

    from sparkgap.monitor.terminal import hold

    console = console or RichConsole(stderr=True)
    began = time.monotonic()
    with hold(), _drawing(console) as draw, _watching(spark, draw) as latest:
        yield
    status = latest()
    console.print(final_line(status, time.monotonic() - began), highlight=False)


def final_line(status: Status, seconds: float) -> str:
    """Return the line that stays, e.g. ``"12 of 12 tasks in 3.4 s"``.

    Short work on Connect may be over before the server's first count, and its last count may be an early one.
    """
    failed = f", {status.failed} failed attempts" if status.failed else ""
    if status.total and status.done == status.total:
        return f"{status.done} of {status.total} tasks in {seconds:.1f} s{failed}"
    seen = f" ({status.done} of {status.total} tasks seen{failed})" if status.total else ""
    return f"done in {seconds:.1f} s{seen}"


@contextlib.contextmanager
def _drawing(console: Console) -> Iterator[Callable[[Status], None]]:
    """A rich progress line; what it gives is called with each new status, from any thread."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("waiting for tasks", total=None)
        yield lambda status: _redraw(bar, task, status)


def _redraw(bar: Progress, task: Any, status: Status) -> None:
    if status.total:
        text = f"{status.done}/{status.total} tasks, {status.running} running"
        bar.update(task, description=text, completed=status.done, total=status.total)


@contextlib.contextmanager
def _watching(spark: SparkSession, draw: Callable[[Status], None]) -> Iterator[Callable[[], Status]]:
    """Follow the jobs that start from now on; gives a function that returns the latest status."""
    if is_connect(spark):
        told = Told(draw)
        spark.registerProgressHandler(told)
        try:
            yield lambda: told.status
        finally:
            spark.removeProgressHandler(told)
        return
    poll = Poll(spark.sparkContext.statusTracker(), draw)
    thread = threading.Thread(target=poll.run, name="sparkgap-progress", daemon=True)
    thread.start()
    try:
        yield lambda: poll.status
    finally:
        poll.stop.set()
        thread.join(_GIVE_UP)


class Poll:
    """Classic: asks Spark's status tracker again and again, until `stop` is set.

    Args:
        tracker: `sparkContext.statusTracker()`.
        draw: called with each new status.
    """

    def __init__(self, tracker: StatusTracker, draw: Callable[[Status], None]) -> None:
        self.stop = threading.Event()
        self.status = Status()
        self._tracker = tracker
        self._draw = draw
        self._before = set(tracker.getJobIdsForGroup(None))
        self._stages: dict[int, Status] = {}

    def run(self) -> None:
        """Look, draw, wait; after the stop, look until the count is final."""
        from py4j.protocol import Py4JError  # type: ignore[import-untyped]

        try:
            while not self.stop.wait(_EVERY):
                self._look()
            self._settle()
        except (Py4JError, OSError, AttributeError):
            return  # Spark has ended or ends (py4j also fails on attributes then); the work itself reports that

    def _settle(self) -> None:
        """Spark tells its tracker a little after it gives the result: look until no job of ours is under way there."""
        pause = threading.Event()  # never set
        for _ in range(_SETTLE_LOOKS):
            ended = not set(self._tracker.getActiveJobsIds()) - self._before
            self._look()
            if ended or pause.wait(_EVERY / 2):
                return

    def _look(self) -> None:
        jobs = {*self._tracker.getJobIdsForGroup(None), *self._tracker.getActiveJobsIds()} - self._before
        for job in jobs:
            info = self._tracker.getJobInfo(job)
            for stage in info.stageIds if info is not None else ():
                self._stages[int(stage)] = self._stage(int(stage))
        self.status = _sum(self._stages.values())
        self._draw(self.status)

    def _stage(self, stage: int) -> Status:
        known = self._stages.get(stage)
        if known is not None and known.total and known.done == known.total:
            return known  # finished: not asked again
        info = self._tracker.getStageInfo(stage)
        if info is None or not (info.numActiveTasks or info.numCompletedTasks or info.numFailedTasks):
            return Status()  # skipped, or not begun: would be counted as never done
        return Status(info.numCompletedTasks, info.numTasks, info.numActiveTasks, info.numFailedTasks)


@dataclass
class Told:
    """Connect: the handler that the client calls while it waits for an operation."""

    draw: Callable[[Status], None]
    status: Status = Status()
    _operations: dict[str | None, Status] = field(default_factory=dict)

    def __call__(self, stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Take one report; its shape is fixed by PySpark's `ProgressHandler`."""
        rows = [(s.num_completed_tasks, s.num_tasks) for s in stages or ()]
        running = 0 if done else inflight_tasks
        self._operations[operation_id] = Status(sum(d for d, _ in rows), sum(t for _, t in rows), running)
        self.status = _sum(self._operations.values())
        self.draw(self.status)


def _sum(parts: Iterable[Status]) -> Status:
    total = Status()
    for part in parts:
        total = Status(
            total.done + part.done,
            total.total + part.total,
            total.running + part.running,
            total.failed + part.failed,
        )
    return total
