"""A black box in the process of a rank: it takes rows from the Spark task above it, and gives rows back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.cooperative.exchange import BrokenOffError, connect, deafen, received, send
from sparkgap.cooperative.outputs import block_of, fitted
from sparkgap.cooperative.rank import RankPlan, gather, meet, processes
from sparkgap.cooperative.telling import telling, within
from sparkgap.cooperative.worker import Worker
from sparkgap.tensors.spec import Block

LEAVE = "leave"
_LONG = 2e6
"""Seconds: partitions are as large as they are, and the rank with the store waits for the last one, however long."""


@dataclass(frozen=True)
class Seat:
    """What one rank is told by the task above it.

    Args:
        rank: its number.
        path: where its rows are.
        towards: a machine of another rank, or this one where there is no other.
    """

    rank: int
    path: str
    towards: str


@dataclass(frozen=True)
class Boxed:
    """The user's function, as a function of a seat.

    Args:
        fn: ``fn(worker, rows)``; gives rows.
        plan: what all ranks know.
        schema: of what comes out.
        as_blocks: whether `rows` are dicts of ndarrays.
    """

    fn: Callable[[Worker, Iterator[Any]], Iterable[Any]]
    plan: RankPlan
    schema: pa.Schema
    as_blocks: bool

    def __call__(self, seat: Seat) -> None:
        """Meet the others, work, and leave together."""
        plan = replace(self.plan, driver=seat.towards)
        with connect(seat.path) as line:
            place = meet(seat.rank, plan)
            with processes(place, plan):
                worker = Worker(place, plan, None, None)
                with telling(worker, "compute"):
                    whole = send(line, self._given(worker, line), self.schema)
                if not whole:
                    raise BrokenOffError("the Spark task that takes the rows has gone")
                deafen(line)  # rows that the function did not want
                gather(LEAVE, None, _LONG)  # rank 0 has the store, and must not go first

    def _given(self, worker: Worker, line: socket.socket) -> Iterator[pa.RecordBatch]:
        rows: Iterator[pa.RecordBatch | Block] = _counted(worker, received(line))
        made = self.fn(worker, map(block_of, rows) if self.as_blocks else rows)
        if not isinstance(made, Iterable):
            raise DataError(
                f"The function returned {made!r}. Let it yield the rows that come out, as RecordBatches, dicts of arrays or "
                "DataFrames; or return [] where there are none."
            )
        for one in made:
            with within("write"):
                yield from fitted(one, self.schema)


def _counted(worker: Worker, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while True:
        with within("data"):
            batch = next(batches, None)
        if batch is None:
            return
        worker.rows += batch.num_rows
        yield batch
        del batch
