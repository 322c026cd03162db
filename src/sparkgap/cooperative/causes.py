"""Which rank was the first to fail: those that wait for it fail too, and often tell sooner. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

_PEERS = (
    "Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe", "Timed out waiting",
    "timed out after", "wait timeout after", "Socket Timeout", "recvValue failed", "failed to recv", "sendBytes failed",
    "Application timeout caused pair closure", "DistNetworkError", "DistStoreError", "StoreTimeout",
    "The driver did not answer",
    "NCCL error", "ncclRemoteError", "remote process exited", "Watchdog caught collective",
    "DEADLINE_EXCEEDED", "UNAVAILABLE", "Barrier timed out", "Shutdown barrier",
)  # fmt: skip
"""What the frameworks say where it is a peer that has gone or hangs."""
_LATE = ("Timed out", "timed out", "timeout", "Timeout", "DEADLINE_EXCEEDED")
_UNANSWERED = "Unanswered"
_IN_COLLECTIVE = ("torch/distributed/", "jax/_src/distributed", "scheduled/asking.py")
"""Code in which a rank waits for others, as its stack names it."""


@dataclass(frozen=True)
class Failure:
    """How a rank ended without a value.

    Attributes:
        rank: its number.
        kind: of `Outcome`, or ``"aborted"``: it hung, and was ended to see where.
        error: name of the exception.
        message: what it said.
        traceback: Python's.
        order: which of the failures this was, from 0.
    """

    rank: int
    kind: str
    error: str
    message: str
    traceback: str
    order: int = 0

    @property
    def of_a_peer(self) -> bool:
        """Whether it says that another rank has gone, or does not answer."""
        if self.kind != "exception":
            return False
        if self.error.startswith("sparkgap."):  # an error of ours is a cause, whatever the storage below it has said
            return self.error.endswith(_UNANSWERED)
        return any(sign in f"{self.error} {self.message}" for sign in _PEERS)

    @property
    def late(self) -> bool:
        """Whether it says that another rank does not answer: a collective, or a round, did not come about in time.

        Python's own ``TimeoutError`` and the like are of connections that frameworks do not make: it proves no hang.
        """
        if not self.of_a_peer or self.error in _BUILTIN:
            return False
        return self.error.endswith(_UNANSWERED) or any(sign in f"{self.error} {self.message}" for sign in _LATE)

    @property
    def blame(self) -> float:
        """How little it can be the cause of others; the least of all failures is."""
        if self.kind == "aborted":
            return 2 if any(code in self.traceback for code in _IN_COLLECTIVE) else 1
        if not self.of_a_peer:
            return 0
        return 3 if self.error in _BUILTIN else 4


_BUILTIN = ("TimeoutError", "ConnectionRefusedError", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError")


def cause_of(failures: Mapping[int, Failure]) -> Failure:
    """Return the failure that made the others, as far as that can be told.

    A rank that died or raised an exception of its own comes before one that hung, and that before those which only say
    that a peer was not there; of those that hung, one that waited for others comes last; among equals, the first told.
    """
    return min(failures.values(), key=lambda one: (one.blame, one.order))


class Inquiry:
    """Finds the rank that is to be told of, as their endings come in.

    Whoever drives it keeps the clock: it waits a little after ``"grace"``, ends those that `hung` names, waits again, and
    then tells of the `cause`.

    Args:
        world: how many ranks there are.

    Attributes:
        failures: by rank.
    """

    def __init__(self, world: int) -> None:
        self._world = world
        self._good: set[int] = set()
        self._aborted: set[int] = set()
        self.failures: dict[int, Failure] = {}

    def well(self, rank: int) -> None:
        """Note that a rank has ended well."""
        self._good.add(rank)

    def failed(self, failure: Failure) -> Literal["decide", "grace", "wait"]:
        """Take a failure.

        Returns:
            ``"decide"``: the cause is known; ``"grace"``: a peer's own end may be told soon; ``"wait"``: it is waited already.
        """
        kind = "aborted" if failure.rank in self._aborted else failure.kind
        failure = replace(failure, kind=kind, order=len(self.failures))
        self.failures[failure.rank] = failure
        if len(self.failures) + len(self._good) == self._world or not failure.blame:
            return "decide"
        return "grace" if len(self.failures) == 1 else "wait"

    def hung(self) -> set[int]:
        """Return the ranks that others wait for and that say nothing: they are to be ended, to see where they are."""
        if not any(failure.late for failure in self.failures.values()):
            return set()
        silent = set(range(self._world)) - self.failures.keys() - self._good
        self._aborted |= silent
        return silent

    @property
    def cause(self) -> Failure:
        """Of all failures."""
        return cause_of(self.failures)
