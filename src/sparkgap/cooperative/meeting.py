"""How the tasks of a barrier stage talk to each other: by connections to rank 0, which they find by Spark's `allGather`.

In Spark's Python workers. `allGather` is used once, at the start, when all tasks have just begun. It would do for all rounds,
but a task that is ended while it waits in there takes its whole executor with it (seen with Spark 4.3: the exception ends the
thread that serves the call, and so the JVM), and in a stage that fails most tasks wait for another one.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener

from sparkgap._errors import RankError
from sparkgap.cooperative.rank import address_towards


class Meeting:
    """The connections of one rank.

    Args:
        rank: its number.
        world: how many there are.
        all_gather: Spark's.
        towards: a machine of another rank.
        seconds: until all tasks must be there.

    Raises:
        RankError: not all tasks came in time.
    """

    def __init__(self, rank: int, world: int, all_gather: Callable[[str], list[str]], towards: str, seconds: float) -> None:
        self._hall: Listener | None = None
        place, key = ("", 0), ""
        if rank == 0:
            key = secrets.token_hex()
            self._hall = Listener((address_towards(towards), 0), backlog=world, authkey=key.encode())
            place = self._hall.address
        host, port, key = json.loads(_in_time(all_gather, json.dumps([*place, key]), rank, seconds)[0])
        if self._hall is not None:
            threading.Thread(target=_host, args=(self._hall, world), name="sparkgap-meeting", daemon=True).start()
        self._line = Client((host, port), authkey=key.encode())
        self._line.send_bytes(str(rank).encode())
        self.gather("")  # none goes on, and perhaps fails, while another is still in Spark's call

    def gather(self, message: str) -> list[str]:
        """Say something to all ranks, and return what each has said, by rank. Blocks until all have.

        Raises:
            EOFError: another rank has gone.
        """
        self._line.send_bytes(message.encode())
        said: list[str] = json.loads(self._line.recv_bytes())
        return said

    def close(self) -> None:
        """Leave."""
        self._line.close()
        if self._hall is not None:
            self._hall.close()


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


def _host(hall: Listener, world: int) -> None:
    """Pass on what all ranks say, round by round, until one has gone: then no round comes about any more."""
    guests: dict[int, Connection] = {}
    try:
        while len(guests) < world:
            try:
                guest = hall.accept()
                guests[int(guest.recv_bytes())] = guest
            except (AuthenticationError, ConnectionError, EOFError):  # a stranger
                continue
        while True:
            said = [guests[rank].recv_bytes().decode() for rank in range(world)]
            for guest in guests.values():
                guest.send_bytes(json.dumps(said).encode())
    except (EOFError, OSError):  # one has gone, or this rank's task is over
        for guest in guests.values():
            guest.close()
