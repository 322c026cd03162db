"""What `gap.run_grouped` returns: a run under way, and its outcomes. Driver side."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import RunCancelledError, RunError, SparkGapError, TaskError
from sparkgap.scheduled.desk import Desk, Opened
from sparkgap.scheduled.group_models import ModelsByKey, models_of
from sparkgap.scheduled.group_outcome import GroupOutcome, group_outcome, group_table, too_large
from sparkgap.scheduled.outcome import decode, error_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession
    from pyspark.sql.types import StructType

INTERRUPT_SECONDS = 0.5

_log = logging.getLogger("sparkgap.scheduled")


@dataclass(frozen=True)
class Groups:
    """The groups of a run, the largest first.

    Args:
        keys: the key columns, a row for each group.
        rows: how many rows each has.
        single: whether a key is one value, and not a tuple.
        limit: groups with more rows are not run.
    """

    keys: pa.Table
    rows: list[int]
    single: bool
    limit: int | None

    def key(self, rank: int) -> Any:
        """Return the key of a group."""
        values = tuple(column[rank].as_py() for column in self.keys.columns)
        return values[0] if self.single else values

    @property
    def refused(self) -> int:
        """How many are too large: the first ones."""
        return 0 if self.limit is None else sum(count > self.limit for count in self.rows)


class GroupedRun:
    """One task a group, under way on Spark. Made by `gap.run_grouped`; lives on the driver, and keeps all outcomes there.

    Outcomes come all at once, when Spark's job has ended; whoever asks for them waits for that. They are in the order of the
    size of the groups, the largest first.

    Attributes:
        run: its id in the monitor, for ``sparkgap watch`` and ``gap.runs()``.
    """

    def __init__(self, run: str, groups: Groups, spark: SparkSession, desk: Desk | None, *, stop: bool) -> None:
        self.run = run
        self._groups = groups
        self._spark = spark
        self._desk = desk
        self._stop = stop
        self._tag = f"sparkgap-{uuid.uuid4().hex}"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._outcomes: list[GroupOutcome] = []

    def begin(self, collect: Callable[[], list[Row]] | None) -> None:
        """Start; called once, by `gap.run_grouped`.

        Args:
            collect: runs Spark's job and returns its rows, see `group_task.SCHEMA`; None where no group is to be run.
        """
        refused = [too_large(self._groups.key(n), self._groups.rows[n], n, self._groups.limit or 0) for n in self._refused()]
        if (self._stop and refused) or collect is None:
            self._error = refused[0].error if self._stop and refused else None
            self._outcomes = refused
            self._end()
            return
        threading.Thread(target=self._work, args=(collect, refused), name="sparkgap-groups", daemon=True).start()
        if self._desk is not None:
            threading.Thread(target=self._listen, args=(self._desk,), name="sparkgap-groups-alarm", daemon=True).start()

    def __iter__(self) -> Iterator[GroupOutcome]:
        """Wait for the end, and give the outcomes, the largest group's first.

        Raises:
            TaskError: a group failed, and the run was to stop at that.
            RunError: Spark's job failed, or the data changed while it was read.
            RunCancelledError: the run was cancelled.
        """
        return iter(self._ended())

    def values(self) -> dict[Any, Any]:
        """Wait for the end, and return ``{key: value}``.

        Raises:
            TaskError: a group has no value.
            RunError, RunCancelledError: the run has not come to its end.
        """
        return {o.key: o.unwrap() for o in self._ended()}

    def to_arrow(self) -> pa.Table:
        """Wait for the end, and return a table with a row a group: its key, then rows, kind, value, error and so on.

        The column ``value`` has the type that Arrow finds for the values; those of which it cannot make a column are given
        pickled, as binary. Raises as iterating does.
        """
        return group_table(self._groups.keys, self._ended())

    def to_df(self) -> DataFrame:
        """Wait for the end, and return the outcomes as a Spark DataFrame; see `to_arrow`."""
        table = self.to_arrow()
        return self._spark.createDataFrame(table, None if table.num_rows else _schema(table))

    def models(self, **options: Any) -> ModelsByKey:
        """Wait for the end, and return the values as models by key; groups without a value have none.

        Args:
            options: of `gap.load`, for each of them.

        Raises:
            ModelError: a value is nothing that `gap.load` takes.
            TaskError, RunError, RunCancelledError: as iterating does.
        """
        return models_of(self._groups.keys, self._ended(), single=self._groups.single, **options)

    def cancel(self) -> None:
        """End the run now: Spark's tasks are cancelled, and their processes killed. Returns when Spark's job is over."""
        self._cancel("The run was cancelled.")

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until no outcome will come any more; False where that took longer. Raises nothing for failed groups."""
        try:
            return self._over.wait(seconds)
        except KeyboardInterrupt:
            self._cancel("The run was cancelled by Ctrl-C.")
            raise

    @property
    def done(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self._over.is_set()

    @property
    def error(self) -> BaseException | None:
        """What ended the run before its end; None where nothing did."""
        return self._error

    def __len__(self) -> int:
        """Return how many groups there are."""
        return len(self._groups.rows)

    def __enter__(self) -> GroupedRun:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.done:
            self.cancel()

    def __repr__(self) -> str:
        state = "running" if not self.done else "done" if self._error is None else f"ended by {type(self._error).__name__}"
        return f"GroupedRun({self.run!r}, {len(self):,} groups, {state})"

    def _refused(self) -> range:
        return range(self._groups.refused)

    def _ended(self) -> list[GroupOutcome]:
        self.wait()
        if isinstance(self._error, TaskError):  # a new one for each reader: else it would gather their tracebacks
            known = self._error
            raise TaskError(known.message, known.index, known.kind, known.error, known.traceback)
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._outcomes

    # the threads of the run

    def _work(self, collect: Callable[[], list[Row]], refused: list[GroupOutcome]) -> None:
        try:
            _spark.tag_jobs(self._spark, self._tag)
            self._take(collect(), refused)
        except SparkGapError as error:
            self._note(error)
        except Exception as error:  # whatever Spark or its client raise
            self._note(RunError(f"The Spark job of the groups failed: {type(error).__name__}: {error}"))
        finally:
            self._end()

    def _take(self, ended: list[Row], refused: list[GroupOutcome]) -> None:
        groups, found = self._groups, {}
        for rank, rows, raw in ended:
            if groups.rows[rank] != rows:
                raise _changed(groups.key(rank), groups.rows[rank], rows)
            found[rank] = group_outcome(groups.key(rank), rows, rank, decode(bytes(raw)))
        bad = next((found[n] for n in sorted(found) if found[n].error is not None), None)
        if self._stop and bad is not None and bad.error is not None:
            raise bad.error
        for rank in range(len(refused), len(self)):
            if rank not in found:
                raise _changed(groups.key(rank), groups.rows[rank], 0)
        self._outcomes = [*refused, *(found[rank] for rank in sorted(found))]

    def _listen(self, desk: Desk) -> None:
        """Wait for a task that tells of a failed group."""
        try:
            while not self.done:
                for news in desk.poll(None):
                    if isinstance(news, Opened):
                        rank = int(news.facts["rank"])
                        what = f"Group {self._groups.key(rank)!r}"
                        self._fail(error_of(what, rank, news.facts["kind"], news.facts["texts"]))
        finally:
            desk.close()

    def _note(self, error: BaseException) -> None:
        """Keep the first thing that went wrong: what follows it is its consequence."""
        with self._lock:
            if self._error is None and not self.done:
                self._error = error

    def _cancel(self, why: str) -> None:
        self._fail(RunCancelledError(why))
        while not self._over.wait(INTERRUPT_SECONDS):  # an interrupt reaches only what has begun by then
            self._fail(RunCancelledError(why))

    def _fail(self, error: BaseException) -> None:
        self._note(error)
        if self.done:
            return
        try:
            _spark.cancel_jobs(self._spark, self._tag)
        except Exception as failure:  # the session has ended, or its connection: then so has the job
            _log.debug("The job of the groups could not be interrupted: %s", failure)

    def _end(self) -> None:
        with self._lock:
            self._over.set()
        if self._desk is not None:
            self._desk.post(None)


def _schema(table: pa.Table) -> StructType:
    """Return the schema of a table without rows, in which Connect finds none."""
    from pyspark.sql.types import NullType, StructField, StructType

    kinds = [NullType() if pa.types.is_null(f.type) else _spark.spark_type(f.type) for f in table.schema]
    return StructType([StructField(name, kind) for name, kind in zip(table.column_names, kinds, strict=True)])


def _changed(key: Any, before: int, now: int) -> RunError:
    return RunError(
        f"Group {key!r} had {before:,} rows when they were counted, and {now:,} when they were read: the DataFrame gives "
        "other rows each time. Write it to files first, or df.cache() it."
    )
