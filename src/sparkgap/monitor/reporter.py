"""The executor's side: one queue and one thread a process, which take what a task has to say to the driver.

Saying something never blocks and never fails. What is said waits in bounded queues; where they are full, the oldest
metrics go first, then logs and artifacts, and failures never. The thread that encodes and sends keeps to a share of
one core, whatever is thrown at it: the price of seeing is bounded by construction.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sparkgap.monitor import events, load
from sparkgap.monitor.events import Event, Task
from sparkgap.monitor.points import numbers
from sparkgap.monitor.sending import Sender
from sparkgap.monitor.stats import TaskStats

_log = logging.getLogger("sparkgap.monitor")

EVERY = 0.2
"""Seconds between two sendings."""
PROGRESS_EVERY = 0.5
"""Seconds between two reports of where a task is."""
FLOODED_EVERY = 0.8
"""Seconds between two sendings where more is said than can be sent anyway."""
SHARE = 0.005
"""Part of one core that encoding and sending may take, as far as `LONGEST` allows."""
LONGEST = 0.4
"""Longest pause between two sendings that are no flood: what is said must be seen within a second."""
MAX_METRICS = 250
"""Calls of `gap.report` that may wait."""
FLOODED_METRICS = 60
"""And so many of them are sent at once where more is said than can be sent: the newest; a curve needs no more."""
NEWEST = 16
"""So many of the last calls are kept whatever there is: how it ended matters most."""
MAX_OTHERS = {"log": 500, "artifact": 20, "failure": 1000, "rank": 20}
"""Other events that may wait, by type."""
FLUSH_SECONDS = 5.0
"""The end of a task waits so long for a driver that is there."""
HURRY_SECONDS = 0.5
"""And so long for a thread that tries to reach one."""

Point = tuple[int, float, float | None, Mapping[str, Any]]


class Reporter:
    """Takes what the task at hand says, and has it sent. One per process; made at its first task.

    A process works on one task at a time, but a task may have several attempts' worth of runs in it: column expressions
    that Spark puts into one worker. Each begins and ends by itself.
    """

    def __init__(self) -> None:
        self._begun: list[Attempted] = []
        self._late: deque[Attempted] = deque(maxlen=100)
        self._wake = threading.Event()
        self._lock = threading.Lock()  # held by whoever takes from the queues
        self._thread = threading.Thread(target=self._work, name="sparkgap-reporter", daemon=True)
        self._thread.start()

    def begin(self, sender: Sender, run: str, task: Task, stats: TaskStats, cpus: int = 1, earlier: int = 0) -> Attempted:
        """Start an attempt; what is said from now on is its own.

        Args:
            sender: how its events leave the process.
            run: id of the run.
            task: which attempt.
            stats: the counters that the work keeps; read while it goes on.
            cpus: cores of the task.
            earlier: attempts of the same task before this one.
        """
        global at_hand
        begun = Attempted(sender, run, task, stats)
        started = events.TaskStarted(
            run=run, time=time.time(), task=task, host=socket.gethostname(), pid=os.getpid(), cpus=cpus, earlier=earlier
        )
        begun.say(started)
        self._begun = [*self._begun, begun]
        at_hand = begun
        self._wake.set()
        return begun

    def end(self, begun: Attempted, ok: bool | None) -> bool:
        """End an attempt, and wait a short while until the driver has all of it.

        Returns:
            False where the driver could not be reached in time: the work goes on.
        """
        global at_hand
        self._begun = [b for b in self._begun if b is not begun]
        at_hand = self._begun[-1] if self._begun else None
        begun.over(ok)
        if not self._lock.acquire(timeout=HURRY_SECONDS):
            self._late.append(begun)  # the thread hangs in a connection that does not come about: it will send this, too
            return False
        try:
            return begun.sender.send(begun.run, begun.take(), wait=FLUSH_SECONDS)
        finally:
            self._lock.release()

    def _work(self) -> None:
        busy_until = 0.0
        while True:
            now = time.monotonic()
            self._wake.wait(max(EVERY, busy_until - now) if self._begun or self._late else None)
            self._wake.clear()
            started = time.thread_time()
            try:
                self._send_once()
            except Exception:  # seeing never fails the work, and a bug here must be found
                _log.exception("The monitor could not send what the task said.")
            pause = min((time.thread_time() - started) / SHARE, LONGEST)
            if any(b.flooded for b in self._begun):
                pause = max(pause, FLOODED_EVERY)
            busy_until = time.monotonic() + pause

    def _send_once(self) -> None:
        with self._lock:
            while self._late:
                late = self._late.popleft()
                late.sender.send(late.run, late.take())
            for begun in self._begun:
                # What cannot be sent now stays in the queues, where it is bounded and counted.
                if begun.sender.ready() and (told := begun.take()):
                    begun.sender.send(begun.run, told)


class Attempted:
    """One attempt as its own process sees it: what it has said, and has not sent yet.

    Args:
        sender: how its events leave the process.
        run: id of the run.
        task: which attempt.
        stats: the counters that the work keeps.
    """

    def __init__(self, sender: Sender, run: str, task: Task, stats: TaskStats) -> None:
        self.sender = sender
        self.run = run
        self.task = task
        self.stats = stats
        self._points: deque[Point] = deque(maxlen=MAX_METRICS)
        self._numbers = itertools.count()
        self._ticks = self._taken = 0
        self._latest = -1
        self._others: deque[Event] = deque()
        self._waiting: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._others_lock = threading.Lock()
        self._cpu = time.process_time()
        self._peak = self._looks = self._runnable = 0
        self._shown: dict[str, float] = {}
        self._progress_at = 0.0
        self.flooded = False
        self._ok: bool | None = False
        self._last: tuple[dict[str, Any], float, float] | None = None
        # What `report` uses a hundred thousand times a second: calls into C, no lock. The deque drops its oldest; the next
        # number tells how many there were. In a flood, only every so many-th point is kept, and the newest ones.
        self.add_point: Callable[[Point], None] = self._points.append
        self.next_number: Callable[[], int] = self._numbers.__next__
        self.every = 1
        self._newest: deque[tuple[int, float | None, Mapping[str, Any]]] = deque(maxlen=NEWEST)
        self.add_newest: Callable[[tuple[int, float | None, Mapping[str, Any]]], None] = self._newest.append

    def say(self, event: Event) -> None:
        """Take an event that is not a metric."""
        kind = event.type
        most = MAX_OTHERS.get(kind)
        with self._others_lock:
            self._said[kind] += 1
            if most is not None and self._waiting[kind] >= most:
                if kind == "failure":
                    self._dropped[kind] += 1  # a thousand wait already, and the first ones tell the most
                    return
                self._drop_oldest(kind)
            self._waiting[kind] += 1
            self._others.append(event)

    def may_show(self, name: str, every: float) -> bool:
        """Whether something of this name may be shown again already."""
        now = time.monotonic()
        if now - self._shown.get(name, -every) < every:
            return False
        self._shown[name] = now
        return True

    def drop(self, kind: str) -> None:
        """Count an event that is not even made, as there are too many of its kind."""
        with self._others_lock:
            self._said[kind] += 1
            self._dropped[kind] += 1

    def _drop_oldest(self, kind: str) -> None:
        for place, event in enumerate(self._others):
            if event.type == kind:
                del self._others[place]
                self._waiting[kind] -= 1
                self._dropped[kind] += 1
                return

    def over(self, ok: bool | None) -> None:
        """Note the end of the attempt, and what it has done until then."""
        self._ok = ok
        self._last = self.stats.to_dict(), time.time(), time.process_time() - self._cpu

    def take(self) -> list[Event]:
        """Take what waits: for the sender, under its lock."""
        with self._others_lock:
            told = list(self._others)
            self._others.clear()
            self._waiting.clear()
        told += self._take_points()
        now = time.monotonic()
        if self._last is not None:
            told.append(self._ended())
        elif now - self._progress_at >= PROGRESS_EVERY:
            self._progress_at = now
            told.append(self._progress())
        return told

    def _take_points(self) -> list[Event]:
        groups: dict[tuple[str, ...], list[tuple[float | None, ...]]] = {}
        while self.flooded and len(self._points) > FLOODED_METRICS:
            self._points.popleft()
        for _, at, step, values in self._waiting_points():
            self._taken += 1
            clean = numbers(values)
            groups.setdefault(tuple(clean), []).append((at, step, *clean.values()))
        self._count_points()
        return [
            events.Metrics(run=self.run, time=float(points[-1][0] or 0.0), task=self.task, names=names, points=tuple(points))
            for names, points in groups.items()
            if names
        ]

    def _waiting_points(self) -> Iterator[Point]:
        while True:
            try:
                point = self._points.popleft()
            except IndexError:
                break
            self._latest = max(self._latest, point[0])
            yield point
        now = time.time()
        for number, step, values in list(self._newest):
            if number > self._latest:
                self._latest = number
                yield number, now, step, values

    def _count_points(self) -> None:
        """Count what was said and dropped, and choose how much of it is kept until the next time."""
        said = self.next_number() - self._ticks  # each look takes a number, too
        self._ticks += 1
        lately = said - self._said["metrics"]
        self._said["metrics"] = said
        self._dropped["metrics"] = said - self._taken
        self.flooded = lately > MAX_METRICS
        few = lately // FLOODED_METRICS
        # odd and by chance: code that reports several things in turn shall not have one of them dropped each time
        self.every = random.randint(few, few + few // 4) | 1 if self.flooded else 1

    def _progress(self) -> Event:
        rss = load.memory()
        self._peak = max(self._peak, rss)
        if self.stats.within("model"):
            self._looks += 1
            self._runnable += load.runnable()
        return events.Progress(
            run=self.run, time=time.time(), task=self.task, stats=self.stats.to_dict(),
            cpu_seconds=time.process_time() - self._cpu, rss=rss, gpu=load.gpus(),
            runnable=self._runnable / max(1, self._looks),
        )  # fmt: skip

    def _ended(self) -> Event:
        stats, at, cpu = self._last or ({}, 0.0, 0.0)
        return events.TaskEnded(
            run=self.run, time=at, task=self.task, ok=self._ok, stats=stats, cpu_seconds=cpu,
            rss=max(self._peak, load.memory()),
            said={k: n for k, n in self._said.items() if n}, dropped={k: n for k, n in self._dropped.items() if n},
        )  # fmt: skip


_current: Reporter | None = None
_making = threading.Lock()
at_hand: Attempted | None = None
"""The attempt that this process works on. A plain variable, as `gap.report` reads it very often."""


def reporter() -> Reporter:
    """Return the reporter of this process, made at first use."""
    global _current
    with _making:
        if _current is None:
            _current = Reporter()
        return _current


def focus(begun: Attempted | None) -> None:
    """Note whose work goes on from here; what is reported, printed or logged is its own."""
    global at_hand
    at_hand = begun


def _forget() -> None:
    """In a forked child: it has neither the thread nor the right to its parent's connection."""
    global _current, at_hand, _making
    _current, at_hand, _making = None, None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
