"""One call of joblib's `Parallel` as one run: items come as joblib submits them. Driver side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkgap._errors import RunCancelledError
from sparkgap.scheduled.api import limits_of, start
from sparkgap.scheduled.joblib_task import Raised, run_batch
from sparkgap.scheduled.journal import Journal
from sparkgap.scheduled.outcome import Outcome
from sparkgap.scheduled.runner import Item, Options

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.scheduled.resources import Placement


IDLE_SECONDS = 2.0
"""A run that has had no batch for so long ends, and its slots are free; with a later batch another one begins."""


@dataclass(frozen=True)
class Wishes:
    """The options of `gap.parallel_backend`; see there."""

    parallel: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    memory: int | str | None = None
    timeout: float | None = None
    retries: int = 0
    fresh: bool = False
    preload: tuple[str, ...] = ()
    spark: SparkSession | None = None


@dataclass
class Job:
    """One batch on its way.

    Args:
        batch: joblib's `BatchedCalls`.
        callback: is to be called with this job when it has ended.
        tries: how often it may still be run.
    """

    batch: Callable[[], list[Any]]
    callback: Callable[[Job], None] | None
    tries: int
    _ended: threading.Event = field(default_factory=threading.Event)
    _values: list[Any] = field(default_factory=list)
    _error: BaseException | None = None

    def end(self, values: list[Any], error: BaseException | None) -> None:
        """Set what became of it, and tell joblib."""
        self._values, self._error = values, error
        self._ended.set()
        if self.callback is not None:
            self.callback(self)

    def get(self, timeout: float | None = None) -> list[Any]:
        """Return the results of the calls, when they are there.

        Args:
            timeout: seconds to wait for them.

        Raises:
            TimeoutError: that took longer.
            BaseException: what a call raised, or why there are no results.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"The batch has no result after {timeout} s.")
        if self._error is not None:
            raise self._error
        return self._values


class Call:
    """A run that takes batches while joblib makes them, until it is closed or aborted, or has been idle for a while.

    Outcomes are handed over in a thread of its own: joblib goes on with the user's iterator of calls there, which may be
    slow, and the run must not wait for it. An idle run ends, since joblib does not tell when a generator of results has
    all that it will get: it may lie unread for long, and must not keep slots from other runs.

    Args:
        spark: the session.
        place: where slots can be.
        wishes: the user's options.
        parallel: slots at most.
        title: of the run, for people.

    Raises:
        ConfigurationError: an option makes no sense.
        SessionError: the executors cannot reach this process.
    """

    def __init__(self, spark: SparkSession, place: Placement, wishes: Wishes, *, parallel: int, title: str) -> None:
        self._retries = wishes.retries
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._next = 0
        self._closed = False
        self._aborted = False
        limits = limits_of(
            place, timeout=wishes.timeout, memory=wishes.memory, fresh=wishes.fresh, preload=("joblib", *wishes.preload)
        )
        self._journal = Journal.temporary()
        try:
            self._run = start(
                spark, run_batch, self._later(), self._journal, title=title, details={"items": "batches of joblib"},
                place=place, limits=limits, data={}, options=Options(parallel, wishes.retries, stop_at_first=False),
            )  # fmt: skip
        except BaseException:
            self._journal.close()
            raise
        self._thread = threading.Thread(target=self._deliver, name="sparkgap-joblib", daemon=True)
        self._thread.start()

    def submit(self, batch: Callable[[], list[Any]], callback: Callable[[Job], None] | None) -> Job | None:
        """Take one more batch; None where this run takes no more. Any thread."""
        job = Job(batch, callback, self._retries)
        return job if self._offer(job) else None

    def close(self) -> None:
        """Wait until nothing of the run is left; no batch comes any more."""
        self._close()
        self._thread.join()

    def abort(self) -> None:
        """End the run now: processes of tasks are killed, joblib hears nothing more. Returns when none is left."""
        self._aborted = True  # joblib may begin its next call at once, and would take what is late for that one's
        self._close()
        self._run.cancel()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _later(self) -> Iterator[Item]:
        """Give no item, and end when there will be none: a reader of this would wait for more than joblib has in advance."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or not self._jobs)
                if not self._changed.wait_for(lambda: self._closed or self._jobs, IDLE_SECONDS):
                    self._closed = True
        yield from ()

    def _offer(self, job: Job) -> bool:
        """Hand a batch to the run; returns whether it takes any."""
        with self._changed:
            if not self._closed:
                self._jobs[self._next] = job
                self._run.offer([Item(self._next, job.batch)])
                self._next += 1
                self._changed.notify_all()
            return not self._closed

    def _deliver(self) -> None:
        over: BaseException = RunCancelledError("The run of this call of Parallel has ended.")
        try:
            for outcome in self._run.as_completed():
                self._settle(outcome)
        except BaseException as error:  # the run could not go on, or joblib: whoever waits is told
            over = error
        self._close()
        self._run.cancel()
        for job in () if self._aborted else self._jobs.values():  # nobody adds to them any more
            job.end([], over)
        self._journal.close()

    def _settle(self, outcome: Outcome) -> None:
        with self._changed:
            job = self._jobs.pop(outcome.index)
            self._changed.notify_all()
        if self._aborted:
            return
        raised = outcome.value if isinstance(outcome.value, Raised) else None
        if raised is not None and job.tries > 0:
            job.tries -= 1
            if self._offer(job):
                return
        error = raised.error(outcome.index) if raised is not None else outcome.error
        job.end([] if error is not None else outcome.value, error)
