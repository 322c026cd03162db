"""What one task measured: counts, seconds by phase, first reasons. A plain value that travels as JSON."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

MAX_REASONS = 10
LATENCY_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds, in seconds, of the buckets of the time of a batch in the model; one more bucket holds the rest."""

SUMS = ("rows_in", "rows_out", "bytes_in", "bytes_out", "skipped", "nulled", "batches", "halvings", "model_loads")
"""Counters that add up over tasks."""

PHASES = {
    "read": "waiting for Spark, or reading files",
    "decode": "columns to tensors, in the prefetch thread",
    "starved": "the model waited for its input",
    "load": "loading the model",
    "model": "in the model",
    "encode": "tensors to columns",
    "write": "handing rows to Spark",
}


@dataclass
class TaskStats:
    """Counts and times of one attempt of one task.

    Args:
        stage: Spark's stage id; a second action on the same DataFrame has another one.
        partition: number of the partition.
        attempt: Spark's id of this attempt.
        rows_in: rows read.
        rows_out: rows given back.
        bytes_in: bytes of the columns read, as Arrow holds them.
        bytes_out: bytes of the columns given back.
        skipped: rows left out by `on_error="skip"`.
        nulled: rows kept with null outputs by `on_error="null"`.
        batches: calls of the model that gave a result.
        batch_rows: rows of the largest batch.
        halvings: how often a batch was halved because it did not fit in memory.
        model_loads: 1 where this task loaded the model, 0 where it was in the worker already.
        seconds: seconds by phase, see `PHASES`.
        latency: batches by their time in the model, see `LATENCY_BOUNDS`.
        reasons: how often each kind of bad row was met.
        examples: first bad rows, with their place and reason.
    """

    stage: int = 0
    partition: int = 0
    attempt: int = 0
    rows_in: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    skipped: int = 0
    nulled: int = 0
    batches: int = 0
    batch_rows: int = 0
    halvings: int = 0
    model_loads: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with no phase under way."""
        self._since: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """Begin a phase. Each phase is timed by one thread only."""
        self._since[phase] = time.perf_counter()

    def leave(self, phase: str) -> float:
        """End a phase; returns its seconds, which are added up."""
        spent = time.perf_counter() - self._since.pop(phase)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        return spent

    def within(self, phase: str) -> bool:
        """Whether a phase is under way."""
        return phase in self._since

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time of a `with` block to a phase."""
        self.enter(phase)
        try:
            yield
        finally:
            self.leave(phase)

    def batch_done(self, seconds: float) -> None:
        """Count a batch by its time in the model."""
        self.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def bad_row(self, kind: str, example: str) -> None:
        """Count a bad row; the first few are kept in full."""
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        if len(self.examples) < MAX_REASONS:
            self.examples.append(example)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values. May be called from another thread while the work goes on."""
        seconds, now = self.seconds.copy(), time.perf_counter()
        for phase, since in self._since.copy().items():  # a phase that is under way counts, too
            seconds[phase] = seconds.get(phase, 0.0) + now - since
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {
            "seconds": seconds,
            "latency": self.latency[:],
            "reasons": self.reasons.copy(),
            "examples": self.examples[:],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TaskStats:
        """Read what `to_dict` wrote; unknown keys of newer versions are ignored."""
        known = {f.name for f in fields(cls)}
        found = cls(**{k: v for k, v in raw.items() if k in known})
        if len(found.latency) != len(LATENCY_BOUNDS) + 1:
            found.latency = cls().latency  # another version's buckets cannot be added to ours
        return found


def add_up(tasks: list[TaskStats]) -> TaskStats:
    """Add the stats of tasks; `batch_rows` is the largest one."""
    total = TaskStats(stage=max((t.stage for t in tasks), default=0))
    seconds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for task in sorted(tasks, key=lambda t: t.partition):
        for name in SUMS:
            setattr(total, name, getattr(total, name) + getattr(task, name))
        total.batch_rows = max(total.batch_rows, task.batch_rows)
        seconds.update(task.seconds)
        total.latency = [a + b for a, b in zip(total.latency, task.latency, strict=True)]
        reasons.update(task.reasons)
        total.examples.extend(task.examples)
    total.seconds, total.reasons = dict(seconds), dict(reasons)
    total.examples = total.examples[:MAX_REASONS]
    return total
