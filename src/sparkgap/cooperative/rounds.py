"""The rounds of a rank: what its process says to all ranks, and the answers. In Spark's Python worker.

The call that makes a round blocks until all ranks have made it. So it is made in a thread.
"""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sparkgap.cooperative.coordinator import JOIN


class Rounds:
    """The rounds of one rank; used by one thread.

    Args:
        all_gather: given what this rank says, returns what all say, by rank.
        join: seconds until all ranks must have come to the first round. In later ones it is the rank that gives up.

    Attributes:
        bell: can be read when `answers` has something.
    """

    def __init__(self, all_gather: Callable[[str], list[str]], join: float) -> None:
        self._all_gather = all_gather
        self._join = join
        self.bell, self._ring = socket.socketpair()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._name: str | None = None
        self._until: float | None = None
        self._question = ""

    @property
    def waiting(self) -> str | None:
        """Name of the round that is not over; None where there is none."""
        return self._name

    def ask(self, number: str, question: Mapping[str, Any]) -> None:
        """Take a question of the rank's process; the answer comes later, once all ranks have put it."""
        if question.get("do") != "gather":
            self._answer({"id": number, "failure": f"Nobody answers {question.get('do')!r} in gap.cooperate."})
        elif self._name is not None:
            self._answer({"id": number, "failure": f"The round {self._name!r} before this one has not come to its end."})
        else:
            self._name, self._question = str(question["name"]), number
            self._until = time.monotonic() + self._join if self._name == JOIN else None
            said = json.dumps({"name": self._name, "value": question["value"]})
            threading.Thread(target=self._meet, args=(number, said), name="sparkgap-round", daemon=True).start()

    def left(self) -> float | None:
        """Seconds until `answers` must be asked; None for no limit."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def answers(self) -> list[dict[str, Any]]:
        """Return what is to go to the rank's process; see `Bench.answer`."""
        found = []
        while not self._answers.empty():
            self.bell.recv(1)  # one for each, and before it: the bell rings until the last one is taken
            found.append(self._answers.get())
        if any(one["id"] == self._question for one in found):
            self._name = self._until = None
        if self._until is not None and time.monotonic() >= self._until:
            self._until = None
            found.append({"id": self._question, "failure": late(self._name or "", self._join, "join_timeout")})
        return found

    def close(self) -> None:
        """Close the bell; a thread that still waits for other ranks ends with this process."""
        self._ring.close()
        self.bell.close()

    def _meet(self, number: str, said: str) -> None:
        try:
            self._answer({"id": number, **outcome(self._all_gather(said))})
        except Exception as error:  # of any class, by Spark's version: it is the answer
            self._answer({"id": number, "failure": broken_off(f"{type(error).__name__}: {error}")})

    def _answer(self, answer: dict[str, Any]) -> None:
        try:
            self._ring.send(b"x")
        except OSError:  # closed: nobody waits any more
            return
        self._answers.put(answer)


def outcome(said: list[str]) -> dict[str, Any]:
    """Return the values of a round, or why there are none. Pure."""
    try:
        heard = [json.loads(one) for one in said]
        names = [one["name"] for one in heard]
    except (ValueError, TypeError, KeyError):
        return {"failure": broken_off(" ".join(said))}
    if len(set(names)) > 1:
        where = ", ".join(f"rank {rank} is at {name!r}" for rank, name in enumerate(names))
        return {"failure": f"The workers do not fit together: {where}. Every rank must do the same steps."}
    return {"value": [one["value"] for one in heard]}


def broken_off(why: str) -> str:
    """Say that a round ended without an answer: the task of another rank has ended."""
    return f"Connection closed by peer: the round was broken off, most likely as another rank has failed ({why})."


def late(name: str, seconds: float, option: str) -> str:
    """Say that not all ranks came to a round."""
    return (
        f"The round {name!r} timed out after {seconds:g} s ({option}=): not all ranks came to it. One of them hangs, is "
        "slower than that, or did not begin."
    )
