"""The executor's side of `gap.run_grouped`: splits the rows of a partition into groups and runs each in a supervised process.

Rows of a group go from Spark into a file, and the process maps that into memory: so no group has to fit into the memory of
Spark's Python worker, and a group is never copied from process to process.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.monitor import capture, relay
from sparkgap.monitor.reporter import Attempted
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import say_failure, telling
from sparkgap.monitor.wire import Address
from sparkgap.scheduled.bench import Bench, Ended, Program
from sparkgap.scheduled.frames import FrameError
from sparkgap.scheduled.link import Link
from sparkgap.scheduled.outcome import Ending, encode

_log = logging.getLogger("sparkgap.scheduled")

SCHEMA = "rank bigint, rows bigint, ending binary"


@dataclass(frozen=True)
class OnGroup:
    """The user's function, as a function of the file of a group. Called in the process that works.

    Args:
        fn: ``fn(key, table)``.
        names: columns of the file: the keys, then the others.
        keys: how many of them are keys.
        columns: what the function gets.
        single: whether a key is one value, and not a tuple.
        pandas: whether it gets a pandas DataFrame.
    """

    fn: Callable[[Any, Any], Any]
    names: tuple[str, ...]
    keys: int
    columns: tuple[str, ...]
    single: bool
    pandas: bool

    def __call__(self, path: str) -> Any:
        """Open the file and run the function."""
        table = pa.ipc.open_file(pa.memory_map(path)).read_all().rename_columns(list(self.names))
        key = tuple(table.column(place)[0].as_py() for place in range(self.keys))
        chosen = table.select(list(self.columns))
        return self.fn(key[0] if self.single else key, chosen.to_pandas() if self.pandas else chosen)


@dataclass(frozen=True)
class GroupPlan:
    """Everything that a task needs to know.

    Args:
        run: id of the run.
        program: what to run, and its limits.
        channel: where the monitor's events go; None for nowhere.
        keys: how many columns, the first ones, are keys.
        cpus: cores of a task.
        retries: further attempts of a group that failed.
        stop: what to do at the first group without a value; None: go on.
    """

    run: str
    program: Program
    channel: Address | None
    keys: int
    cpus: int
    retries: int
    stop: Alarm | None


@dataclass(frozen=True)
class Alarm:
    """Where a task tells at once that a group has no value, where that ends the run.

    Args:
        host: where the driver listens; "" where executors cannot reach it: then the run ends as its job does.
        port: likewise.
        token: proves that a task is the run's.
        certificate: PEM text of the driver's certificate, where the connection is to be encrypted, or "".
    """

    host: str
    port: int
    token: str = field(repr=False)
    certificate: str = field(default="", repr=False)

    def raise_(self, group: Stored, ending: Ending) -> None:
        """Tell the driver."""
        if not self.host:
            return
        facts = {"rank": group.rank, "kind": ending.kind, "texts": dict(ending.texts)}
        try:
            Link(self.host, self.port, self.token, facts, self.certificate).close()
        except (OSError, FrameError) as error:  # the outcome itself tells the same, only later
            _log.warning("The driver at %s:%d could not be told of a failed group: %s", self.host, self.port, error)


class Stored(NamedTuple):
    """A group in its file."""

    rank: int
    rows: int
    key: tuple[Any, ...]
    path: str


def run_groups(plan: GroupPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run the groups of a partition, whose rows come sorted by rank. The body of `mapInArrow`; one row a group."""
    stats = _stats()
    folder = Path(tempfile.mkdtemp(prefix="sparkgap-group-", dir=_scratch()))
    bench: Bench | None = None
    try:
        with telling(plan.channel, plan.run, stats, plan.cpus) as begun:
            for group in store(folder, plan.keys, _timed(stats, batches)):
                bench = bench or Bench(plan.program)
                ending = GroupTask(plan, bench, stats, begun).run(group)
                yield pa.record_batch({"rank": [group.rank], "rows": [group.rows], "ending": [encode(ending)]})
                if plan.stop is not None and ending.kind != "ok":
                    plan.stop.raise_(group, ending)
                    break
            for _ in batches:  # to the end: else the worker is not reused
                pass
    finally:
        if bench is not None:
            bench.close()
        shutil.rmtree(folder, ignore_errors=True)


