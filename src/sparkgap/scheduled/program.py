"""What a bench is told and what it tells: plain values."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Program:
    """What to run, and within which limits.

    Args:
        function: ``fn(item) -> value``, by `pyspark.cloudpickle`.
        fresh: a new process for every item; else one for all items of the run.
        preload: modules that are imported before processes are forked.
        timeout: seconds that an item may take.
        memory: bytes of resident memory that an item's processes may hold together; Linux only.
        threads: of numeric libraries.
        result_limit: bytes of a pickled value.
        output_bytes: of stdout and stderr, kept for each item: the last ones.
        monitored: whether `gap.report`, `gap.show` and `logging` are listened to.
    """

    function: bytes
    fresh: bool = False
    preload: tuple[str, ...] = ()
    timeout: float | None = None
    memory: int | None = None
    threads: int = 1
    result_limit: int = 256 << 20
    output_bytes: int = 16_384
    monitored: bool = True


class Ended(NamedTuple):
    """How an item ended: there is exactly one for each item that was begun.

    Attributes:
        position: of the item in its lease.
        kind: ``"ok"``, ``"exception"``, ``"timeout"``, ``"memory"``, ``"exit"``, ``"signal"``, ``"result"`` (cannot be
            pickled, or is too large) or ``"cancelled"``.
        value: pickled if ok, else ``b""``.
        error: name of the exception's type, or of what happened; ``""`` if ok.
        message: what happened and what to do; an exception's text.
        traceback: Python's; of a crash, what faulthandler wrote.
        exit_code: for ``"exit"``.
        signal: for ``"signal"``.
        seconds: how long it took.
        peak_rss: bytes; of the process until then, so for a process of many items the largest of them.
        output: the end of what it printed.
        started: seconds since 1970.
    """

    position: int
    kind: str
    value: bytes = b""
    error: str = ""
    message: str = ""
    traceback: str = ""
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    peak_rss: int = 0
    output: str = ""
    started: float = 0.0


@dataclass
class News:
    """What `Bench.wait` has seen.

    Args:
        ended: items, in their order.
        printed: stream (always ``"output"``: both are one, in the order of printing) and line.
        said: encoded events, for `sparkgap.monitor.relay.pass_on`.
        asked: position in the lease, and a question: its ``"id"``, whether it is to ``"wait"`` for, and the ``"question"``.
        readable: those of `also` that can be read.
    """

    ended: list[Ended] = field(default_factory=list)
    printed: list[tuple[str, str]] = field(default_factory=list)
    said: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    readable: list[socket.socket] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.ended or self.printed or self.said or self.asked or self.readable)
