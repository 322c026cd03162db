"""A desk without connections: its slots are threads here, and each lease is a Spark job. Driver side; knows no Spark.

For clusters whose executors cannot reach this process. To the runner it is what `desk.Desk` is.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from sparkgap.scheduled.desk import Gone, Opened, Said
from sparkgap.scheduled.frames import Frame
from sparkgap.scheduled.runner import SlotEnded

_log = logging.getLogger("sparkgap.scheduled")

CANCEL_SECONDS = 0.5
"""A cancelled job is cancelled again after so long: Spark ends only what has begun by then."""


class Jobs(Protocol):
    """What runs leases; see `lease_jobs.LeaseJobs`."""

    def run(self, tag: str, lease: int, items: list[int], payload: bytes) -> list[Frame]:
        """Run a lease to its end, in the calling thread, and return what its task said.

        Args:
            tag: by which `cancel` finds the job.
            lease: its number.
            items: numbers of its items.
            payload: the items, pickled.

        Raises:
            Exception: the job failed, or its task has vanished: what became of the items is not known.
        """
        ...

    def cancel(self, tag: str) -> None:
        """End the jobs with a tag; any thread."""
        ...


class _Lease(NamedTuple):
    number: int
    items: list[int]
    payload: bytes


class LeaseDesk:
    """The slots of one run.

    All methods but `post` are for one thread.

    Args:
        jobs: runs leases.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._slots: dict[int, _Slot] = {}
        self._next = 0

    def open(self, number: int) -> None:
        """Open the slot of a place; returns at once."""
        self._next += 1
        slot = _Slot(self._next, number, self._jobs, self.post)
        self._slots = {n: s for n, s in self._slots.items() if s.alive} | {self._next: slot}
        self.post(Opened(self._next, {"number": number}))
        slot.start()

    def post(self, what: Any) -> None:
        """Hand something to the thread that polls. Any thread."""
        self._news.put(what)

    def poll(self, seconds: float | None) -> list[Any]:
        """Wait for news; see `desk.Desk.poll`."""
        news: list[Any] = []
        try:
            news.append(self._news.get(timeout=seconds))
            while True:
                news.append(self._news.get_nowait())
        except queue.Empty:
            return news

    def send(self, slot: int, kind: str, header: Mapping[str, Any] | None = None, payload: bytes = b"") -> None:
        """Say something to a slot; nothing happens where it has gone. Never blocks."""
        if slot in self._slots:
            self._slots[slot].obey(kind, header or {}, payload)

    def stop(self) -> None:
        """End the jobs that still run."""
        for slot in self._slots.values():
            slot.obey("kill", {}, b"")

    def close(self) -> None:
        """Let the slots end; returns at once."""
        for slot in self._slots.values():
            slot.obey("close", {}, b"")


class _Slot:
    """One slot: a thread that has one lease after the other run.

    Args:
        slot: its number.
        place: number of the runner's place.
        jobs: runs leases.
        post: takes news, from any thread.
    """

    def __init__(self, slot: int, place: int, jobs: Jobs, post: Callable[[Any], None]) -> None:
        self._slot = slot
        self._place = place
        self._jobs = jobs
        self._post = post
        self._tag = f"sparkgap-{uuid.uuid4().hex}"
        self._waiting: deque[_Lease] = deque()
        self._changed = threading.Condition()
        self._open, self._busy, self._killed = True, False, False
        self._thread = threading.Thread(target=self._work, name=f"sparkgap-slot-{place}", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def obey(self, kind: str, facts: Mapping[str, Any], payload: bytes) -> None:
        with self._changed:
            match kind:
                case "lease":
                    self._waiting.append(_Lease(facts["lease"], facts["items"], payload))
                case "recall":  # a lease whose job runs cannot be reached
                    while self._waiting:
                        lease = self._waiting.pop()
                        self._say("returned", {"lease": lease.number, "items": lease.items})
                case "kill":
                    self._kill()
                case "close":
                    self._open = False
            self._changed.notify_all()

    def _kill(self) -> None:
        self._waiting.clear()
        if self._busy and not self._killed:
            self._killed = True
            threading.Thread(target=self._cancel, name=f"sparkgap-kill-{self._place}", daemon=True).start()

    def _cancel(self) -> None:
        """Cancel the job at hand until it is over: the first time it may not have begun."""
        idle = False
        while not idle:
            try:
                self._jobs.cancel(self._tag)
            except Exception as error:  # the session has ended, or its connection: then so have the jobs
                _log.debug("A lease could not be interrupted: %s", error)
                return
            with self._changed:
                idle = self._changed.wait_for(lambda: not self._busy, CANCEL_SECONDS)

    def _say(self, kind: str, header: dict[str, Any]) -> None:
        self._post(Said(self._slot, Frame(kind, header, memoryview(b""))))

    # the thread of the slot

    def _work(self) -> None:
        status, message = "closed", ""
        try:
            while (lease := self._next()) is not None:
                for frame in self._jobs.run(self._tag, *lease):
                    self._post(Said(self._slot, frame))
        except Exception as error:  # whatever Spark or its client raise, it is told as it is
            if not self._killed:
                status, message = "failed", f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            self._post(Gone(self._slot))
            self._post(SlotEnded(self._place, status, message))

    def _next(self) -> _Lease | None:
        """Wait for the next lease; None: there will be none."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or not self._open)
            self._busy = bool(self._waiting) and not self._killed
            return self._waiting.popleft() if self._busy else None
