"""The executor's side of a lease that is a Spark job: the slot's own code, whose connection to the driver is this task's rows.

Module-level functions that take the plan. Nothing of the user runs in Spark's own Python worker.
"""

from __future__ import annotations

import json
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import telling
from sparkgap.monitor.wire import Address
from sparkgap.scheduled import kept_benches, placed
from sparkgap.scheduled.frames import Frame
from sparkgap.scheduled.placed import PlacedRef
from sparkgap.scheduled.program import Program
from sparkgap.scheduled.slot import REPORTED_STAGE, Slot

SCHEMA = "frame int, kind string, header string, piece binary"
_ARROW = pa.schema([("frame", pa.int32()), ("kind", pa.string()), ("header", pa.string()), ("piece", pa.binary())])
PIECE_BYTES = 1 << 20
"""Bytes of one row, there and back: messages of Spark Connect are to stay small."""
ENOUGH_BYTES = 64 << 20
"""A lease whose values are larger gives back what it has not begun: a job's result has to fit through the driver."""
ENOUGH_SECONDS = 3.0
"""And so does one that takes longer: nobody hears of it before its end, nor can take anything from it."""
VANISHED = "vanished"
FAILED = "failed"
_UNANSWERED = "questions of tasks are not answered where each lease is a Spark job"


@dataclass(frozen=True)
class LeasePlan:
    """Everything that the task of a lease needs to know, besides the items, which are its rows.

    Args:
        run: id of the run.
        program: what to run, and its limits.
        channel: where the monitor's events go; None for nowhere.
        cpus: cores of the task.
        data: placed values, which the task brings to its node before an item needs them.
        function: `program.function`, where it is too large to travel with each job: placed as an array of bytes.
        lease: number of the lease.
        items: numbers of its items.
        payload: the items, where they are too large for rows: placed as an array of bytes.
    """

    run: str
    program: Program
    channel: Address | None
    cpus: int = 1
    data: tuple[PlacedRef, ...] = ()
    function: PlacedRef | None = None
    lease: int = 0
    items: tuple[int, ...] = ()
    payload: PlacedRef | None = None


def run_lease(plan: LeasePlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Run the items of a lease. The body of `mapInArrow`; gives what a slot says to its driver, as rows.

    Spark tries a task again by itself. What the first attempt did is not known then, so the next one only tells that.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    sent = _joined(batches)
    if context is not None and context.attemptNumber() > 0:
        yield from rows([Frame(VANISHED, {"message": "the task or its executor has vanished"}, memoryview(b""))])
        return
    try:
        line = _work(plan, sent, context.taskAttemptId() if context is not None else 0)
    except Exception:  # of whatever kind: Spark would run the items again
        yield from rows([Frame(FAILED, {"message": traceback.format_exc()}, memoryview(b""))])
        return
    yield from rows(line.said)


def _work(plan: LeasePlan, sent: bytes, attempt: int) -> Lease:
    payload = sent if plan.payload is None else placed.fetch(plan.payload).tobytes()
    program = plan.program
    if plan.function is not None:
        program = replace(program, function=placed.fetch(plan.function).tobytes())
    for ref in plan.data:  # here, not in the child: it cannot ask Spark where its files are
        placed.fetch(ref)
    stats = TaskStats(REPORTED_STAGE, plan.lease, attempt)
    with Lease(plan.lease, list(plan.items), payload) as line, kept_benches.lent(plan.run, program) as bench:
        with telling(plan.channel, plan.run, stats, plan.cpus) as begun:
            Slot(line, bench, stats, begun).work()
        return line


class Lease:
    """What a slot takes for its connection to the driver: it gives one lease and keeps what is said.

    Args:
        number: of the lease.
        items: numbers of its items.
        payload: the items, pickled.

    Attributes:
        socket: can be read where `receive` has something.
        said: what the slot said.
    """

    def __init__(self, number: int, items: list[int], payload: bytes) -> None:
        self.socket, self._bell = socket.socketpair()
        self.said: list[Frame] = []
        self._told: list[Frame] = []
        self._left = len(items)
        self._bytes = 0
        self._recalled = False
        self._until = time.monotonic() + ENOUGH_SECONDS
        self._tell("lease", {"lease": number, "items": items}, payload)

    def receive(self) -> list[Frame]:
        """Return what the slot is told."""
        self.socket.recv(4096)
        told, self._told = self._told, []
        return told

    def send(self, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Keep what the slot says; once all items are accounted for, it may go."""
        facts = dict(header or {})
        if kind == "asked":
            if facts["wait"]:
                self._tell("answer", {"id": facts["id"], "failure": _UNANSWERED})
            return
        self.said.append(Frame(kind, {**facts, "host": socket.gethostname()}, memoryview(payload)))
        self._left -= facts["count"] if kind == "ended" else len(facts["items"])
        self._bytes += len(payload)
        if not self._left:
            self._tell("close", {})
        elif not self._recalled and (self._bytes > ENOUGH_BYTES or time.monotonic() > self._until):
            self._recalled = True
            self._tell("recall", {})

    def _tell(self, kind: str, header: dict[str, Any], payload: bytes = b"") -> None:
        self._told.append(Frame(kind, header, memoryview(payload)))
        self._bell.send(b"x")

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()
        self._bell.close()


def rows(frames: list[Frame]) -> Iterator[pa.RecordBatch]:
    """Give frames as rows; the payload of one is cut into pieces, and its header is in the first."""
    for number, frame in enumerate(frames):
        header = json.dumps(frame.header)
        for start in range(0, max(1, len(frame.payload)), PIECE_BYTES):
            piece = frame.payload[start : start + PIECE_BYTES].tobytes()
            values = (number, frame.kind, header, piece)
            yield pa.RecordBatch.from_arrays(
                [pa.array([v], f.type) for v, f in zip(values, _ARROW, strict=True)], schema=_ARROW
            )
            header = ""


def frames_of(table: pa.Table) -> list[Frame]:
    """Return the frames of such rows."""
    found: list[tuple[str, str, list[bytes]]] = []
    for number, kind, header, piece in zip(*(table.column(name).to_pylist() for name in _ARROW.names), strict=True):
        if number == len(found):
            found.append((kind, header, []))
        found[number][2].append(piece)
    return [Frame(kind, json.loads(header), memoryview(b"".join(pieces))) for kind, header, pieces in found]


def _joined(batches: Iterator[pa.RecordBatch]) -> bytes:
    """Return the pieces that the driver sent, as one; read to the end: else the worker is not reused."""
    pieces = [pair for b in batches for pair in zip(b.column(0).to_pylist(), b.column(1).to_pylist(), strict=True)]
    return b"".join(piece for _, piece in sorted(pieces))
