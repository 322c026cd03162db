"""Runs on disk: a folder each, with one file of frames for each sender. Append-only; old runs make room for new ones.

The same format serves executors that cannot reach the driver: they append to such a folder themselves.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparkgap.monitor import wire
from sparkgap.monitor.events import decode
from sparkgap.monitor.state import RunState

_log = logging.getLogger("sparkgap.monitor")

KEEP_RUNS = 200
KEEP_BYTES = 1 << 30
RUN_BYTES = 256 << 20
"""A run that has written so much is kept no further; it goes on in memory."""


class History:
    """A folder of runs.

    Args:
        folder: the folder; made at first use.
        keep_runs: so many runs stay.
        keep_bytes: and so many bytes in all.
    """

    def __init__(self, folder: Path, *, keep_runs: int = KEEP_RUNS, keep_bytes: int = KEEP_BYTES) -> None:
        self.folder = folder
        self._keep_runs = keep_runs
        self._keep_bytes = keep_bytes
        self._counts: dict[tuple[str, str], int] = {}
        self._bytes: dict[str, int] = {}
        self._off = False
        self._lock = threading.Lock()

    def keep(self, run: str, sender: str, told: Sequence[Mapping[str, Any]]) -> None:
        """Append events. A disk that is full or gone is said once, and costs nothing else."""
        with self._lock:
            if self._off or self._bytes.get(run, 0) > RUN_BYTES:
                return
            try:
                self._append(run, sender, told)
            except OSError as error:
                self._off = True
                _log.warning("The history of runs in %s cannot be written (%s); it ends here.", self.folder, error)

    def _append(self, run: str, sender: str, told: Sequence[Mapping[str, Any]]) -> None:
        if run not in self._bytes:
            self._bytes[run] = 0
            prune(self.folder, self._keep_runs - 1, self._keep_bytes, spare=set(self._bytes))
        first = self._counts.get((run, sender), 0)
        body = wire.frame(sender, run, first, told) + b"\n"
        try:
            _add(self.folder / run, sender, body)
        except FileNotFoundError:  # another process made room at this very moment
            _add(self.folder / run, sender, body)
        self._counts[run, sender] = first + len(told)
        self._bytes[run] += len(body)

    def runs(self) -> list[str]:
        """Return the ids of all runs, oldest first."""
        return [p.name for p in _by_age(self.folder)]

    def read(self, run: str) -> RunState | None:
        """Return the state of a run; None where there is none of this id."""
        return read_run(self.folder / run) if run in self.runs() else None


def read_run(folder: Path) -> RunState:
    """Fold all events of a run's folder, in the order of their time."""
    told = [e for path in sorted(folder.glob("*.jsonl")) for e in _events(path)]
    state = RunState(folder.name)
    for event in sorted(told, key=lambda e: e.time):
        state.apply(event)
    now = time.time()
    for task, attempt in list(state.attempts.items()):
        if now - attempt.heard > SILENT_SECONDS:
            state.lose(task, attempt.heard)
    return state


SILENT_SECONDS = 30.0
"""An attempt that has said nothing for so long is taken as gone: it says where it is twice a second."""


def _events(path: Path) -> Iterator[Any]:
    try:
        body = path.read_bytes()
    except FileNotFoundError:  # another process has just made room
        return
    for raw in raw_events(body.split(b"\n")):
        try:
            event = decode(raw)
        except (ValueError, TypeError, KeyError, IndexError):
            continue
        if event is not None:
            yield event


def raw_events(lines: Sequence[bytes]) -> Iterator[Mapping[str, Any]]:
    """Give the events of lines of frames; a line that was cut by a crash or a full disk is passed over."""
    for line in lines:
        if not line.strip():
            continue
        try:
            _, _, _, told = wire.parse_events(wire.parse(line))
        except (ValueError, json.JSONDecodeError):
            _log.debug("A line of a run's history was cut and is left out.")
            continue
        yield from told


def prune(folder: Path, keep_runs: int, keep_bytes: int, spare: Collection[str] = ()) -> list[str]:
    """Remove the oldest runs beyond the limits; those in `spare` stay. Returns the names of what went.

    Other processes may do the same in the same folder at the same time.
    """
    gone = []
    runs = _by_age(folder)
    sizes = {p: _size(p) for p in runs}
    count, total = len(runs), sum(sizes.values())
    for path in runs:
        if count <= keep_runs and total <= keep_bytes:
            break
        if path.name in spare:
            continue
        shutil.rmtree(path, ignore_errors=True)
        gone.append(path.name)
        count, total = count - 1, total - sizes[path]
    return gone


def _by_age(folder: Path) -> list[Path]:
    """Only folders that look like runs: a folder of somebody's own that was named by mistake must lose nothing."""
    if not folder.is_dir():
        return []
    ages = {}
    for path in folder.iterdir():
        try:
            if path.is_dir() and any(path.glob("*.jsonl")):
                ages[path] = path.stat().st_mtime
        except FileNotFoundError:  # another process has just made room
            continue
    return sorted(ages, key=lambda p: (ages[p], p.name))


def _size(path: Path) -> int:
    """Return the bytes of the files in a folder; of those that are still there."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(path) as entries:  # as above
        for entry in entries:
            total += entry.stat().st_size if entry.is_file() else 0
    return total


def _add(place: Path, sender: str, body: bytes) -> None:
    place.mkdir(parents=True, exist_ok=True)  # each time: another process that makes room may have taken it
    with (place / f"{_safe(sender)}.jsonl").open("ab") as file:  # opened each time: hundreds of senders must not hold as many
        file.write(body)


def _safe(sender: str) -> str:
    """Return a name for a sender's file; senders are not trusted to choose paths."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in sender)[:100].lstrip(".") or "sender"
