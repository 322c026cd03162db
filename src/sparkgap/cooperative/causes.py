"""Which rank was the first to fail: those that wait for it fail too, and often tell sooner. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    order: int

    @property
    def of_a_peer(self) -> bool:
        """Whether it says that another rank has gone, or does not answer."""
        return self.kind == "exception" and any(sign in f"{self.error} {self.message}" for sign in _PEERS)

    @property
    def late(self) -> bool:
        """Whether it says that another rank does not answer."""
        return self.of_a_peer and any(sign in f"{self.error} {self.message}" for sign in _LATE)


def cause_of(failures: Mapping[int, Failure]) -> Failure:
    """Return the failure that made the others, as far as that can be told.

    A rank that died or raised an exception of its own comes before one that hung, and that before those which only say
    that a peer was not there; among equals, the first that was told.
    """

    def place(one: Failure) -> tuple[int, int]:
        return (2 if one.of_a_peer else 1 if one.kind == "aborted" else 0, one.order)

    return min(failures.values(), key=place)
