"""The Spark task of a streamed pass: it deals the rows of one partition out to the ranks. On an executor.

A rank that has room says so, and gets one piece then; of those that have room, the one with the fewest rows of this partition
is next. So no task waits for a rank that is full while another one waits for rows, and all get about the same.

Where Spark runs a task again, ranks tell which pieces of the partition they have, by number and checksum. These are passed
over, if they are the same again; if they are not, rows would be seen twice or never, and that is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, wait
from typing import Any

import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.cooperative.stream_plan import piece_rows
from sparkgap.cooperative.stream_wire import FEED, GO, OVER, WHOLE, Hall, Piece, conformed
from sparkgap.shards.conform import Field, Shape

SCHEMA = "rank int, rows bigint"
GONE = "Connection closed by peer: a worker that takes rows has gone"
"""How a task says that it is not the one which failed."""


@dataclass(frozen=True)
class PassPlan:
    """What a task of a pass needs to know.

    Args:
        number: of the pass.
        hall: where the ranks are.
        fields: the columns.
    """

    number: int
    hall: Hall
    fields: tuple[Field, ...]


def feed_partition(plan: PassPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Deal out one partition, and tell how many of its rows each rank has. The body of `mapInArrow`.

    Raises:
        DataError: a rank has gone, or the rows are not the same when they are computed again.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    partition, attempt = (0, 0) if context is None else (context.partitionId(), context.taskAttemptId())
    try:
        with Dealer(plan, partition, attempt) as dealer:
            for batch in batches:
                if batch.num_rows:
                    dealer.deal(batch)
            rows = dealer.finish()
    except (EOFError, ConnectionError, AuthenticationError) as error:
        raise DataError(f"{GONE} ({type(error).__name__}: {error}).") from error
    yield pa.record_batch({"rank": pa.array(range(len(rows)), pa.int32()), "rows": pa.array(rows, pa.int64())})


def close_pass(plan: PassPlan, facts: Mapping[str, Any], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Tell all ranks that a pass is over. The body of `mapInArrow`.

    Args:
        plan: of the pass.
        facts: ``rows``: how many went to each rank; or ``failure``: why there are no more.
        batches: of no interest.
    """
    for _ in batches:
        pass
    for rank in range(len(plan.hall.places)):
        try:
            told = {name: value[rank] if name == "rows" else value for name, value in facts.items()}
            with plan.hall.line(rank, {"what": OVER, "number": plan.number, **told}) as line:
                line.recv_bytes()
        except (EOFError, OSError, AuthenticationError):  # it has gone, which ends the training in its own words
            continue
    yield pa.record_batch({"rank": pa.array([], pa.int32()), "rows": pa.array([], pa.int64())})


class Dealer:
    """Deals the rows of one partition out.

    Args:
        plan: of the pass.
        partition: its number.
        attempt: number of the task; later ones are larger.
    """

    def __init__(self, plan: PassPlan, partition: int, attempt: int) -> None:
        self._plan = plan
        self._partition = partition
        self._where = f"partition {partition}"
        self._world = len(plan.hall.places)
        self._shapes: list[Shape] = [None] * len(plan.fields)
        self._rows = [0] * self._world
        self._number = 0
        self._room: set[int] = set()
        self._held: dict[int, tuple[int, int]] = {}  # number of a piece -> its checksum, and who has it
        self._lines: list[Connection] = []
        greeting = {"what": FEED, "number": plan.number, "partition": partition, "attempt": attempt}
        try:
            for rank in range(self._world):
                self._lines.append(plan.hall.line(rank, greeting))
            for rank, line in enumerate(self._lines):
                answer = json.loads(line.recv_bytes())
                self._held |= {number: (total, rank) for number, total in answer["held"]}
                if answer["room"]:
                    self._room.add(rank)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Dealer:
        return self

    def __exit__(self, *_: object) -> None:
        for line in self._lines:
            line.close()

    def deal(self, batch: pa.RecordBatch) -> None:
        """Send the rows of a batch.

        Raises:
            DataError: a null, rows of different shapes, or a partition that is not the same again.
            EOFError: a rank has gone.
        """
        made, self._shapes = conformed(batch, self._plan.fields, self._shapes, self._where)
        size = piece_rows(made.num_rows, made.nbytes, self._world)
        for start in range(0, made.num_rows, size):
            self._send(Piece.of(self._number, made.slice(start, size)))
            self._number += 1

    def finish(self) -> list[int]:
        """Return how many rows each rank has, once all have said that they have them.

        Raises:
            DataError: ranks have pieces that did not come again.
        """
        if self._held:
            raise self._changed()
        for line in self._lines:
            line.send_bytes(WHOLE)
        for line in self._lines:
            while line.recv_bytes() != WHOLE:  # calls for pieces that there are not
                continue
        return self._rows

    def _send(self, piece: Piece) -> None:
        known = self._held.pop(piece.number, None)
        if known is not None:
            if known[0] != piece.sum:
                raise self._changed()
            self._rows[known[1]] += piece.rows
            return
        rank = self._next()
        self._lines[rank].send_bytes(piece.message())
        self._rows[rank] += piece.rows

    def _next(self) -> int:
        """Wait until a rank has room; of several, that with the fewest rows."""
        while True:
            ready = wait(self._lines, 0 if self._room else None)
            for rank, line in enumerate(self._lines):
                if line in ready:
                    line.recv_bytes(len(GO))
                    self._room.add(rank)
            if self._room:
                break
        chosen = min(self._room, key=lambda rank: (self._rows[rank], (rank - self._partition) % self._world))
        self._room.remove(chosen)
        return chosen

    def _changed(self) -> DataError:
        return DataError(
            f"The {self._where} of the DataFrame was computed again, after a failure, and its rows are not the same, or not "
            'in the same order. So some would be seen twice and others never. Sort it, or use feed="shards".'
        )
