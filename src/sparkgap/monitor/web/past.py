"""Runs of the store and of its history, as the page asks for them: read when needed, and kept while they do not change."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from sparkgap.monitor.state import RunState
from sparkgap.monitor.store import Store
from sparkgap.monitor.web.view import run_line

MAX_LISTED = 100
MAX_KEPT = 4
READING_SECONDS = 0.5
"""So long may a list wait for summaries of past runs; those that are still missing come with the next list."""
FRESH_SECONDS = 2.0
"""For so long a list of past runs is given again."""

_T = TypeVar("_T")


class Runs:
    """Live and past runs. Thread-safe.

    Args:
        store: the runs in memory, and the history.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lines: dict[str, tuple[int, dict[str, Any]]] = {}
        self._live: dict[str, tuple[int, dict[str, Any]]] = {}
        self._states: OrderedDict[str, tuple[int, RunState]] = OrderedDict()
        self._listed: list[dict[str, Any]] = []
        self._fresh_until = 0.0
        self._lock = threading.Lock()

    def lines(self) -> list[dict[str, Any]]:
        """Return the newest runs, newest first; a past one that is not read yet has ``"status": "unread"``."""
        live = self._live_lines()
        known = {line["run"] for line in live}
        lines = live + [line for line in self._past_lines() if line["run"] not in known]
        return sorted(lines, key=lambda line: line["started"], reverse=True)[:MAX_LISTED]

    def read(self, run: str, use: Callable[[RunState], _T]) -> _T | None:
        """Return what `use` makes of a run's state, while nothing changes it; None where there is no such run."""
        with self._store.reading(run) as state:
            if state is not None:
                return use(state)
        with self._lock:
            found = self._past(run)
            return None if found is None else use(found)

    def can_stop(self, run: str) -> bool:
        """Whether the page can offer to end a run."""
        return self._store.can_stop(run)

    def stop(self, run: str) -> bool:
        """End a run; False where that cannot be."""
        return self._store.stop(run)

    def version(self, run: str) -> int:
        """Return a number that changes when the run does; -1 where there is no such run."""
        with self._store.reading(run) as state:
            if state is not None:
                return state.version
        return self._size(run)

    def _live_lines(self) -> list[dict[str, Any]]:
        found = {}
        for run in self._store.runs()[-MAX_LISTED:]:
            with self._store.reading(run) as state:
                if state is None:
                    continue
                old = self._live.get(run)
                found[run] = old if old is not None and old[0] == state.version else (state.version, run_line(state))
        self._live = found
        return [line for _, line in found.values()]

    def _past_lines(self) -> list[dict[str, Any]]:
        """Return the lines of the history; its folder is not looked at four times a second."""
        history, now = self._store.history, time.monotonic()
        if history is None:
            return []
        with self._lock:
            if now < self._fresh_until:
                return self._listed
        found = [self._past_line(run, now + READING_SECONDS) for run in reversed(history.runs()[-2 * MAX_LISTED :])]
        with self._lock:
            unread = any(line["status"] == "unread" for line in found)
            self._listed, self._fresh_until = found, 0.0 if unread else time.monotonic() + FRESH_SECONDS
        return found

    def _past_line(self, run: str, until: float) -> dict[str, Any]:
        size = self._size(run)
        with self._lock:
            old = self._lines.get(run)
            if old is not None and old[0] == size:
                return old[1]
            if time.monotonic() > until or (state := self._past(run)) is None:
                return old[1] if old is not None else {"run": run, "name": run, "status": "unread", "started": _age(run)}
            self._lines[run] = size, run_line(state)
            return self._lines[run][1]

    def _past(self, run: str) -> RunState | None:
        history = self._store.history
        if history is None:
            return None
        size = self._size(run)  # -1 for a name from outside that would be another path, and `read` takes only runs
        kept = self._states.get(run)
        if kept is None or kept[0] != size:
            state = history.read(run)
            if state is None:
                return None
            self._states[run] = kept = size, state
            while len(self._states) > MAX_KEPT:
                self._states.popitem(last=False)
        self._states.move_to_end(run)
        return kept[1]

    def _size(self, run: str) -> int:
        history = self._store.history
        if history is None or "/" in run or "\\" in run or run.startswith("."):
            return -1
        try:
            return sum(f.stat().st_size for f in (history.folder / run).glob("*.jsonl")) or -1
        except FileNotFoundError:  # it has just made room for a new run
            return -1


def _age(run: str) -> float:
    """Return when a run began, by its id; 0 where that does not tell."""
    try:
        return time.mktime(time.strptime(run[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return 0.0
