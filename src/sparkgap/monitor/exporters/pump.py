"""From the store to the exporters: one thread each, so that a slow or failing one disturbs neither the others nor the work."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.registry import make
from sparkgap.monitor.exporters.snapshot import OVER, Snapshot
from sparkgap.monitor.exporters.tracker import Tracker
from sparkgap.monitor.store import Store

_log = logging.getLogger("sparkgap.monitor")

CLOSE_SECONDS = 15.0
"""How long `Pump.close` waits for the last exports of all exporters together."""

SHARE = 0.05
"""An exporter spends at most this part of the time on looking at the store: with thousands of tasks it looks less often."""

PAST_SECONDS = 60.0
"""Runs that had been over for so long when an exporter began are not exported; clocks of machines differ by less."""


class _Lane:
    """One exporter with its thread, and what it has been told of each run."""

    def __init__(self, store: Store, exporter: Exporter, every: float) -> None:
        self.exporter = exporter
        self.errors = 0
        self._store = store
        self._every = every
        self._since = time.time() - PAST_SECONDS
        self._trackers: dict[str, Tracker] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"sparkgap-export-{exporter.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.warning("Exporter %s did not end in time; its last values may be missing.", self.exporter.name)

    def _work(self) -> None:
        pause = self._every
        while not self._stop.wait(pause):
            pause = max(self._every, self._look(last=False) / SHARE)
        self._look(last=True)
        try:
            self.exporter.close()
        except Exception as error:
            self._count(error)

    def _look(self, *, last: bool) -> float:
        """Export what has changed; returns the seconds that it took to find out."""
        spent, runs = 0.0, self._store.runs()
        for run in self._trackers.keys() - set(runs):
            del self._trackers[run]
        for run in runs:
            begin = time.perf_counter()
            snapshot = self._snapshot(run, last)
            spent += time.perf_counter() - begin
            if snapshot is not None:
                try:
                    self.exporter.export(snapshot)
                except Exception as error:  # whatever it is, it is the exporter's and not the work's
                    self._count(error)
        return spent

    def _snapshot(self, run: str, last: bool) -> Snapshot | None:
        with self._store.reading(run) as state:
            if state is None or (run not in self._trackers and state.heard < self._since and state.status() in OVER):
                return None  # from the history, or over before exporting began
            return self._trackers.setdefault(run, Tracker()).look(state, last=last)

    def _count(self, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.warning(
                "Exporter %s failed, and goes on trying; further failures are only counted: %r", self.exporter.name, error
            )


class Pump:
    """Gives the runs of a store to exporters until it is closed. A context manager.

    Args:
        store: the runs.
        exporters: to whom; they are closed with the pump.
        every: seconds between two looks at the store; more where a look at thousands of tasks takes long.

    Raises:
        ConfigurationError: `every` is not above 0.
    """

    def __init__(self, store: Store, exporters: Sequence[Exporter], *, every: float = 1.0) -> None:
        if not every > 0:
            raise ConfigurationError(f"every={every!r} must be seconds above 0, e.g. 1.0.")
        self._closed = threading.Lock()
        self.exporters = tuple(exporters)
        self._lanes = [_Lane(store, exporter, every) for exporter in exporters]
        atexit.register(self.close)  # what a script does not close must not lose its last values

    @property
    def errors(self) -> dict[str, int]:
        """How often each exporter has failed, by name."""
        found: dict[str, int] = {}
        for lane in self._lanes:
            found[lane.exporter.name] = found.get(lane.exporter.name, 0) + lane.errors
        return found

    def close(self) -> None:
        """Export each run a last time, then close the exporters. A second call does nothing."""
        if not self._closed.acquire(blocking=False):
            return
        atexit.unregister(self.close)
        deadline = time.monotonic() + CLOSE_SECONDS
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Pump:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def export(*specs: str | Exporter, every: float = 1.0) -> Pump:
    """Give all runs of this process to other systems, from now until the result is closed or the process ends.

    Args:
        *specs: where to: ``"prometheus:9108"``, ``"graphite:host:2003?prefix=sparkgap"``, ``"otlp:http://host:4318"``,
            ``"tensorboard:folder"``, ``"mlflow:uri"``, ``"jsonl:file"``, or exporters of your own.
        every: seconds between two exports.

    Returns:
        A handle with `close()`, which is also a context manager.

    Raises:
        ConfigurationError: a spec is wrong, or its port is taken.
        MissingDependencyError: a package is absent.

    Example:
        >>> with gap.export("jsonl:runs.jsonl"):  # doctest: +SKIP
        ...     gap.transform(df, model).write.parquet("out")
    """
    from sparkgap.monitor.driver import monitor  # which needs Spark: a pump over another store does not

    if not specs:
        raise ConfigurationError('export() got nowhere to export to. Write e.g. export("prometheus:9108").')
    made: list[Exporter] = []
    try:
        made += (make(spec) if isinstance(spec, str) else spec for spec in specs)
        return Pump(monitor().store, made, every=every)
    except BaseException:
        for exporter in made:
            exporter.close()
        raise
