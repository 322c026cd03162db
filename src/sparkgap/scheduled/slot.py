"""The executor's side of a run: a Spark task that stays, takes leases from the driver, and supervises the process that works.

Module-level functions that take the plan. Nothing of the user runs in Spark's own Python worker.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sparkgap.monitor import capture, relay
from sparkgap.monitor.reporter import Attempted
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import say_failure, telling
from sparkgap.monitor.wire import Address
from sparkgap.scheduled import placed
from sparkgap.scheduled.bench import Bench, Ended, Program
from sparkgap.scheduled.frames import Frame, FrameError
from sparkgap.scheduled.link import Line, Link
from sparkgap.scheduled.placed import PlacedRef
from sparkgap.scheduled.report import Report

REPORTED_STAGE = -1
"""The slots of a run are jobs of their own in Spark, and tasks of one stage to those who look on."""
SCHEMA = "status string, message string"
FLUSH_SECONDS = 0.02
"""Results wait so long for others, to travel together."""


@dataclass(frozen=True)
class SlotPlan:
    """Everything that a slot needs to know.

    Args:
        run: id of the run.
        host: where the driver listens.
        port: likewise.
        token: proves that this slot is the run's.
        program: what to run, and its limits.
        channel: where the monitor's events go; None for nowhere.
        cpus: cores of the slot.
        data: placed values, which the slot brings to its node before an item needs them.
        certificate: PEM text of the driver's certificate, where the connection is to be encrypted, or "".
    """

    run: str
    host: str
    port: int
    token: str = field(repr=False)
    program: Program
    channel: Address | None
    cpus: int = 1
    data: tuple[PlacedRef, ...] = ()
    certificate: str = field(default="", repr=False)


@dataclass
class _Lease:
    number: int
    items: list[int]
    payload: bytes


def run_slot(plan: SlotPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Work for a run until the driver closes the slot. The body of `mapInArrow`; gives one row that tells how it ended."""
    (number,) = [n for batch in batches for n in batch.column(0).to_pylist()]  # to the end: else the worker is not reused
    status, message = work(plan, number)
    yield pa.record_batch({"status": [status], "message": [message]})


def work(plan: SlotPlan, number: int) -> tuple[str, str]:
    """Connect and work; returns ``"closed"``, ``"unreachable"`` or ``"abandoned"`` (the driver has gone), and why."""
    from pyspark import TaskContext

    context = TaskContext.get()
    attempt = context.taskAttemptId() if context is not None else 0
    bench = Bench(plan.program)  # first: its child begins while this process finds the driver
    try:
        facts = {"number": number, "host": socket.gethostname(), "pid": os.getpid()}
        link = Link(plan.host, plan.port, plan.token, facts, plan.certificate)
    except (OSError, FrameError) as error:
        bench.close()
        return "unreachable", f"{plan.host}:{plan.port}: {type(error).__name__}: {error}"
    stats = TaskStats(REPORTED_STAGE, number, attempt)
    try:
        for ref in plan.data:  # here, not in the child: it cannot ask Spark where its files are
            placed.fetch(ref)
        with telling(plan.channel, plan.run, stats, plan.cpus) as begun:
            return Slot(link, bench, stats, begun).work()
    finally:
        bench.close()
        link.close()


class Slot:
    """One slot at work.

    Args:
        link: to the driver.
        bench: where items run.
        stats: what the monitor is told of.
        begun: who is told; None for nobody.
    """

    def __init__(self, link: Line, bench: Bench, stats: TaskStats, begun: Attempted | None) -> None:
        self._link = link
        self._bench = bench
        self._stats = stats
        self._begun = begun
        self._queue: deque[_Lease] = deque()
        self._lease: _Lease | None = None
        self._report = Report()
        self._open = True
        self._killed = False

    def work(self) -> tuple[str, str]:
        """Work until the driver says that it is enough, or has gone."""
        try:
            while self._open or self._lease is not None:
                self._begin_next()
                if self._open or self._lease is not None:  # else nothing more comes
                    self._step()
        except (OSError, FrameError) as error:
            return "abandoned", f"{type(error).__name__}: {error}"
        return "closed", ""

    def _begin_next(self) -> None:
        if self._lease is not None and self._bench.idle:
            self._stats.leave("model")
            self._flush()
            self._lease = None
        if self._lease is None and self._queue:
            self._lease = self._queue.popleft()
            self._stats.enter("model")
            self._bench.give(self._lease.payload, len(self._lease.items))

    def _step(self) -> None:
        idle = self._lease is None
        if idle:
            self._stats.enter("read")
        news = self._bench.wait(self._report.left(FLUSH_SECONDS), (self._link.socket,))
        if idle:
            self._stats.leave("read")
        if news.ended:
            self._ended(news.ended)
        for stream, text in news.printed:
            capture.say("PRINT", stream, text, time.time())
        relay.pass_on(news.said)
        for position, question in news.asked:
            self._ask(position, question)
        if news.readable:
            self._listen()
        if self._report.left(FLUSH_SECONDS) == 0:
            self._flush()

    def _ended(self, told: list[Ended]) -> None:
        lease, stats = self._lease, self._stats
        if self._killed or lease is None:
            return
        good = size = 0
        for ended in told:
            item = lease.items[ended.position]
            stats.batch_done(ended.seconds)
            if ended.kind == "ok":
                good += 1
                size += len(ended.value)
            else:
                self._tell(ended, item)
            self._report.add(item, ended)
        stats.rows_in += len(told)
        stats.rows_out += good
        stats.bytes_out += size
        stats.batches += len(told)
        stats.batch_rows = 1

    def _ask(self, position: int, question: dict[str, Any]) -> None:
        if self._lease is not None and not self._killed:
            self._link.send("asked", {"lease": self._lease.number, "item": self._lease.items[position], **question})

    def _tell(self, ended: Ended, item: int) -> None:
        say_failure(self._begun, ended.error or ended.kind, f"Item {item}: {ended.message}", ended.traceback)

    def _flush(self) -> None:
        if self._lease is not None and self._report:
            header, payload = self._report.take()
            self._link.send("ended", {"lease": self._lease.number, **header}, payload)

    def _listen(self) -> None:
        frames = self._link.receive()
        if frames is None:
            raise ConnectionError("the driver closed the connection")
        for frame in frames:
            self._obey(frame)

    def _obey(self, frame: Frame) -> None:
        facts = frame.header
        match frame.kind:
            case "lease":
                self._killed = False
                self._queue.append(_Lease(facts["lease"], facts["items"], bytes(frame.payload)))
            case "recall":
                self._give_back()
            case "answer":
                self._bench.answer(facts)
            case "kill":
                self._queue.clear()
                self._killed = True
                self._report.take()
                self._bench.withdraw()
                self._bench.kill()
            case "abort":
                self._bench.abort()
            case "close":
                self._open = False

    def _give_back(self) -> None:
        while self._queue:
            lease = self._queue.pop()
            self._link.send("returned", {"lease": lease.number, "items": lease.items})
        if self._lease is not None and (count := self._bench.withdraw()):
            self._link.send("returned", {"lease": self._lease.number, "items": self._lease.items[-count:]})
            del self._lease.items[-count:]
