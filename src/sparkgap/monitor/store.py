"""All runs that this process knows of, live and past: states, listeners, history. Thread-safe."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from sparkgap.monitor.events import Event, RunStarted, Task, decode, encode
from sparkgap.monitor.history import History
from sparkgap.monitor.state import RunState

_log = logging.getLogger("sparkgap.monitor")

MAX_RUNS = 200
"""Runs kept in memory; older ones stay in the history."""


class Stoppable(Protocol):
    """A run that this process can end."""

    over: bool

    def cancel(self) -> None:
        """End it; returns at once. Any thread."""


class Store:
    """Runs by id, folded from what arrives.

    Args:
        history: where frames are kept on disk; None to keep nothing.
    """

    def __init__(self, history: History | None = None) -> None:
        self.history = history
        self._runs: dict[str, RunState] = {}
        self._planned: dict[str, list[dict[str, Any]]] = {}
        self._seen: dict[tuple[str, str], int] = {}  # (sender, run) -> number of its last event
        self._held: dict[str, dict[str, set[Task]]] = {}  # sender -> run -> attempts that have not ended
        self._stoppable: dict[str, Stoppable] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._version = 0
        self.rejected = 0

    def stoppable(self, run: str, what: Stoppable) -> None:
        """Note what ends a run, for those who look at it."""
        with self._lock:
            self._stoppable = {name: one for name, one in self._stoppable.items() if not one.over}
            self._stoppable[run] = what

    def can_stop(self, run: str) -> bool:
        """Whether a run goes on, and `stop` ends it."""
        with self._lock:
            found = self._stoppable.get(run)
            return found is not None and not found.over

    def stop(self, run: str) -> bool:
        """End a run; returns at once. False where it has ended, or nothing here can end it."""
        with self._lock:
            found = self._stoppable.get(run)
        if found is None or found.over:
            return False
        found.cancel()
        return True

    def say(self, event: Event) -> None:
        """Take an event of this very process."""
        with self._changed:
            self._apply(event)
            self._version += 1
            self._changed.notify_all()
            told = [encode(event)]
            if isinstance(event, RunStarted):  # most plans are made to be looked at, and never run
                self._planned[event.run] = told
                return
            told = self._planned.pop(event.run, []) + told
        if self.history is not None:
            self.history.keep(event.run, "driver", told)

    def receive(self, sender: str, run: str, first: int, told: Sequence[Mapping[str, Any]], keep: bool = True) -> int:
        """Take a frame of events; those that came before are passed over.

        Args:
            sender: id of the process that says them.
            run: id of their run.
            first: number of the first of them, counted by the sender.
            told: the events, encoded.
            keep: whether the history must write them; not where they came from its own folder.

        Returns:
            The number of the sender's last event that is here.
        """
        with self._changed:
            seen = self._seen.get((sender, run), -1)
            fresh = [raw for number, raw in enumerate(told, first) if number > seen]
            self._seen[sender, run] = max(seen, first + len(told) - 1)
            for raw in fresh:
                self._take(sender, run, raw)
            self._version += 1
            self._changed.notify_all()
            last = self._seen[sender, run]
            planned = self._planned.pop(run, None)
        if self.history is not None and fresh:
            if planned:
                self.history.keep(run, "driver", planned)
            if keep:
                self.history.keep(run, sender, fresh)
        return last

    def gone(self, sender: str) -> None:
        """Note that a sender's connection has ended: attempts that it had not ended are lost, unless it comes back."""
        with self._changed:
            for run, tasks in self._held.pop(sender, {}).items():
                for task in tasks:
                    self._runs[run].lose(task, time.time())
            self._version += 1
            self._changed.notify_all()

    @contextmanager
    def reading(self, run: str) -> Iterator[RunState | None]:
        """Give the state of a run, for the length of a `with` block in which nothing changes; None if it is unknown."""
        with self._lock:
            yield self._runs.get(run)

    def runs(self) -> list[str]:
        """Return the ids of the runs in memory, oldest first."""
        with self._lock:
            return sorted(self._runs, key=lambda r: self._runs[r].started)

    def open_stages(self) -> dict[int, str]:
        """Return the stages that are worked in, as far as is known, with their runs."""
        with self._lock:
            return {
                stage: run
                for run, state in self._runs.items()
                if (stage := state.latest_stage) is not None and (stage not in state.stages or not state.stages[stage].done)
            }

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def wait(self, version: int, seconds: float) -> int:
        """Wait until something has changed since `version`, or the time is over; returns the version then."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, seconds)
            return self._version

    def _take(self, sender: str, run: str, raw: Mapping[str, Any]) -> None:
        try:
            event = decode(raw)
            if event is None:
                return
            if event.run != run:
                raise ValueError(f"an event of run {event.run!r} in a frame of run {run!r}")
            self._apply(event)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            self.rejected += 1
            if self.rejected == 1:
                _log.warning("An event from %s was not understood and is left out: %r", sender, error)
            return
        if event.task is not None:
            held = self._held.setdefault(sender, {}).setdefault(run, set())
            (held.discard if event.type == "ended" else held.add)(event.task)

    def _apply(self, event: Event) -> None:
        state = self._runs.get(event.run)
        if state is None:
            state = self._runs[event.run] = RunState(event.run)
            while len(self._runs) > MAX_RUNS:
                self._runs.pop(next(iter(self._runs)))
        state.apply(event)
