"""Where the tasks of a barrier stage meet: a thread of rank 0, which passes on what ranks say and finds who failed first.

In Spark's Python worker. What `gang` does on the driver for `gap.train`, by the same rules (`causes.Inquiry`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, wait
from typing import Any

from sparkgap.cooperative.causes import Failure, Inquiry

GRACE_SECONDS = 1.0
"""After a rank that only says that a peer has gone, so long for the peer's own end to be told."""
ABORT_SECONDS = 5.0
"""A rank that hangs has so long to tell where."""


class Host:
    """The host of one meeting.

    Args:
        hall: where ranks connect.
        world: how many ranks there are.
    """

    def __init__(self, hall: Listener, world: int) -> None:
        self._hall = hall
        self._world = world
        self._guests: dict[int, Connection] = {}
        self._said: dict[int, str] = {}
        self._ended: set[int] = set()
        self._inquiry = Inquiry(world)
        self._decided = False
        self._due: tuple[float, Callable[[], None]] | None = None

    def serve(self) -> None:
        """Serve until all ranks have left."""
        try:
            self._admit()
        except OSError:  # this rank's task is over
            return
        while self._guests:
            ready = wait(list(self._guests.values()), self._left())
            for rank, line in list(self._guests.items()):
                if line in ready:
                    self._hear(rank, line)
            if self._due is not None and time.monotonic() >= self._due[0]:
                (_, act), self._due = self._due, None
                act()

    def _admit(self) -> None:
        while len(self._guests) < self._world:
            try:
                guest = self._hall.accept()
                self._guests[int(guest.recv_bytes())] = guest
            except (AuthenticationError, ConnectionError, EOFError):  # a stranger
                continue

    def _hear(self, rank: int, line: Connection) -> None:
        try:
            news = json.loads(line.recv_bytes())
        except (EOFError, OSError):
            self._gone(rank)
            return
        if "say" in news:
            self._say(rank, news["say"])
        elif news["ended"] is None:
            self._ended.add(rank)
            self._inquiry.well(rank)
        else:
            self._failed(Failure(**news["ended"]))

    def _say(self, rank: int, message: str) -> None:
        self._said[rank] = message
        if len(self._said) == self._world:
            said, self._said = [self._said[r] for r in range(self._world)], {}
            self._tell(range(self._world), {"said": said})

    def _gone(self, rank: int) -> None:
        self._guests.pop(rank).close()
        if rank in self._ended:
            self._tell(list(self._guests), {"said": None})
        else:
            self._failed(Failure(rank, "lost", "", "Its Spark task, or the Python worker that ran it, has ended.", ""))

    def _failed(self, failure: Failure) -> None:
        self._ended.add(failure.rank)
        step = self._inquiry.failed(failure)
        if step == "decide":
            self._decide()
        elif step == "grace":
            self._after(GRACE_SECONDS, self._look_for_hung)

    def _look_for_hung(self) -> None:
        hung = self._inquiry.hung()
        self._tell(hung, {"order": "abort"})
        if hung:
            self._after(ABORT_SECONDS, self._decide)
        else:
            self._decide()

    def _decide(self) -> None:
        if not self._decided:
            self._decided = True
            everybody = sorted(self._guests, reverse=True)  # this process's own rank last: with it this thread may end
            self._tell(everybody, {"cause": asdict(self._inquiry.cause)})

    def _tell(self, ranks: Any, what: dict[str, Any]) -> None:
        message = json.dumps(what).encode()
        for rank in ranks:
            if rank in self._guests:
                try:
                    self._guests[rank].send_bytes(message)
                except OSError:  # it has gone, which is heard next
                    continue

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        if not self._decided:
            self._due = (time.monotonic() + seconds, act)

    def _left(self) -> float | None:
        return None if self._due is None else max(0.0, self._due[0] - time.monotonic())
