"""What `gap.run` returns: a run under way, and its outcomes."""

from __future__ import annotations

import itertools
import pickle
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap._errors import RankError, RunCancelledError, RunError, TaskError
from sparkgap.scheduled.outcome import Outcome, decode, is_ok, outcome, value_of
from sparkgap.scheduled.runner import Item, Runner
from sparkgap.scheduled.tables import table_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


LEAVE_SECONDS = 5.0
"""Whoever has seen the last outcome waits at most so long for the slots to leave."""


class TaskRun:
    """Independent tasks under way on Spark. Made by `gap.run`; lives on the driver.

    Outcomes lie in a file, not in memory, and can be read again and again, by several threads, while the run goes on
    and after it. Iterating gives them in the order of the items. A run that nobody refers to any more is cancelled.

    Attributes:
        run: its id in the monitor, for ``sparkgap watch`` and ``gap.runs()``.
    """

    def __init__(self, run: str, runner: Runner, items: Sequence[Any] | None, spark: SparkSession) -> None:
        self.run = run
        self._runner = runner
        self._items = items
        self._spark = spark
        self._finalizer = weakref.finalize(self, runner.release)

    def __iter__(self) -> Iterator[Outcome]:
        """Give the outcomes in the order of the items, each as soon as it and those before it are there.

        Raises:
            TaskError: an item failed, and the run was to stop at that.
            RunError: the run could not go on.
            RunCancelledError: it was cancelled.
        """
        for index in self._indices():
            yield self._read(index)

    def as_completed(self) -> Iterator[Outcome]:
        """Give the outcomes in the order in which they come; raises as iterating does."""
        order = self._runner.journal.order()
        for place in itertools.count():
            if not self._await(partial(_is_longer, order, place)):
                return
            yield self._read(order[place])

    def values(self) -> list[Any]:
        """Wait for the end, and return all values in the order of the items.

        Raises:
            TaskError: an item has none.
            RunError, RunCancelledError: the run has not come to its end.
        """
        journal = self._runner.journal
        found: list[Any] = []
        while len(found) in journal or self._await(lambda: len(found) in journal):
            for index, payload in enumerate(journal.read_on(len(found)), len(found)):
                found.append(value_of(index, payload) if is_ok(payload) else self._read(index).unwrap())
        return found

    def to_arrow(self) -> pa.Table:
        """Wait for the end, and return a table with a row an outcome: index, kind, value, error and so on.

        The column ``value`` has the type that Arrow finds for the values; those of which it cannot make a column are
        given pickled, as binary. Raises as iterating does.
        """
        return table_of(self)

    def to_df(self) -> DataFrame:
        """Wait for the end, and return the outcomes as a Spark DataFrame; see `to_arrow`."""
        return self._spark.createDataFrame(self.to_arrow())

    def offer(self, items: list[Item]) -> None:
        """Give the run further items; for verbs whose items come from outside. Any thread."""
        self._runner.offer(items)

    def call(self, what: Callable[[], None]) -> None:
        """Have something done in the thread of the run; for verbs whose tasks need each other. Any thread."""
        self._runner.call(what)

    def abort(self, index: int) -> None:
        """Have the process of an item end with a dump of its stacks; see `Runner.abort`."""
        self._runner.abort(index)

    def cancel(self, why: RunError | None = None, *, wait: bool = True) -> None:
        """End the run now: processes of tasks are killed; outcomes stay readable.

        Args:
            why: what readers of further outcomes get; `RunCancelledError` by default.
            wait: return when nothing of the run is left.
        """
        self._runner.cancel(why)
        if wait:
            self._runner.join()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no outcome will come any more; False where that took longer. Raises nothing for failed items."""
        return self._until(lambda: self._runner.over, seconds)

    @property
    def done(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self._runner.over

    @property
    def error(self) -> BaseException | None:
        """What ended the run before its end; None where nothing did."""
        return self._runner.error

    def __len__(self) -> int:
        """Return how many outcomes there are by now."""
        return len(self._runner.journal)

    def __enter__(self) -> TaskRun:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._runner.over:
            self._runner.cancel()
        self._runner.join()

    def __repr__(self) -> str:
        state = "running" if not self.done else "done" if self.error is None else f"ended by {type(self.error).__name__}"
        return f"TaskRun({self.run!r}, {len(self):,} outcomes, {self._runner.failed:,} without a value, {state})"

    def _indices(self) -> Iterator[int]:
        """Give 0, 1, 2 … as soon as each has an outcome, to the end of the run."""
        journal = self._runner.journal
        for index in itertools.count():
            if index not in journal and not self._await(partial(journal.__contains__, index)):
                return
            yield index

    def _await(self, there: Callable[[], bool]) -> bool:
        """Wait until something is there, or the run is over; whether it is there."""
        self._until(lambda: there() or self._runner.over, None)
        if there():
            return True
        self._until(lambda: self._runner.ended, LEAVE_SECONDS)  # its jobs, too: users stop the session after the last outcome
        if self._runner.error is not None:
            raise _again(self._runner.error)
        return False

    def _until(self, what: Callable[[], bool], seconds: float | None) -> bool:
        """Wait for the runner; Ctrl-C in a wait cancels the run."""
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            with self._runner.changed:
                while not what():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._runner.changed.wait(left)
            return True
        except KeyboardInterrupt:
            self._runner.cancel(RunCancelledError("The run was cancelled by Ctrl-C."))
            self._runner.join()
            raise

    def _read(self, index: int) -> Outcome:
        record = self._runner.journal.read(index)
        if not is_ok(record.payload) and self._runner.stops_at_first:
            self._until(lambda: self._runner.over, None)  # it ends the run; whoever sees it may go on with the journal at once
        item = self._items[index] if self._items is not None else pickle.loads(record.item) if record.item else None
        return outcome(index, item, decode(record.payload))


def _is_longer(order: Sequence[int], place: int) -> bool:
    return len(order) > place


def _again(error: BaseException) -> BaseException:
    """Return an error for one more reader: one exception raised twice would gather the tracebacks of both."""
    if isinstance(error, TaskError):
        return TaskError(error.message, error.index, error.kind, error.error, error.traceback)
    if isinstance(error, RankError):
        return RankError(error.message, error.rank, error.kind, error.error, error.traceback)
    return error.with_traceback(None)
