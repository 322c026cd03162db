"""From the state of a run to snapshots of it: what is new since the last one, and totals that do not fall. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import fsum
from typing import Any, TypeVar

from sparkgap.monitor.events import Artifact, Failure, Task
from sparkgap.monitor.exporters.snapshot import OVER, Point, Snapshot
from sparkgap.monitor.state import Attempt, RunState, Series
from sparkgap.monitor.stats import SUMS, add_up
from sparkgap.monitor.verdict import of_run

MAX_NAMES = 50
"""Names of metrics in `Snapshot.latest`, first come, first served: what a loop over names makes must not grow for ever."""

_T = TypeVar("_T")


@dataclass
class _Stage:
    """What one action adds to the totals; kept when the state forgets the stage."""

    key: Any = None
    totals: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    latency: Sequence[int] = ()
    attempts: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    tasks: int = 0


class Tracker:
    """Makes the snapshots of one run for one exporter."""

    def __init__(self) -> None:
        self._stages: dict[int, _Stage] = {}
        self._held: dict[tuple[str, Any], float] = {}
        self._points: dict[tuple[str, Task | None], int] = {}
        self._names: dict[str, None] = {}
        self._artifacts = self._failures = self._missed = 0
        self._version: int | None = None
        self._finished = False

    def look(self, state: RunState, *, last: bool = False) -> Snapshot | None:
        """Return the run as it is, or None where there is nothing new to tell.

        A run is final when it is over and has said nothing since the last look: between two actions, or between two
        tasks where Spark does not tell their number, it only seems to be over.

        Args:
            state: the run, which nobody changes during the call.
            last: whether there will be no further look: then it is final whatever its status.
        """
        if not (state.attempts or state.series or state.artifacts or state.failures):
            return None  # planned, and maybe never run
        changed = state.version != self._version
        status = state.status()
        final = last or (status in OVER and not changed)
        if not changed and (not final or self._finished):
            return None
        self._version, self._finished = state.version, final
        return self._snapshot(state, status, final)

    def _snapshot(self, state: RunState, status: str, final: bool) -> Snapshot:
        working = self._look_at_stages(state)
        found = of_run(state)
        return Snapshot(
            run=state.run, name=state.name, kind=state.kind, details=dict(state.details), started=state.started,
            time=state.heard, status=status, final=final,
            totals=self._hold("total", _sum(s.totals for s in self._stages.values()), final),
            phases=self._hold("phase", _sum(s.phases for s in self._stages.values()), final),
            latency=self._latency(final),
            attempts={k: int(v) for k, v in _sum(s.attempts for s in self._stages.values()).items()},
            tasks=sum(s.tasks for s in self._stages.values()),
            dropped={k: int(v) for k, v in _sum(s.dropped for s in self._stages.values()).items()},
            memory=sum({(a.host, a.pid): a.rss for a in working}.values()), gpus=_gpus(working),
            limit=found.limit, limit_share=found.share, verdict=str(found), latest=self._latest(state),
            points=self._new_points(state), artifacts=self._new_artifacts(state), failures=self._new_failures(state),
            missed=self._missed,
        )  # fmt: skip

    def _look_at_stages(self, state: RunState) -> list[Attempt]:
        """Bring up to date what has changed since the last look; returns the attempts that run."""
        by_stage: dict[int, list[Attempt]] = {}
        for attempt in state.attempts.values():
            by_stage.setdefault(attempt.task.stage, []).append(attempt)
        for number, attempts in by_stage.items():
            statuses = Counter(a.status for a in attempts)
            key = max(a.heard for a in attempts), sorted(statuses.items()), state.task_count(number)
            # Stages that are over do not change: a run of many actions costs no more than its latest one.
            if self._stages.setdefault(number, _Stage()).key != key or statuses["running"]:
                self._stages[number] = _stage(key, attempts, state.counted(number), state.task_count(number))
        return [a for attempts in by_stage.values() for a in attempts if a.status == "running"]

    def _hold(self, kind: str, values: Mapping[str, float], final: bool) -> dict[str, float]:
        if final:
            self._held = {k: v for k, v in self._held.items() if k[0] != kind}
        for name, value in values.items():
            self._held[kind, name] = max(value, self._held.get((kind, name), value))
        return {name: v for (k, name), v in self._held.items() if k == kind}

    def _latency(self, final: bool) -> tuple[float, ...]:
        counts = [sum(column) for column in zip(*(s.latency for s in self._stages.values()), strict=True)]
        held = self._hold("latency", {str(n): c for n, c in enumerate(counts)}, final)
        return tuple(held[str(n)] for n in range(len(counts))) or Snapshot.latency

    def _latest(self, state: RunState) -> dict[str, float]:
        counted = (
            {a.task for stage in {t.stage for t in state.attempts} for a in state.counted(stage)} if state.series else set()
        )
        values: dict[str, list[float]] = {}
        for series in state.series.values():
            if series.points and (series.task is None or series.task in counted):
                values.setdefault(series.name, []).append(series.points[-1][2])
        for name in values:
            if len(self._names) < MAX_NAMES:
                self._names.setdefault(name)
        return {name: fsum(values[name]) / len(values[name]) for name in self._names if name in values}

    def _new_points(self, state: RunState) -> tuple[Point, ...]:
        found: list[Point] = []
        for key, series in state.series.items():
            seen = self._points.get(key, 0)
            self._points[key] = series.count
            found += _points(series, self._tail(series.points, series.count - seen))
        return tuple(sorted(found, key=lambda p: p.time))

    def _new_artifacts(self, state: RunState) -> tuple[Artifact, ...]:
        new, self._artifacts = state.artifact_count - self._artifacts, state.artifact_count
        return tuple(self._tail(state.artifacts, new))

    def _new_failures(self, state: RunState) -> tuple[Failure, ...]:
        """The first failures are kept, not the latest."""
        found = state.failures[self._failures :]
        self._missed += state.failure_count - self._failures - len(found)
        self._failures = state.failure_count
        return tuple(found)

    def _tail(self, kept: deque[_T], new: int) -> list[_T]:
        """Return the latest `new` of what is kept; those that are gone already are counted as missed."""
        there = min(new, len(kept))
        self._missed += new - there
        return list(islice(kept, len(kept) - there, None))


def _stage(key: Any, attempts: Sequence[Attempt], counted: Sequence[Attempt], tasks: int | None) -> _Stage:
    total = add_up([a.stats for a in counted])
    totals: dict[str, float] = {name: getattr(total, name) for name in SUMS}
    totals["cpu_seconds"] = fsum(a.cpu_seconds for a in counted)
    totals["task_seconds"] = fsum(a.seconds for a in counted)
    dropped: Counter[str] = Counter()
    for attempt in attempts:  # what is not known is not known, whether the attempt counts or not
        dropped.update(attempt.dropped)
    return _Stage(key, totals, total.seconds, total.latency, Counter(a.status for a in attempts), dropped, tasks or 0)


def _sum(parts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def _points(series: Series, new: Sequence[tuple[float, float | None, float]]) -> list[Point]:
    first = series.count - len(new)
    return [Point(series.name, series.task, t, step, number, value) for number, (t, step, value) in enumerate(new, first)]


def _gpus(working: Sequence[Attempt]) -> dict[tuple[str, int], tuple[float | None, int | None]]:
    """Devices of the machines that work; tasks of one machine see the same ones."""
    return {
        (a.host, device["index"]): (device["busy"] / 100 if "busy" in device else None, device.get("memory"))
        for a in working
        for device in a.gpu.get("devices", ())
    }