def store(folder: Path, keys: int, batches: Iterable[pa.RecordBatch]) -> Iterator[Stored]:
    """Write each group into a file, one at a time: it is there until the next one is asked for.

    Args:
        folder: for the files.
        keys: how many columns after the first are keys.
        batches: rows, sorted by the first column, the rank of their group.

    Raises:
        DataError: rows have no rank, as their key was not there when keys were counted.
    """
    rank: int | None = None
    writer: _Writer | None = None
    for batch in batches:
        for number, piece in _pieces(batch):
            if number != rank:
                if writer is not None and rank is not None:
                    yield writer.finished(rank)
                rank, writer = number, _Writer(folder, piece, keys)
            assert writer is not None
            writer.write(piece)
    if writer is not None and rank is not None:
        yield writer.finished(rank)


class _Writer:
    """Writes the file of one group."""

    def __init__(self, folder: Path, first: pa.RecordBatch, keys: int) -> None:
        path = folder / "rows.arrow"
        path.unlink(missing_ok=True)  # a new file: a process may still have the last one mapped
        self._path = str(path)
        self._rows = 0
        self._key = tuple(first.column(place)[0].as_py() for place in range(keys))
        self._file = pa.OSFile(self._path, "wb")
        self._out = pa.ipc.new_file(self._file, first.schema)

    def write(self, piece: pa.RecordBatch) -> None:
        self._out.write_batch(piece)
        self._rows += piece.num_rows

    def finished(self, rank: int) -> Stored:
        self._out.close()
        self._file.close()
        return Stored(rank, self._rows, self._key, self._path)


def _pieces(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cut a batch where the rank changes."""
    ranks = batch.column(0)
    if ranks.null_count:
        raise DataError(
            "Some rows have keys that were not there when the rows of each key were counted: the DataFrame gives other rows "
            "each time it is read. Write it to files first, or df.cache() it."
        )
    numbers = ranks.to_numpy()
    columns = batch.select(list(range(1, batch.num_columns)))
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()] if len(numbers) else []
    for start, end in zip(starts, [*starts[1:], len(numbers)], strict=True):
        yield int(numbers[start]), columns.slice(start, end - start)


class GroupTask:
    """Runs groups on a bench.

    Args:
        plan: of the run.
        bench: where they run.
        stats: what the monitor is told of.
        begun: who is told; None for nobody.
    """

    def __init__(self, plan: GroupPlan, bench: Bench, stats: TaskStats, begun: Attempted | None) -> None:
        self._plan = plan
        self._bench = bench
        self._stats = stats
        self._begun = begun

    def run(self, group: Stored) -> Ending:
        """Run one group to its end, with its retries."""
        attempts = 1
        while (ended := self._attempt(group)).kind != "ok" and attempts <= self._plan.retries:
            attempts += 1
        self._count(group, ended)
        texts = {name: getattr(ended, name) for name in ("error", "message", "traceback", "output")}
        return Ending(
            ended.kind, ended.value, attempts, ended.seconds, ended.started, ended.peak_rss, ended.exit_code, ended.signal,
            socket.gethostname(), {name: text for name, text in texts.items() if text},
        )  # fmt: skip

    def _attempt(self, group: Stored) -> Ended:
        from pyspark import cloudpickle

        found: list[Ended] = []
        with self._stats.timed("model"):
            self._bench.give(cloudpickle.dumps([group.path]), 1)
            while not self._bench.idle:
                news = self._bench.wait(None)
                found += news.ended
                for stream, text in news.printed:
                    capture.say("PRINT", stream, text, time.time())
                relay.pass_on(news.said)
                for _, question in news.asked:
                    self._bench.answer({"id": question["id"], "failure": "nobody answers questions in gap.run_grouped"})
        (ended,) = found
        return ended

    def _count(self, group: Stored, ended: Ended) -> None:
        stats = self._stats
        stats.rows_in += group.rows
        stats.bytes_in += os.path.getsize(group.path)
        stats.batches += 1
        stats.batch_rows = max(stats.batch_rows, group.rows)
        stats.batch_done(ended.seconds)
        if ended.kind == "ok":
            stats.rows_out += 1
            stats.bytes_out += len(ended.value)
            return
        say_failure(self._begun, ended.error or ended.kind, f"Group {group.key}: {ended.message}", ended.traceback)


def _timed(stats: TaskStats, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while True:
        with stats.timed("read"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _stats() -> TaskStats:
    from pyspark import TaskContext

    context = TaskContext.get()
    if context is None:
        return TaskStats()
    return TaskStats(context.stageId(), context.partitionId(), context.taskAttemptId())


def _scratch() -> str | None:
    """Return the folder in which Spark keeps its own temporary files here, where it tells; groups may be large."""
    first = os.environ.get("SPARK_LOCAL_DIRS", "").partition(",")[0]
    return first if first and os.path.isdir(first) else None
