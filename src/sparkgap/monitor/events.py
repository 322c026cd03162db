"""What running work says about itself: frozen, versioned values that travel as JSON. No Spark, no sockets.

Counters (`Progress`, `TaskEnded`) are cumulative for the attempt that says them: one that is lost costs nothing, one
that comes twice changes nothing. Readers ignore event types and fields that they do not know.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

VERSION = 1
KINDS = ("image", "table", "tensor", "histogram", "text")


class Task(NamedTuple):
    """One attempt of one task.

    Attributes:
        stage: Spark's stage id. A second action on the same DataFrame has another one.
        partition: number of the task within its stage.
        attempt: Spark's id of the attempt, unique in the application: retried and speculative attempts differ.
    """

    stage: int
    partition: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """What all events have.

    Attributes:
        run: id of the run.
        time: when it was said: seconds since 1970, by the clock of the process that said it.
        task: who said it; None for the driver.
    """

    type: ClassVar[str] = ""
    run: str
    time: float
    task: Task | None = None


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run was planned.

    Attributes:
        kind: which pattern: ``"transform"``, ``"udf"``, ``"local"`` ….
        name: for people: the model's name.
        details: facts of the plan, for people.
    """

    type: ClassVar[str] = "run"
    kind: str
    name: str
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageTasks(Event):
    """How many tasks a stage has, as Spark tells.

    Attributes:
        stage: Spark's stage id.
        count: tasks of the stage.
        done: whether Spark has ended the stage.
    """

    type: ClassVar[str] = "stage"
    stage: int
    count: int
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskStarted(Event):
    """An attempt began.

    Attributes:
        host: name of the machine.
        pid: process id there.
        cpus: cores that Spark gives to the task.
        earlier: attempts of the same task that Spark began before this one.
    """

    type: ClassVar[str] = "task"
    host: str
    pid: int
    cpus: int = 1
    earlier: int = 0


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """A task went on to another phase, e.g. from loading the model to scoring.

    Attributes:
        name: of the phase, in words.
    """

    type: ClassVar[str] = "phase"
    name: str


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """Where an attempt is.

    Attributes:
        stats: `TaskStats` so far, as plain values.
        cpu_seconds: processor time of the process since the attempt began.
        rss: resident memory of the process in bytes; 0 where the system does not tell.
        runnable: threads of the process that wanted a core while it was in the model, on average; 0 where unknown.
        gpu: what NVML tells of the device, or why there is nothing.
    """

    type: ClassVar[str] = "progress"
    stats: Mapping[str, Any]
    cpu_seconds: float = 0.0
    rss: int = 0
    runnable: float = 0.0
    gpu: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Metrics(Event):
    """Values that `gap.report` was given: several calls with the same names.

    Attributes:
        names: names of the values.
        points: a call each: time in seconds, step or None, then the values in the order of `names`.
    """

    type: ClassVar[str] = "metrics"
    names: tuple[str, ...]
    points: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Log(Event):
    """A line of `logging` or of `print`.

    Attributes:
        level: ``"DEBUG"`` … ``"CRITICAL"``; ``"PRINT"`` for what was printed.
        logger: name of the logger, ``"stdout"`` or ``"stderr"``.
        text: the message.
    """

    type: ClassVar[str] = "log"
    level: str
    logger: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Artifact(Event):
    """Something to look at, from `gap.show`.

    Attributes:
        name: what it is called; a later one of the same name is a later state of it.
        kind: one of `KINDS`.
        media: MIME type of `data`.
        data: the bytes: an image file, or JSON, or text.
        step: where in the work it was taken.
        caption: shape and range of what was shown, for people.
    """

    type: ClassVar[str] = "artifact"
    name: str
    kind: str
    media: str
    data: bytes
    step: int | None = None
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure(Event):
    """An exception that ended an attempt.

    Attributes:
        error: name of its class.
        message: its text.
        traceback: as Python prints it.
    """

    type: ClassVar[str] = "failure"
    error: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskEnded(Event):
    """An attempt is over.

    Attributes:
        ok: whether it gave all of its rows; None where Spark took the task away in the middle.
        stats: final `TaskStats`.
        cpu_seconds: processor time of the process during the attempt.
        rss: highest resident memory seen, in bytes.
        said: events by type that the attempt had to say, sent or dropped.
        dropped: those of them that were dropped, as the queue was full.
    """

    type: ClassVar[str] = "ended"
    ok: bool | None
    stats: Mapping[str, Any]
    cpu_seconds: float = 0.0
    rss: int = 0
    said: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial(Event):
    """News of a trial of a search, from its driver. What is said of a number adds up: each event tells what is new.

    Attributes:
        number: of the trial in its study.
        state: ``"running"``, ``"complete"``, ``"pruned"`` or ``"failed"``; what has ended stays as it is.
        values: one for each objective, once it is complete; of a pruned one its last report, if any. May be infinite.
        params: values of parameters by name: None, bool, int, float or str.
        distributions: by name of a parameter: ``{"low", "high", "log"}``, or ``{"choices"}``.
        report: the latest step and value that it has reported.
        started: seconds since 1970; 0 where this event does not tell.
        seconds: how long it has taken; 0 while it runs.
        note: why it has failed.
    """

    type: ClassVar[str] = "trial"
    number: int
    state: str = "running"
    values: tuple[float, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: tuple[float, float | None] | None = None
    started: float = 0.0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RankProgress(Event):
    """Where a rank of a gang is. Counters are cumulative.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        phase: what it does now, see `sparkgap.monitor.ranks.PHASES`; ``"done"`` or ``"failed"`` at its end.
        phases: seconds by phase, since its work began.
        rows: of its parts of batches, so far.
        step: batches so far, those before a checkpoint included.
        epoch: number of the epoch at hand.
        epochs: how many there will be; 0 where nobody has said.
        host: name of the machine.
        pid: process id there.
    """

    type: ClassVar[str] = "rank"
    rank: int
    world: int
    phase: str = ""
    phases: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    step: int = 0
    epoch: int = 0
    epochs: int = 0
    host: str = ""
    pid: int = 0


_ALL = (RunStarted, StageTasks, TaskStarted, Phase, Progress, Metrics, Log, Artifact, Failure, TaskEnded, Trial, RankProgress)
TYPES: dict[str, type[Event]] = {c.type: c for c in _ALL}


def encode(event: Event) -> dict[str, Any]:
    """Return an event as plain JSON values."""
    raw = {f.name: getattr(event, f.name) for f in fields(event)}
    raw = {k: dict(v) if isinstance(v, Mapping) else v for k, v in raw.items()}
    if isinstance(event, Artifact):
        raw["data"] = base64.b64encode(event.data).decode()
    if isinstance(event, Trial):
        raw["values"] = [v if math.isfinite(v) else str(v) for v in event.values]  # JSON has no infinity
    return {"type": event.type, **raw}


def decode(raw: Mapping[str, Any]) -> Event | None:
    """Read what `encode` wrote, here or in another version; None for a type that is not known here.

    Raises:
        ValueError: it is not an event.
    """
    kind = TYPES.get(str(raw.get("type")))
    if kind is None:
        return None
    known = {f.name: f for f in fields(kind)}
    try:
        event = kind(**{k: _FREEZE[k](v) if k in _FREEZE else v for k, v in raw.items() if k in known})
        if not isinstance(event.run, str) or not isinstance(event.time, int | float):
            raise TypeError("run must be a text and time a number")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not an event of type {kind.type}: {error}") from error
    return event


def _task(raw: Any) -> Task | None:
    if raw is None:
        return None
    stage, partition, attempt = raw
    return Task(int(stage), int(partition), int(attempt))


def _range(raw: dict[str, Any]) -> dict[str, Any]:
    if "choices" in raw:
        return {"choices": list(raw["choices"])}
    return {"low": float(raw.get("low", "nan")), "high": float(raw.get("high", "nan")), "log": bool(raw.get("log"))}


def _report(step: Any, value: Any) -> tuple[float, float | None]:
    return float(step), None if value is None else float(value)


_FREEZE: dict[str, Callable[[Any], Any]] = {
    "task": _task,
    "names": lambda raw: tuple(str(n) for n in raw),
    "points": lambda raw: tuple(tuple(p) for p in raw),
    "data": lambda raw: base64.b64decode(raw, validate=True),
    "number": int,
    "earlier": int,
    "state": str,
    "values": lambda raw: tuple(float(v) for v in raw),
    "params": lambda raw: dict(raw),
    "distributions": lambda raw: {name: _range(dict(about)) for name, about in dict(raw).items()},
    "report": lambda raw: None if raw is None else _report(*raw),
    "started": float,
    "seconds": float,
    "phase": str,
    "phases": lambda raw: {str(name): float(spent) for name, spent in dict(raw).items()},
    **dict.fromkeys(("rank", "world", "rows", "epoch", "epochs"), int),
    "note": str,
}
