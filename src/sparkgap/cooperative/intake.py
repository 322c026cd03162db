"""Where the rows of streamed passes come to a rank. In its process.

A thread accepts connections, and one for each connection reads it. A rank lets rows in while it has room, and tells those
who wait when it has some again; at the end of a pass the ranks send each other what makes their rests equal.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from typing import Any

from sparkgap._errors import DataError
from sparkgap.cooperative.row_window import Line, RowBuffer, Shapes, rows_of
from sparkgap.cooperative.stream_plan import Room
from sparkgap.cooperative.stream_wire import FEED, GO, LEVEL, WHOLE, Hall, Piece, admitted, batch_of
from sparkgap.shards.conform import Field
from sparkgap.tensors.spec import Block


class _Partition:
    """What has come of one partition: kept to the end of the pass, in 16 bytes a piece, for a task that runs again."""

    def __init__(self) -> None:
        self.numbers, self.sums = array("Q"), array("Q")
        self.attempt = -1
        self.line: Connection | None = None


class _Pass:
    """One pass, as one rank sees it."""

    def __init__(self, number: int, room: Room, rows: RowBuffer) -> None:
        self.number, self.room, self.rows = number, room, rows
        self.partitions: dict[int, _Partition] = {}
        self.waiting: set[Connection] = set()
        self.row_bytes = 1.0
        self.got = 0
        self.expected: int | None = None
        self.trouble: BaseException | None = None

    @property
    def has_room(self) -> bool:
        return self.rows.rows < self.room.most(self.row_bytes)


class Intake:
    """Takes the rows of one rank, pass after pass.

    Args:
        address: of this machine, as others call it.
        fields: the columns.

    Attributes:
        port: where it listens.
    """

    def __init__(self, address: str, fields: Sequence[Field], key: str) -> None:
        self._listener = Listener((address, 0), backlog=1024)
        self.port: int = self._listener.address[1]
        self._fields = tuple(fields)
        self._key = key
        self._changed = threading.Condition()
        self._pass = _Pass(-1, Room(1, 0), Line())
        threading.Thread(target=self._accept, name="sparkgap-intake", daemon=True).start()

    # in the thread of the user

    def begin(self, number: int, room: Room, rows: RowBuffer) -> None:
        """Be ready for the rows of a pass; what comes of one before it is refused."""
        with self._changed:
            old, self._pass = self._pass, _Pass(number, room, rows)
            _end(part.line for part in old.partitions.values())
            self._changed.notify_all()

    def leave(self) -> None:
        """Take no more rows of this pass."""
        self.begin(-1, Room(1, 0), Line())

    def ready(self, deadline: float) -> tuple[int, bool]:
        """Wait until a batch can be drawn, or nothing more comes; returns how many batches, and whether it is the latter.

        Args:
            deadline: seconds in which some row must come.

        Raises:
            DataError: the DataFrame could not be computed, rows were lost, or none came in time.
        """
        run = self._pass

        def steps() -> int:
            return run.room.steps(run.rows.rows, run.row_bytes)

        got = -1
        while got != run.got:  # as long as rows come, more may
            got = run.got
            if self._until(lambda: run.expected is not None or steps() > 0, deadline):
                break
        else:
            raise DataError(
                f"No row of the DataFrame came in {deadline:g} seconds. Is a slot of the cluster free to compute it, and is "
                "that fast enough? Ask for fewer workers, or raise deadline=."
            )
        return steps(), run.expected is not None

    def rest(self) -> int:
        """Wait until nothing more comes, and return how many rows are left."""
        run = self._pass
        self._until(lambda: run.expected is not None)
        if run.got != run.expected:
            raise DataError(f"{run.expected} rows were sent to this worker in pass {run.number}, and {run.got} came.")
        return run.rows.rows

    def holds(self, rows: int) -> None:
        """Wait until there are so many, which other ranks send."""
        run = self._pass
        self._until(lambda: run.rows.rows >= rows)

    def shapes(self) -> Shapes:
        """Tell what rows are, for `expect` of ranks that have none."""
        with self._changed:
            return self._pass.rows.shapes()

    def expect(self, told: Iterable[Shapes]) -> None:
        """Be told by all ranks what rows are."""
        with self._changed:
            self._pass.rows.expect(next((one for one in told if one), {}))

    def take(self, count: int) -> Block:
        """Draw rows, which must be there."""
        with self._changed:
            run = self._pass
            found = run.rows.take(count)
            if run.has_room:
                for line in run.waiting:
                    _say(line, GO)
                run.waiting.clear()
        return found

    def give(self, hall: Hall, rank: int, count: int) -> None:
        """Send rows to another rank, which knows that they come.

        Raises:
            EOFError: it has gone.
            OSError: likewise.
        """
        with hall.line(rank, {"what": LEVEL, "number": self._pass.number}) as line:
            left, number = count, 0
            while left:
                rows = min(left, 1024)
                line.send_bytes(Piece.of(number, batch_of(self.take(rows), self._fields)).message())
                left, number = left - rows, number + 1
            line.send_bytes(WHOLE)
            line.recv_bytes()

    def _until(self, what: Callable[[], bool], seconds: float | None = None) -> bool:
        run = self._pass
        with self._changed:
            came = self._changed.wait_for(lambda: run.trouble is not None or what(), seconds)
        if run.trouble is not None:
            raise run.trouble
        return came

    # in threads of its own

    def _accept(self) -> None:
        while True:
            try:
                line = self._listener.accept()
            except OSError:  # one that went again at once, or no more descriptors: the next one may do
                continue
            threading.Thread(target=self._serve, args=(line,), name="sparkgap-intake-line", daemon=True).start()

    def _serve(self, line: Connection) -> None:
        run = None
        try:
            with line:
                greeting = admitted(line, self._key)
                run = self._pass
                if greeting["number"] != run.number:
                    return
                if greeting["what"] == FEED:
                    self._feed(run, line, greeting)
                elif greeting["what"] == LEVEL:
                    self._level(run, line)
                else:
                    self._over(run, line, greeting)
        except (EOFError, OSError, AuthenticationError):  # who has gone is tried again, or ends the pass in other words
            return
        except BaseException as error:  # raised where the rows are wanted
            if run is not None:
                self._fail(run, error)

    def _feed(self, run: _Pass, line: Connection, greeting: dict[str, Any]) -> None:
        part = self._claim(run, line, greeting["partition"], greeting["attempt"])
        try:
            with self._changed:  # what is said goes over the line as a whole, and in this order
                room, held = run.has_room, list(zip(part.numbers, part.sums, strict=True))
                line.send_bytes(json.dumps({"held": held, "room": room}).encode())
                if not room:
                    run.waiting.add(line)
            while (message := line.recv_bytes()) != WHOLE:
                self._add(run, Piece.parse(message), part, line)
            with self._changed:
                run.waiting.discard(line)
                line.send_bytes(WHOLE)
        finally:
            with self._changed:
                run.waiting.discard(line)
                part.line = None
                self._changed.notify_all()

    def _claim(self, run: _Pass, line: Connection, partition: int, attempt: int) -> _Partition:
        """Take a partition over from an earlier attempt; what that one has sent has been read then."""
        with self._changed:
            part = run.partitions.setdefault(partition, _Partition())
            if attempt < part.attempt:
                raise EOFError("a later attempt has begun")
            part.attempt = attempt
            while part.line is not None:
                _end([part.line])
                self._changed.wait()
            if attempt < part.attempt or run is not self._pass:
                raise EOFError("a later attempt has begun")
            part.line = line
        return part

    def _add(self, run: _Pass, piece: Piece, part: _Partition | None, line: Connection) -> None:
        block = piece.block(self._fields)
        with self._changed:
            if run is not self._pass:
                raise EOFError("this pass is over")
            run.rows.add(block)
            run.row_bytes = max(run.row_bytes, len(piece.body) / max(1, piece.rows))
            if part is not None:
                run.got += rows_of(block)
                part.numbers.append(piece.number)
                part.sums.append(piece.sum)
                if run.has_room:
                    _say(line, GO)
                else:
                    run.waiting.add(line)
            self._changed.notify_all()

    def _level(self, run: _Pass, line: Connection) -> None:
        while (message := line.recv_bytes()) != WHOLE:
            self._add(run, Piece.parse(message), None, line)
        line.send_bytes(WHOLE)

    def _over(self, run: _Pass, line: Connection, greeting: dict[str, Any]) -> None:
        if "failure" in greeting:
            self._fail(run, DataError(greeting["failure"]))
        with self._changed:
            run.expected = -1 if "failure" in greeting else greeting["rows"]
            self._changed.notify_all()
        line.send_bytes(WHOLE)

    def _fail(self, run: _Pass, error: BaseException) -> None:
        with self._changed:
            run.trouble = run.trouble or error
            self._changed.notify_all()


def _say(line: Connection, what: bytes) -> None:
    try:
        line.send_bytes(what)
    except OSError:  # gone: its own thread reads the end
        return


def _end(lines: Iterable[Connection | None]) -> None:
    """Have the threads that read these lines find their end."""
    for line in lines:
        if line is None:
            continue
        try:
            with socket.socket(fileno=os.dup(line.fileno())) as other:
                other.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed in the meantime
            continue
