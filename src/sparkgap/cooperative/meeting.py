"""How the tasks of a barrier stage talk to each other: by connections to rank 0, which they find by Spark's `allGather`.

In Spark's Python workers. `allGather` is used once, at the start, when all tasks have just begun. It would do for all rounds,
but a task that is ended while it waits in there takes its whole executor with it (seen with Spark 4.3: the exception ends the
thread that serves the call, and so the JVM), and in a stage that fails most tasks wait for another one.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from sparkgap._errors import RankError, SessionError
from sparkgap.cooperative.causes import Failure
from sparkgap.cooperative.meeting_host import ABORT_SECONDS, GRACE_SECONDS, Host
from sparkgap.cooperative.rank import address_towards

MARGIN_SECONDS = 5.0
"""A rank that failed waits so much longer for the cause than its host takes to find it."""


class Meeting:
    """The connection of one rank to all others.

    Args:
        rank: its number.
        world: how many there are.
        all_gather: Spark's.
        towards: a machine of another rank.
        seconds: until all tasks must be there.

    Attributes:
        bell: can be read when `orders` has something.
        cause: the failure that ended all ranks, once it is known.

    Raises:
        RankError: not all tasks came in time.
        SessionError: rank 0 cannot be reached.
    """

    def __init__(self, rank: int, world: int, all_gather: Callable[[str], list[str]], towards: str, seconds: float) -> None:
        self._rank = rank
        self._hall: Listener | None = None
        self.cause: Failure | None = None
        self._decided = threading.Event()
        self._said: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._sending = threading.Lock()
        place, key = ("", 0), ""
        if rank == 0:
            key = secrets.token_hex()
            self._hall = Listener((address_towards(towards), 0), backlog=world, authkey=key.encode())
            place = self._hall.address
        host, port, key = json.loads(_in_time(all_gather, json.dumps([*place, key]), rank, seconds)[0])
        if self._hall is not None:
            threading.Thread(target=Host(self._hall, world).serve, name="sparkgap-meeting", daemon=True).start()
        self._line = _connected(rank, host, port, key)
        self.bell, self._ring = socket.socketpair()
        self.bell.setblocking(False)
        threading.Thread(target=self._listen, name="sparkgap-orders", daemon=True).start()
        self.gather("")  # none goes on, and perhaps fails, while another is still in Spark's call

    def gather(self, message: str) -> list[str]:
        """Say something to all ranks, and return what each has said, by rank. Blocks until all have.

        Raises:
            EOFError: another rank has gone.
        """
        self._send({"say": message})
        said = self._said.get()
        if said is None:
            self._said.put(None)  # for whoever comes next
            raise EOFError("a rank has gone")
        return said

    def orders(self) -> list[str]:
        """Return what this rank is to do: ``"abort"``, say where it is; ``"end"``, there is a `cause`."""
        try:
            return [{b"a": "abort", b"e": "end"}[bytes((one,))] for one in self.bell.recv(16)]
        except BlockingIOError:
            return []

    def well(self) -> None:
        """Say that this rank has ended well."""
        self._send({"ended": None})

    def failed(self, failure: Failure) -> Failure:
        """Say that this rank has failed, and return the failure that was the cause, of whichever rank."""
        try:
            self._send({"ended": asdict(failure)})
        except OSError:  # the host has gone
            self._decided.set()
        self._decided.wait(GRACE_SECONDS + ABORT_SECONDS + MARGIN_SECONDS)
        if self.cause is None and failure.of_a_peer and self._rank and not self._said.empty():
            return Failure(0, "lost", "", "Its Spark task, or the Python worker that ran it, has ended.", "")
        return self.cause or failure

    def close(self) -> None:
        """Leave."""
        with suppress(OSError):  # the thread that listens is to notice
            socket.socket(fileno=os.dup(self._line.fileno())).shutdown(socket.SHUT_RDWR)
        self._line.close()
        if self._hall is not None:
            self._hall.close()

    def _send(self, what: dict[str, Any]) -> None:
        with self._sending:
            self._line.send_bytes(json.dumps(what).encode())

    # the thread that listens

    def _listen(self) -> None:
        try:
            while True:
                self._take(json.loads(self._line.recv_bytes()))
        except (EOFError, OSError):  # rank 0 has gone, or this rank's task is over
            self._said.put(None)
            self._decided.set()

    def _take(self, news: dict[str, Any]) -> None:
        if "said" in news:
            self._said.put(news["said"])  # None: one has left, and no round comes about any more
        elif "cause" in news:
            self.cause = Failure(**news["cause"])
            self._said.put(None)
            self._decided.set()
            self._ring.send(b"e")
        else:
            self._ring.send(b"a")


def _connected(rank: int, host: str, port: int, key: str) -> Connection:
    try:
        return _introduced(Client((host, port), authkey=key.encode()), rank)
    except OSError as error:
        raise SessionError(
            f"Rank {rank} on {socket.gethostname()} cannot reach rank 0 at {host}:{port}: {type(error).__name__}: {error}. "
            "The machines of the cluster must reach each other by TCP, on any port: look at firewalls and host names."
        ) from error


def _introduced(line: Connection, rank: int) -> Connection:
    line.send_bytes(str(rank).encode())
    return line


def _in_time(all_gather: Callable[[str], list[str]], message: str, rank: int, seconds: float) -> list[str]:
    """Call what may block for a year."""
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(all_gather(message)), name="sparkgap-join", daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise RankError(
            f"The tasks of the barrier stage did not meet within {seconds:g} s (join_timeout=), or Spark ended the stage.",
            rank, "absent",
        )  # fmt: skip
    return found[0]
