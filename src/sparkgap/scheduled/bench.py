"""The bench of a slot: it runs the items of leases, one after the other, in a child process, and outlives whatever they do.

In Spark's Python worker on an executor. Nothing here unpickles anything of the user's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparkgap._errors import ModelProcessError
from sparkgap.scheduled import _deaths, _processes, _zygotes
from sparkgap.scheduled._deaths import Death
from sparkgap.scheduled._ends import Ends, Record
from sparkgap.scheduled._records import ASKED, BEGUN, FORKED, KINDS, OK, OVER, SAID
from sparkgap.scheduled.program import Ended, News, Program

__all__ = ["Bench", "Ended", "News", "Program"]

MAX_ITEMS = 4096
"""Items in a lease: their tokens must fit into the smallest pipe."""

END_SECONDS = 5.0
START_SECONDS = 300.0
"""For unpickling the function and the items, on top of `Program.timeout`; without one there is no limit."""

_WATCH_SECONDS = 0.1
_MAX_STARTS = 3


@dataclass
class _Lease:
    items: bytes
    count: int
    ended: int = 0
    withdrawn: int = 0


class Bench:
    """Runs leases; used by one thread.

    The function and the items are unpickled in the child only. The first child is there before the first lease. One that
    dies is replaced, and the remaining items go on.

    Args:
        program: what to run.

    Raises:
        ModelProcessError: the process that forks children cannot be started.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._zygote = _zygotes.take(program.preload, program.threads)
        self._tokens, self._grants = os.pipe()
        os.set_blocking(self._tokens, False)  # for the child, too: an empty pipe tells it that the lease is over
        self._lease: _Lease | None = None
        self._news = News()
        self._starts = 0
        self._closed = False
        self._next_look = 0.0
        self._mark(begun=False)
        self._child: Ends | None = None
        try:
            self._child = self._start()
        except BaseException:
            self.close()
            raise

    @property
    def idle(self) -> bool:
        """Whether the lease is over: every item has ended or was withdrawn."""
        return self._lease is None

    def give(self, items: bytes, count: int) -> None:
        """Begin a lease; only when idle.

        Args:
            items: a list, by `pyspark.cloudpickle`.
            count: its length, from 1 to `MAX_ITEMS`.

        Raises:
            ModelProcessError: no child can be started.
        """
        assert self._lease is None, "give before the last lease was over"
        if not 1 <= count <= MAX_ITEMS:
            raise ValueError(f"A lease of {count} items; it must have from 1 to {MAX_ITEMS}.")
        self._lease = _Lease(items, count)
        os.write(self._grants, bytes(count))
        self._starts = 0
        self._begin()

    def withdraw(self) -> int:
        """Take back the items of the lease that were not begun, the last ones, and return how many.

        The bench is idle once the item at hand has ended and `wait` has seen it.
        """
        taken = self._take_tokens(MAX_ITEMS)
        if self._lease is not None:
            self._lease.withdrawn += taken
        return taken

    def wait(self, seconds: float | None, also: Sequence[socket.socket] = ()) -> News:
        """Wait until something has happened, the lease is over, one of `also` can be read, or the time is up.

        The limits of time and memory are watched in here only.

        Args:
            seconds: None for no limit.
            also: sockets to wait for.

        Raises:
            ModelProcessError: no child can be started, or one could not be killed.
        """
        until = None if seconds is None else time.monotonic() + seconds
        busy = self._lease is not None
        while True:
            done = bool(self._news) or (busy and self._lease is None)
            left = 0.0 if done else _least(self._patience(), None if until is None else until - time.monotonic())
            self._look(left, also)
            self._watch()
            if done or self._news or (busy and self._lease is None) or (until is not None and time.monotonic() >= until):
                news, self._news = self._news, News()
                return news

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Answer a question; nothing happens where the child that put it has gone.

        Args:
            answer: the question's ``"id"``, and ``"value"`` or ``"failure"``: JSON values.
        """
        if self._child is not None:
            self._child.answer(json.dumps(answer).encode())

    def kill(self) -> None:
        """Kill what runs; its item ends as ``"cancelled"``. Items that were not begun and not withdrawn go on.

        While the first child is not there yet (the zygote imports `Program.preload`), nothing runs and nothing happens.

        Raises:
            ModelProcessError: it could not be killed within 5 s.
        """
        if self._lease is not None and self._child is not None and not self._unborn():
            self._end(_deaths.cancelled())

    def abort(self) -> None:
        """Have the child dump the stacks of its threads and die by SIGABRT; its item ends as ``"signal"``."""
        if self._child is not None and self._child.pid:
            _processes.send(self._child.pid, signal.SIGABRT)

    def close(self) -> None:
        """End the child and all below it; they are gone when this returns. Does nothing the second time.

        Raises:
            ModelProcessError: they were not gone within 5 s.
        """
        if self._closed:
            return
        self._closed = True
        self._lease = None
        try:
            if self._child is not None and self._unborn():
                self._zygote.abandon()
                self._gone(_deaths.cancelled(), 0)
            elif self._child is not None:
                self._end(_deaths.cancelled())
        finally:
            os.close(self._tokens)
            os.close(self._grants)
            _zygotes.give_back(self._zygote)

    # the child's life

    def _unborn(self) -> bool:
        """Whether the zygote is still at its imports, and the child not forked."""
        return not self._zygote.answered and not self._zygote.ready(0)

    def _begin(self) -> None:
        """Send what is left of the lease to the child, a new one if need be."""
        lease = self._lease
        assert lease is not None
        if self._child is None:
            self._child = self._start()
        self._mark(begun=False)
        self._child.lease(lease.ended, lease.count, lease.items)

    def _start(self) -> Ends:
        program = self._program
        options = {"fresh": program.fresh, "result_limit": program.result_limit, "monitored": program.monitored}
        ends = Ends(options, program.function, program.output_bytes)
        for _ in range(_MAX_STARTS):
            if self._zygote.alive:
                self._zygote.fork(ends.lent(self._tokens))
            if self._zygote.alive:
                break
            self._replace_zygote()
        ends.lent_closed()
        return ends

    def _replace_zygote(self) -> None:
        answered, status = self._zygote.answered, self._zygote.close()
        if not answered:
            raise ModelProcessError(
                f"The process that forks the items' processes ended at its start, with status {status}. Its stderr, in the "
                "log of the executor, says why."
            )
        self._zygote = _zygotes.take(self._program.preload, self._program.threads)

    def _end(self, why: Death) -> None:
        """Kill the child and tell `why` of the item that it was at, if any."""
        child, until = self._child, time.monotonic() + END_SECONDS
        self._zygote.end()
        while self._child is child:
            if not self._zygote.ready(max(0.0, until - time.monotonic())):
                self._zygote.alive = False
                self._gone(why, 0)
                raise ModelProcessError(f"The processes of an item could not be killed within {END_SECONDS:g} s.")
            self._hear(why)

    def _hear(self, why: Death | None = None) -> None:
        """Take an answer of the zygote."""
        answer = self._zygote.receive()
        child = self._child
        if answer is None:
            if child is not None:
                if child.pid:  # it dies by itself, but its group does not
                    _processes.kill(child.pid)
                self._gone(why or _deaths.zygote_gone(), 0)
        elif child is not None and answer.kind == FORKED:
            child.pid = answer.number
        elif child is not None:
            self._gone(why or self._death(answer.number, answer.peak_rss, child.oom_kills), answer.peak_rss)

    def _death(self, status: int, peak_rss: int, before: int | None) -> Death:
        now = _processes.kills_for_memory()
        return _deaths.unexpected(status, peak_rss, None if now is None or before is None else now - before)

    def _gone(self, death: Death, peak_rss: int) -> None:
        """The child and all below it are gone: tell of its last item and go on with the others in another child."""
        child = self._child
        assert child is not None
        self._child, child.dry = None, False
        while not (child.dry or child.over):
            self._note(child, child.records())
        lease = self._lease
        if lease is not None:
            self._charge(lease, child, death, peak_rss)
        while child.read_output():  # of nobody: what was printed after the last item
            continue
        self._print(child)
        child.close()
        if self._lease is not None and self._granted():
            self._begin()
        else:
            self._lease = None

    def _charge(self, lease: _Lease, child: Ends, death: Death, peak_rss: int) -> None:
        begun = lease.count - lease.withdrawn - lease.ended - self._granted()
        self._starts += 1
        if not begun and self._starts >= _MAX_STARTS:  # it dies before it takes an item: let one pay, or this has no end
            begun = self._take_tokens(1)
        if begun:
            while child.read_output():
                continue
            output = child.take_output()
            seconds = max(0.0, time.monotonic() - self._since)
            self._news.ended.append(
                Ended(
                    lease.ended, death.kind, b"", death.error, death.message, _deaths.stack(output), death.exit_code,
                    death.signal, seconds, peak_rss, output, self._started,
                )
            )  # fmt: skip
            lease.ended += 1
            self._starts = 0

    # what comes from the child

    def _look(self, seconds: float | None, also: Sequence[socket.socket]) -> None:
        """Wait for whatever comes first, and take it."""
        poll = select.poll()
        sockets = {s.fileno(): s for s in also}
        for descriptor in sockets:
            poll.register(descriptor, select.POLLIN)
        child = self._child
        if child is not None:
            poll.register(self._zygote, select.POLLIN)
            poll.register(child.results, select.POLLIN)
            poll.register(child.printed, select.POLLIN)
            if child.waiting:
                poll.register(child.control, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(None if seconds is None else max(0.0, seconds) * 1000)}
        self._news.readable = [s for descriptor, s in sockets.items() if descriptor in ready]
        if child is not None and not ready.isdisjoint((child.results, child.printed, child.control.fileno())):
            self._read(child, ready)
        if child is not None and child is self._child and self._zygote.fileno() in ready:
            self._hear()

    def _read(self, child: Ends, ready: set[int]) -> None:
        if child.control.fileno() in ready:
            child.flush()
        if child.printed in ready:
            child.read_output()
        records = child.records() if child.results in ready else []
        self._note(child, records)
        self._print(child)
        if child is not self._child:
            return
        if child.over:  # it has died, or the item has closed all descriptors: there is no way to tell a result
            self._end_of_file(child)
        elif self._program.fresh and any(r.kind in KINDS for r in records):
            self._end(_deaths.cancelled())  # of no item: the child takes no other one

    def _end_of_file(self, child: Ends) -> None:
        self._zygote.end()
        if not self._zygote.ready(END_SECONDS):
            self._end(_deaths.cancelled())
        while self._child is child:
            self._hear()

    def _note(self, child: Ends, records: list[Record]) -> None:
        """Take records of the child in the order in which it wrote them."""
        lease = self._lease
        for record in records:
            kind, position, started, ended, seconds, peak_rss, payload = record
            if kind == SAID:
                self._news.said += json.loads(payload)
                continue
            if kind == ASKED:
                self._news.asked.append((position, json.loads(payload)))
                continue
            self._since, self._started, self._begun = ended, started + seconds, True
            if kind == OVER:
                self._lease = None
            elif kind != BEGUN and lease is not None:
                output = child.take_output()
                lease.ended += 1
                self._starts = 0
                if kind == OK:
                    # by place: this counts for items of a few microseconds
                    self._news.ended.append(
                        Ended(position, "ok", payload, "", "", "", None, None, seconds, peak_rss, output, started)
                    )
                else:
                    self._news.ended.append(_failed(record, output))
        if lease is not None and lease.ended == lease.count:
            self._lease = None

    def _print(self, child: Ends) -> None:
        self._news.printed += [("output", line) for line in child.output.lines()]

    # limits

    def _mark(self, *, begun: bool) -> None:
        self._since, self._started, self._begun = time.monotonic(), time.time(), begun

    def _patience(self) -> float | None:
        """Seconds until a limit must be looked at."""
        if self._lease is None or self._child is None:
            return None
        limit, now = self._limit(), time.monotonic()
        return _least(
            None if limit is None else self._since + limit - now,
            None if self._program.memory is None else self._next_look - now,
        )

    def _limit(self) -> float | None:
        timeout = self._program.timeout
        return timeout if timeout is None or self._begun else timeout + START_SECONDS

    def _watch(self) -> None:
        """End an item that is above a limit."""
        if self._lease is None or self._child is None:
            return
        limit, now = self._limit(), time.monotonic()
        if limit is not None and now >= self._since + limit:
            if not self._late(self._child):
                self._end(_deaths.timeout(limit) if self._begun else _deaths.slow_start(limit))
        elif self._program.memory is not None and now >= self._next_look:
            used = self._used(self._program.memory)
            cost = time.monotonic() - now
            self._next_look = now + max(_WATCH_SECONDS, 20 * cost)  # /proc of a machine with many processes is slow
            if used > self._program.memory:
                self._end(_deaths.memory(used, self._program.memory))

    def _late(self, child: Ends) -> bool:
        """Whether a result is there to be read: then the item was in time, and it is this process that was late.

        The child stands still meanwhile: else the next item could be the one that is killed.
        """
        poll = select.poll()
        poll.register(child.results, select.POLLIN)
        _processes.send(child.pid, signal.SIGSTOP)
        late = bool(poll.poll(0))
        if late:
            _processes.send(child.pid, signal.SIGCONT)
        return late

    def _used(self, limit: int) -> int:
        pids = _processes.descendants(self._zygote.pid)
        used = _processes.resident(pids, shared=True)
        return used if used <= limit else _processes.resident(pids, shared=False)

    # tokens

    def _granted(self) -> int:
        """How many items may still be begun."""
        return int(struct.unpack("i", fcntl.ioctl(self._tokens, termios.FIONREAD, b"\0\0\0\0"))[0])

    def _take_tokens(self, count: int) -> int:
        with contextlib.suppress(BlockingIOError):  # none is left
            return len(os.read(self._tokens, count))
        return 0


def _failed(record: Record, output: str) -> Ended:
    told: dict[str, Any] = json.loads(record.payload)
    for key in ("error", "message", "traceback"):  # half of a surrogate pair cannot be encoded any further
        told[key] = told[key].encode(errors="backslashreplace").decode()
    return Ended(
        record.position, KINDS[record.kind], b"", told["error"], told["message"], told["traceback"], told["code"], None,
        record.seconds, record.peak_rss, output, record.started,
    )  # fmt: skip


def _least(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)
