"""The contract of `sparkgap.monitor.exporters.base.Exporter`, as tests."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sparkgap.monitor.events import (
    Artifact,
    Event,
    Failure,
    Metrics,
    Progress,
    RunStarted,
    StageTasks,
    Task,
    TaskEnded,
    TaskStarted,
)
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.pump import Pump
from sparkgap.monitor.exporters.snapshot import Snapshot
from sparkgap.monitor.exporters.tracker import Tracker
from sparkgap.monitor.state import RunState
from sparkgap.monitor.stats import LATENCY_BOUNDS
from sparkgap.monitor.store import Store

RUN = "20961002-070640-0a1b2c3d"
START = 4_000_000_000.0
"""Far from now: a pump passes over what is long over."""
ROWS = 300
"""Rows in, and out, of the example run: 100 of the first task, 200 of the second, whose first attempt failed after 150."""

_WELL, _BAD, _AGAIN = Task(1, 0, 10), Task(1, 1, 11), Task(1, 1, 12)


def example(name: str = "net") -> Iterator[list[Event]]:
    """Give the events of a small run in four portions: it begins, an attempt fails, it is tried again, it is over."""
    yield [
        RunStarted(run=RUN, time=START, kind="transform", name=name, details={"boundary": "rows", "slots": "2"}),
        StageTasks(run=RUN, time=START, stage=1, count=2),
        *_attempt(_WELL, 60, 1.0), *_attempt(_BAD, 150, 1.0), _points(_WELL, 1.5, [3.0, 2.0]),
    ]  # fmt: skip
    yield [
        TaskEnded(run=RUN, time=START + 2, task=_WELL, ok=True, stats=_stats(100), cpu_seconds=1.0, rss=5 << 20),
        _points(_WELL, 1.9, [1.5]),
        Failure(run=RUN, time=START + 2, task=_BAD, error="ValueError", message="no row", traceback="Traceback …"),
        TaskEnded(run=RUN, time=START + 2, task=_BAD, ok=False, stats=_stats(150), dropped={"metrics": 3}),
        Artifact(run=RUN, time=START + 2, task=_WELL, name="notes", kind="text", media="text/plain", data=b"well", step=1),
    ]
    yield [*_attempt(_AGAIN, 120, 3.0), _points(_AGAIN, 3.5, [1.25])]
    yield [
        TaskEnded(run=RUN, time=START + 4, task=_AGAIN, ok=True, stats=_stats(200), cpu_seconds=2.0, rss=5 << 20),
        StageTasks(run=RUN, time=START + 4, stage=1, count=2, done=True),
    ]


POINTS = [("loss", 0, 3.0), ("loss", 0, 2.0), ("loss", 0, 1.5), ("loss", 1, 1.25)]
"""Points of the example run: name, partition, value."""


def snapshots(portions: Iterable[list[Event]], tracker: Tracker | None = None) -> list[Snapshot]:
    """Return a snapshot after each portion of events, and the final one."""
    tracker, state = tracker or Tracker(), RunState(RUN)
    found = []
    for portion in portions:
        for event in portion:
            state.apply(event)
        found.append(tracker.look(state))
    found.append(tracker.look(state, last=True))
    return [s for s in found if s is not None]


def _attempt(task: Task, rows: int, after: float) -> list[Event]:
    time = START + after
    return [
        TaskStarted(run=RUN, time=time, task=task, host="a.example", pid=100 + task.partition, cpus=1),
        Progress(run=RUN, time=time + 0.5, task=task, stats=_stats(rows), cpu_seconds=0.5, rss=4 << 20),
    ]


def _stats(rows: int) -> dict[str, object]:
    latency = [0] * (len(LATENCY_BOUNDS) + 1)
    latency[3] = rows // 10
    seconds = {"read": 0.2, "model": rows / 100}
    return {
        "rows_in": rows,
        "rows_out": rows,
        "bytes_in": 8 * rows,
        "batches": rows // 10,
        "seconds": seconds,
        "latency": latency,
    }


def _points(task: Task, after: float, values: list[float]) -> Metrics:
    return Metrics(
        run=RUN, time=START + after, task=task, names=("loss",),
        points=tuple((START + after + n / 100, None, v) for n, v in enumerate(values)),
    )  # fmt: skip


class ExporterConformance(ABC):
    """Tests that every exporter passes. Subclass it in a pytest module.

    Example:
        >>> class TestMyExporter(ExporterConformance):  # doctest: +SKIP
        ...     def exporter(self, folder):
        ...         return MyExporter(folder / "out")
        ...     def totals(self, folder):
        ...         return my_reader(folder / "out")  # {"rows_in": 300, "rows_out": 300}
    """

    @abstractmethod
    def exporter(self, folder: Path) -> Exporter:
        """Return an exporter to a target that is there. `folder` is empty and the test's own."""

    @abstractmethod
    def totals(self, folder: Path) -> Mapping[str, float]:
        """Return ``rows_in`` and ``rows_out`` as the target has them now, before `close`; empty where it has no run."""

    def points(self, folder: Path) -> list[tuple[str, int, float]] | None:
        """Return all points at the target as (name, partition, value); None where it is not given single points."""
        return None

    def broken(self, folder: Path) -> Exporter | None:
        """Return an exporter whose target is gone, or None where there is no such thing."""
        return None

    @pytest.fixture
    def made(self, tmp_path: Path) -> Iterator[Exporter]:
        """The exporter, closed at the end."""
        made = self.exporter(tmp_path)
        yield made
        made.close()

    def test_describes_itself(self, made: Exporter) -> None:
        """The name can stand before a colon."""
        assert made.name.isidentifier()

    def test_totals_at_the_end_are_those_of_the_attempts_that_count(self, made: Exporter, tmp_path: Path) -> None:
        """The rows of a failed attempt are in no total."""
        for snapshot in snapshots(example()):
            made.export(snapshot)
        assert dict(self.totals(tmp_path)) == {"rows_in": ROWS, "rows_out": ROWS}

    def test_another_action_may_follow_the_end(self, made: Exporter, tmp_path: Path) -> None:
        """Totals add up over the actions of a run, and what came before stays."""
        story = snapshots(example())
        later = {"final": False, "time": START + 9, "points": (), "artifacts": (), "failures": (), "status": "running"}
        more = replace(story[-1], totals={**story[-1].totals, "rows_in": 400, "rows_out": 350}, **later)  # type: ignore[arg-type]
        for snapshot in (*story, more, replace(more, final=True, status="done", time=START + 10)):
            made.export(snapshot)
        assert dict(self.totals(tmp_path)) == {"rows_in": 400, "rows_out": 350}
        found = self.points(tmp_path)
        assert found is None or sorted(found) == sorted(POINTS)

    def test_each_point_comes_exactly_once(self, made: Exporter, tmp_path: Path) -> None:
        """Nothing is written again with the next export."""
        for snapshot in snapshots(example()):
            made.export(snapshot)
        found = self.points(tmp_path)
        if found is None:
            pytest.skip("single points are not given to this target")
        assert sorted(found) == sorted(POINTS)

    @pytest.mark.parametrize("name", ["", "../../etc/x", 'a "b"\n{c="d"} 1 2', "ünï 模型.pt", "n" * 1000], ids=range(5))
    def test_takes_any_name_and_any_number(self, made: Exporter, tmp_path: Path, name: str) -> None:
        """Names come from users: they break no format and leave no folder. Numbers may be NaN."""
        odd = Metrics(run=RUN, time=START + 5, names=(name or "x", "odd"), points=((START + 5, 1.5, math.nan, math.inf),))
        for snapshot in snapshots([*example(name), [odd]]):
            made.export(snapshot)
        assert dict(self.totals(tmp_path)) == {"rows_in": ROWS, "rows_out": ROWS}

    def test_closes_twice_and_unused(self, made: Exporter) -> None:
        """`close` may come at any time, and again."""
        made.close()
        made.close()

    def test_a_pump_gives_the_last_values_when_it_closes(self, tmp_path: Path) -> None:
        """What came since the last look is not lost."""
        kept = _Kept(self.exporter(tmp_path))
        store = Store()
        with Pump(store, [kept], every=3600) as pump:
            for portion in example():
                for event in portion:
                    store.say(event)
        assert pump.errors == {kept.name: 0}
        assert [s.final for s in kept.got] == [True]
        assert kept.got[0].totals["rows_out"] == ROWS

    def test_a_target_that_is_gone_disturbs_nobody(self, tmp_path: Path) -> None:
        """Failures are counted, and other exporters get all."""
        broken = self.broken(tmp_path)
        if broken is None:
            pytest.skip("this target cannot be gone")
        kept, store = _Kept(None), Store()
        with Pump(store, [broken, kept], every=3600) as pump:
            for portion in example():
                for event in portion:
                    store.say(event)
        assert pump.errors[broken.name] == 1
        assert [s.totals["rows_out"] for s in kept.got] == [ROWS]


class _Kept(Exporter):
    """Keeps what it gets, and gives it on."""

    name = "kept"

    def __init__(self, other: Exporter | None) -> None:
        self.got: list[Snapshot] = []
        self._other = other

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> _Kept:
        return cls(None)

    def export(self, snapshot: Snapshot) -> None:
        self.got.append(snapshot)
        if self._other is not None:
            self._other.export(snapshot)

    def close(self) -> None:
        if self._other is not None:
            self._other.close()
