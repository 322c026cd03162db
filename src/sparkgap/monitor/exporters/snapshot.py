"""What an exporter gets: a frozen value with all that is known of a run at one moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sparkgap.monitor.events import Artifact, Failure, Task
from sparkgap.monitor.stats import LATENCY_BOUNDS

OVER = ("done", "failed", "stopped")
STATUSES = ("planned", "running", *OVER)


class Point(NamedTuple):
    """One value given to `gap.report`.

    Attributes:
        name: of the metric.
        task: whose; None for the driver.
        time: seconds since 1970.
        step: as given; None where none was given.
        number: which one of its series it is, from 0; a step for those who need one.
        value: may be NaN.
    """

    name: str
    task: Task | None
    time: float
    step: float | None
    number: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment.

    Totals are of the attempts that count (`RunState.counted`), added up over the actions (stages) of the run. While the
    run goes on they never fall: a failed attempt's rows stay until its task has done them again. When it is final they are
    exact. `points`, `artifacts` and `failures` are those that are new since the snapshot before: each comes exactly once.

    Attributes:
        run: id of the run.
        name: for people.
        kind: which pattern.
        details: facts of the plan.
        started: seconds since 1970.
        time: time stamp of the latest event.
        status: one of `STATUSES`.
        final: whether nothing more is expected. Another action may still follow; then snapshots go on.
        totals: counters by their key in `metrics.METRICS`.
        phases: seconds by phase.
        latency: batches by their time in the model, a number for each of `LATENCY_BOUNDS` and one for the rest.
        attempts: attempts by status, of all tasks: ``"running"``, ``"ok"``, ``"failed"``, ``"lost"``.
        tasks: how many tasks its stages have, as far as Spark has told.
        dropped: events by type that tasks had to drop.
        memory: resident bytes of the processes that work now.
        gpus: (host, index) -> (busy from 0 to 1, or None; bytes used, or None) where tasks run now.
        limit: what limits the latest action; "" where it cannot be told.
        limit_share: the part of the time that it takes, 0 to 1.
        verdict: the same as a line for people.
        latest: the last value of each metric, the mean over the tasks that count.
        points: new values of `gap.report`.
        artifacts: newly shown things.
        failures: new failures.
        missed: points, artifacts and failures that were gone before they could be exported, over the whole run.
    """

    run: str
    name: str = ""
    kind: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    time: float = 0.0
    status: str = "running"
    final: bool = False
    totals: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    latency: tuple[float, ...] = (0,) * (len(LATENCY_BOUNDS) + 1)
    attempts: Mapping[str, int] = field(default_factory=dict)
    tasks: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    memory: int = 0
    gpus: Mapping[tuple[str, int], tuple[float | None, int | None]] = field(default_factory=dict)
    limit: str = ""
    limit_share: float = 0.0
    verdict: str = ""
    latest: Mapping[str, float] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    missed: int = 0
