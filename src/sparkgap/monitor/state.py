"""What is known of a run: events are folded in, in any order of their senders; totals count every task once. Pure.

Of the attempts of a task only one counts: the one that ended well (the latest of them, as Spark keeps that one), else
the one that is furthest among those still running. What failed or was lost adds to no total.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sparkgap.monitor import events
from sparkgap.monitor.events import Artifact, Event, Failure, Log, Task
from sparkgap.monitor.ranks import Ranks
from sparkgap.monitor.stats import TaskStats, add_up
from sparkgap.monitor.trials import Trials

MAX_POINTS = 2000
MAX_SERIES = 200
MAX_LOGS = 1000
MAX_FAILURES = 100
MAX_ARTIFACTS = 200
MAX_ARTIFACT_BYTES = 32 << 20
MAX_STAGES = 50

Status = Literal["running", "ok", "failed", "lost"]
_ENDS: dict[bool | None, Status] = {True: "ok", False: "failed", None: "lost"}


@dataclass
class Attempt:
    """One attempt of a task.

    Attributes:
        task: which.
        status: ``"lost"``: its process is gone, and never said how it ended.
        host: name of the machine; "" before it is known.
        pid: process id there.
        cpus: cores of the task.
        started: seconds since 1970, by the task's clock; None before it is known.
        ended: likewise; None while it runs.
        heard: the latest time stamp of its events.
        phase: what it does, in words.
        stats: counts and times so far.
        cpu_seconds: processor time so far.
        rss: bytes of memory: the current ones, at the end the most.
        runnable: threads that want a core, on average.
        gpu: what NVML tells, or why nothing.
        said: events by type that it had to say; known at its end.
        dropped: those of them that it had to drop.
        earlier: attempts of the same task that Spark began before it.
    """

    task: Task
    status: Status = "running"
    host: str = ""
    pid: int = 0
    cpus: int = 1
    started: float | None = None
    ended: float | None = None
    heard: float = 0.0
    phase: str = ""
    stats: TaskStats = field(default_factory=TaskStats)
    cpu_seconds: float = 0.0
    rss: int = 0
    runnable: float = 0.0
    gpu: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    earlier: int = 0

    @property
    def seconds(self) -> float:
        """How long it has run, as far as it has told."""
        return max(0.0, (self.ended or self.heard) - self.started) if self.started is not None else 0.0


@dataclass
class Series:
    """The values of one metric of one attempt, or of the driver.

    Attributes:
        name: of the metric.
        task: whose.
        points: the latest of them: (time, step or None, value).
        count: how many there were.
    """

    name: str
    task: Task | None
    points: deque[tuple[float, float | None, float]] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    count: int = 0


@dataclass
class Stage:
    """A stage of Spark, as far as Spark tells: the number of its tasks, and whether it is over."""

    count: int
    done: bool = False


class RunState:
    """Everything known of one run. Not thread-safe: its owner locks.

    Args:
        run: its id.

    Attributes:
        kind: ``"transform"`` …; "" before it is known.
        name: for people.
        details: facts of the plan.
        started: seconds since 1970.
        stages: stage id -> what Spark tells of it.
        attempts: all attempts of the stages that are kept.
        series: metrics by name and task.
        logs: latest lines.
        failures: first failures; `failure_count` counts all.
        artifacts: latest shown things.
        trials: of a search.
        ranks: of a gang.
        forgotten: what was left out as it was too much to keep, by kind.
        version: grows with each event.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.kind = ""
        self.name = ""
        self.details: Mapping[str, str] = {}
        self.started = 0.0
        self.heard = 0.0
        self.stages: dict[int, Stage] = {}
        self.attempts: dict[Task, Attempt] = {}
        self.series: dict[tuple[str, Task | None], Series] = {}
        self.logs: deque[Log] = deque(maxlen=MAX_LOGS)
        self.log_count = 0
        self.failures: list[Failure] = []
        self.failure_count = 0
        self.artifacts: deque[Artifact] = deque(maxlen=MAX_ARTIFACTS)
        self.artifact_count = 0
        self.trials = Trials()
        self.ranks = Ranks()
        self.forgotten: Counter[str] = Counter()
        self.version = 0
        self._counted: dict[int | None, tuple[int, list[Attempt]]] = {}

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        self.version += 1
        self.heard = max(self.heard, event.time)
        if not self.started or event.time < self.started:
            self.started = event.time
        attempt = self._attempt(event)
        match event:
            case events.RunStarted():
                self.kind, self.name, self.details, self.started = event.kind, event.name, event.details, event.time
                self.trials.aim(event.details.get("direction", ""))
            case events.StageTasks():
                self.stages[event.stage] = Stage(event.count, event.done)
            case events.Metrics():
                self._metrics(event)
            case Log():
                self.log_count += 1
                self.logs.append(event)
            case Artifact():
                self._artifact(event)
            case events.Trial() | events.RankProgress():
                self._member(event)
            case Failure():
                self._failure(event)
        if attempt is not None:
            _advance(attempt, event)

    def lose(self, task: Task, time: float) -> None:
        """Note that the process of an attempt is gone; no effect on one that has ended."""
        attempt = self.attempts.get(task)
        if attempt is not None and attempt.status == "running":
            self.version += 1
            attempt.status, attempt.ended = "lost", max(time, attempt.heard)

    @property
    def latest_stage(self) -> int | None:
        """The stage of the latest action that has said something."""
        return max((t.stage for t in self.attempts), default=None)

    def counted(self, stage: int | None = None) -> list[Attempt]:
        """Return the one attempt of each task that counts, by partition; of the latest stage by default."""
        stage = self.latest_stage if stage is None else stage
        known = self._counted.get(stage)
        if known is None or known[0] != self.version:
            known = self._counted[stage] = self.version, self._choose(stage)
        return known[1]

    def _choose(self, stage: int | None) -> list[Attempt]:
        best: dict[int, Attempt] = {}
        for attempt in self.attempts.values():
            task = attempt.task
            if task.stage != stage or attempt.status in ("failed", "lost"):
                continue
            other = best.get(task.partition)
            if other is None or _rank(attempt) > _rank(other):
                best[task.partition] = attempt
        return [best[p] for p in sorted(best)]

    def totals(self, stage: int | None = None) -> TaskStats:
        """Add up the attempts that count."""
        return add_up([a.stats for a in self.counted(stage)])

    def status(self, stage: int | None = None) -> str:
        """Return ``"planned"``, ``"running"``, ``"done"``, ``"failed"`` or ``"stopped"`` (over, but not all tasks)."""
        stage = self.latest_stage if stage is None else stage
        if stage is None:
            return "planned"
        known = self.stages.get(stage)
        attempts = [a for a in self.attempts.values() if a.task.stage == stage]
        counted = self.counted(stage)
        if known is not None and sum(a.status == "ok" for a in counted) >= known.count:
            return "done"
        if any(a.status == "running" for a in attempts):
            return "running"
        if known is not None:
            if not known.done:
                return "running"
            return "failed" if any(a.status == "failed" for a in attempts) else "stopped"
        return "done" if counted and {a.task.partition for a in counted} == {a.task.partition for a in attempts} else "failed"

    def task_count(self, stage: int | None = None) -> int | None:
        """Return how many tasks a stage has; None where Spark has not told."""
        stage = self.latest_stage if stage is None else stage
        known = self.stages.get(stage) if stage is not None else None
        return None if known is None else known.count

    def retries(self, stage: int | None = None) -> int:
        """Count the attempts of a stage that failed or were lost; of the latest one by default.

        One that died before its first word was heard is known by what Spark tells the next one.
        """
        stage = self.latest_stage if stage is None else stage
        attempts = [a for a in self.attempts.values() if a.task.stage == stage]
        heard = Counter(a.task.partition for a in attempts)
        began: dict[int, int] = {}
        for attempt in attempts:
            began[attempt.task.partition] = max(began.get(attempt.task.partition, 0), attempt.earlier + 1)
        unheard = sum(max(0, count - heard[partition]) for partition, count in began.items())
        return unheard + sum(a.status in ("failed", "lost") for a in attempts)

    def dropped(self) -> Counter[str]:
        """Count events that their tasks had to drop, by type, over all attempts."""
        total: Counter[str] = Counter()
        for attempt in self.attempts.values():
            total.update(attempt.dropped)
        return total

    def _attempt(self, event: Event) -> Attempt | None:
        if event.task is None:
            return None
        if event.task not in self.attempts:
            self.attempts[event.task] = Attempt(event.task)
            self._forget_stages()
        return self.attempts[event.task]

    def _forget_stages(self) -> None:
        stages = sorted({t.stage for t in self.attempts})
        for old in stages[:-MAX_STAGES]:
            for task in [t for t in self.attempts if t.stage == old]:
                del self.attempts[task]
                self.forgotten["attempts"] += 1
            self.stages.pop(old, None)
            self._counted.pop(old, None)

    def _metrics(self, event: events.Metrics) -> None:
        for column, name in enumerate(event.names, 2):
            key = (name, event.task)
            if key not in self.series:
                if len(self.series) >= MAX_SERIES:
                    self.forgotten["series"] += 1
                    continue
                self.series[key] = Series(name, event.task)
            series = self.series[key]
            for point in event.points:
                time, step, value = point[0], point[1], point[column]
                series.points.append((time or 0.0, step, float("nan") if value is None else value))
            series.count += len(event.points)

    def _member(self, event: events.Trial | events.RankProgress) -> None:
        if isinstance(event, events.Trial):
            self.trials.note(event)
        else:
            self.ranks.note(event)

    def _failure(self, event: Failure) -> None:
        self.failure_count += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(event)

    def _artifact(self, event: Artifact) -> None:
        self.artifact_count += 1
        self.artifacts.append(event)
        size = sum(len(a.data) for a in self.artifacts)
        while size > MAX_ARTIFACT_BYTES and len(self.artifacts) > 1:
            size -= len(self.artifacts.popleft().data)


