"""The executor's side of `gap.cooperate`: one task of a barrier stage, which passes rows to a supervised process and back.

In Spark's own Python worker, where nothing of the user runs. Three threads: this one gives to Spark what the process gives,
one feeds the process, and one supervises it and makes the rounds in which ranks meet. So each direction flows whatever the
other does, and no batch is kept longer than it takes to pass it on.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative import boxed, known_failures
from sparkgap.cooperative.causes import Failure
from sparkgap.cooperative.exchange import BrokenOffError, Door, received, send
from sparkgap.cooperative.gang import error_of
from sparkgap.cooperative.meeting import Meeting
from sparkgap.cooperative.rounds import Rounds, late
from sparkgap.monitor import capture, relay
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.task import telling
from sparkgap.monitor.wire import Address
from sparkgap.scheduled.bench import Bench, Ended, Program

PLACE = "place"
"""The column that says to which partition a row goes."""


@dataclass(frozen=True)
class BoxPlan:
    """Everything that a task needs to know.

    Args:
        run: id of the run.
        channel: where the monitor's events go; None for nowhere.
        program: what to run: a `Boxed`; and its limits.
        given: names and types of the columns that come in.
        schema: of those that go out, named by number.
        places: of each rank, what its rows have in the column `PLACE`.
        join: seconds until all ranks must have begun.
        deadline: seconds that ranks wait for each other later on.
        cpus: cores of a task.
    """

    run: str
    channel: Address | None
    program: Program
    given: pa.Schema
    schema: pa.Schema
    places: tuple[int, ...]
    join: float
    deadline: float
    cpus: int


def run_box(plan: BoxPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Be one rank. The body of `mapInArrow`, in a barrier stage.

    Raises:
        RankError: the process failed.
        ConfigurationError: there are not as many partitions as ranks.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank, hosts = context.partitionId(), [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
    world = len(plan.places)
    if len(hosts) != world:
        raise ConfigurationError(
            f"The DataFrame has {len(hosts)} partitions, and workers={world} were asked for with repartition=False. "
            f"Leave repartition=False away, or ask for workers={len(hosts)}."
        )
    stats = TaskStats(context.stageId(), rank, context.taskAttemptId())
    towards = next((host for host in hosts if host != hosts[rank]), hosts[rank])
    with telling(plan.channel, plan.run, stats, plan.cpus):
        known = known_failures.recall(plan.run, context.stageId())
        if known is not None and len({info.address for info in context.getTaskInfos()}) == 1:
            raise error_of(known, world)  # one executor, so all ranks know, and none waits in vain
        with closing(Meeting(rank, world, context.allGather, towards, plan.join)) as meeting:
            if known is not None:
                raise error_of(meeting.failed(known), world)
            with closing(Box(plan, rank, Rounds(meeting.gather, plan.join), stats, meeting)) as box:
                for batch in box.rows(batches, towards):
                    yield _placed(batch, plan, rank)
                meeting.well()


def _placed(batch: pa.RecordBatch, plan: BoxPlan, rank: int) -> pa.RecordBatch:
    place = pa.repeat(pa.scalar(plan.places[rank], pa.int32()), batch.num_rows)
    return pa.RecordBatch.from_arrays([*batch.columns, place], schema=plan.schema)


class Box:
    """The process of a rank, and what flows into it and out of it.

    Args:
        plan: of the run.
        rank: its number.
        rounds: where it meets the others.
        stats: what the monitor is told of.
        meeting: where it is found out who failed first; None: each rank tells of itself.
    """

    def __init__(self, plan: BoxPlan, rank: int, rounds: Rounds, stats: TaskStats, meeting: Meeting | None = None) -> None:
        self._plan = plan
        self._meeting = meeting
        self._rank = rank
        self._rounds = rounds
        self._stats = stats
        self._door = Door()
        self._over, self._end = socket.socketpair()  # can be read when the process has gone
        self._halted, self._halt = socket.socketpair()  # can be read when it is to go
        self._ended: list[Ended] = []
        self._trouble: BaseException | None = None
        self._feeder = self._watch = threading.Thread()

    def rows(self, batches: Iterator[pa.RecordBatch], towards: str) -> Iterator[pa.RecordBatch]:
        """Pass rows in, and give those that come out.

        Args:
            batches: from Spark.
            towards: a machine of another rank.

        Raises:
            RankError: the process failed.
        """
        seat = boxed.Seat(self._rank, self._door.path, towards)
        self._watch = threading.Thread(target=self._supervise, args=(seat,), name="sparkgap-watch", daemon=True)
        self._watch.start()
        line = self._door.opened(self._over)
        self._door.close()
        if line is None:
            self._check("")
            raise DataError("The process ended before it took any rows.")
        with line:
            self._feeder = threading.Thread(target=self._feed, args=(line, batches), name="sparkgap-feed", daemon=True)
            self._feeder.start()
            broken = ""
            try:
                yield from self._counted(received(line))
            except BrokenOffError as error:
                broken = str(error)
            self._check(broken)
            self._feeder.join()  # to the end of the rows: else Spark does not use this worker again
        if self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """End the process, if it is still there."""
        self._halt.send(b"x")
        if self._watch.ident is not None:
            self._watch.join()
        self._door.close()
        for one in (self._over, self._end, self._halted):
            one.close()
        self._rounds.close()

    def _counted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stats = self._stats
        for batch in batches:
            stats.rows_out += batch.num_rows
            stats.bytes_out += batch.nbytes
            with stats.timed("write"):  # the time until Spark asks for the next batch
                yield batch

    def _check(self, broken: str) -> None:
        """Wait for the end of the process, and raise if it was not a good one."""
        self._watch.join()
        if self._trouble is not None:
            raise self._trouble
        for ended in self._ended:
            if ended.kind != "ok":
                self._fail(self._failure(ended))
        if self._meeting is not None and self._meeting.cause is not None:
            self._fail(self._meeting.cause)
        if broken:
            raise DataError(f"The rows of rank {self._rank} broke off, though its function came to its end: {broken}")

    def _failure(self, ended: Ended) -> Failure:
        """Return what is to be told: of this rank, or of the one which made it fail."""
        message = ended.message
        if ended.error.endswith("Unanswered") and self._rounds.waiting is not None:
            message = late(self._rounds.waiting, self._plan.deadline, "deadline")
        failure = Failure(self._rank, ended.kind, ended.error, message, ended.traceback)
        return failure if self._meeting is None else self._meeting.failed(failure)

    def _fail(self, failure: Failure) -> None:
        known_failures.note(self._plan.run, self._stats.stage, failure)
        raise error_of(failure, len(self._plan.places))

    # the thread that feeds

    def _feed(self, line: socket.socket, batches: Iterator[pa.RecordBatch]) -> None:
        try:
            send(line, self._read(batches), self._plan.given)
            for _ in batches:  # those that the function does not want
                pass
        except BaseException as error:  # raised by the task's own thread
            self._trouble = self._trouble or error
            self._halt.send(b"x")

    def _read(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stats = self._stats
        while True:
            with stats.timed("read"):
                batch = next(batches, None)
            if batch is None:
                return
            stats.rows_in += batch.num_rows
            stats.bytes_in += batch.nbytes
            stats.batches += 1
            stats.batch_rows = max(stats.batch_rows, batch.num_rows)
            yield batch.rename_columns(self._plan.given.names)
            del batch

    # the thread that supervises: the only one that uses the bench

    def _supervise(self, seat: boxed.Seat) -> None:
        from pyspark import cloudpickle

        try:
            bench = Bench(self._plan.program)
            try:
                bench.give(cloudpickle.dumps([seat]), 1)
                with self._stats.timed("model"):
                    while not bench.idle and self._step(bench):
                        continue
                    self._hear(bench, 0)
            finally:
                bench.close()
        except BaseException as error:  # raised by the task's own thread
            self._trouble = self._trouble or error
        self._end.send(b"x")

    def _step(self, bench: Bench) -> bool:
        """Wait for news; False where it is enough."""
        readable = self._hear(bench, self._rounds.left())
        for answer in self._rounds.answers():
            bench.answer(answer)
        orders = self._meeting.orders() if self._meeting is not None else []
        if "abort" in orders:
            bench.abort()
        return self._halted not in readable and "end" not in orders

    def _hear(self, bench: Bench, seconds: float | None) -> list[socket.socket]:
        bells = [self._rounds.bell, self._halted, *([] if self._meeting is None else [self._meeting.bell])]
        news = bench.wait(seconds, bells)
        self._ended += news.ended
        for stream, text in news.printed:
            capture.say("PRINT", stream, text, time.time())
        relay.pass_on(news.said)
        for _, asked in news.asked:
            self._ask(asked)
        return news.readable

    def _ask(self, asked: dict[str, Any]) -> None:
        self._rounds.ask(asked["id"], asked["question"])