def span(attempts: Sequence[Attempt], begin: float = 0.0) -> tuple[float, float]:
    """Return when the first of some attempts began and the last was heard of; `begin` twice where there is none."""
    begin = min((a.started for a in attempts if a.started is not None), default=begin)
    return begin, max((a.ended or a.heard for a in attempts), default=begin)


def _rank(attempt: Attempt) -> tuple[bool, float, int, int]:
    ok = attempt.status == "ok"
    return ok, (attempt.ended or 0.0) if ok else 0.0, attempt.stats.rows_out, attempt.task.attempt


def _advance(attempt: Attempt, event: Event) -> None:
    """Fold an event of an attempt into it; late news of one that has ended changes nothing but its end."""
    attempt.heard = max(attempt.heard, event.time)
    over = attempt.status in ("ok", "failed")
    match event:
        case events.TaskStarted():
            attempt.host, attempt.pid, attempt.cpus, attempt.started = event.host, event.pid, event.cpus, event.time
            attempt.earlier = event.earlier
        case events.Phase() if not over:
            attempt.phase = event.name
        case events.Progress() if not over:
            if attempt.status == "lost":  # its connection was cut, and it came back
                attempt.status, attempt.ended = "running", None
            attempt.stats = TaskStats.from_dict(dict(event.stats))
            attempt.cpu_seconds, attempt.rss, attempt.gpu = event.cpu_seconds, event.rss, event.gpu
            attempt.runnable = event.runnable
        case events.TaskEnded():
            attempt.status, attempt.ended, attempt.phase = _ENDS[event.ok], event.time, ""
            attempt.stats = TaskStats.from_dict(dict(event.stats))
            attempt.cpu_seconds, attempt.rss = event.cpu_seconds, max(event.rss, attempt.rss)
            attempt.said, attempt.dropped = event.said, event.dropped


def fold(run: str, told: Iterable[Event]) -> RunState:
    """Return the state of a run after these events."""
    state = RunState(run)
    for event in told:
        state.apply(event)
    return state
