"""The numbers of a snapshot under their names: one table, from which every exporter and the documentation are made. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sparkgap.monitor.exporters.snapshot import STATUSES, Snapshot
from sparkgap.monitor.stats import LATENCY_BOUNDS

ATTEMPT_STATUSES = ("running", "ok", "failed", "lost")


class Metric(NamedTuple):
    """One number, or one a label value.

    Attributes:
        name: without the prefix ``sparkgap_`` and, for counters, without ``_total``.
        counter: whether it only grows while a run goes on; else it is a gauge.
        unit: as OpenTelemetry writes it (UCUM): ``s``, ``By``, ``1`` or ``{row}``.
        label: name of the label besides those of the run; "" for none.
        help: one line.
    """

    name: str
    counter: bool
    unit: str
    label: str
    help: str

    @property
    def full(self) -> str:
        """The name as Prometheus has it."""
        return f"sparkgap_{self.name}_total" if self.counter else f"sparkgap_{self.name}"


class Sample(NamedTuple):
    """A value of a metric; `label` is the value of its label, "" for none."""

    metric: Metric
    label: str
    value: float


TOTALS = {
    "rows_in": Metric("rows_in", True, "{row}", "", "rows read"),
    "rows_out": Metric("rows_out", True, "{row}", "", "rows given back"),
    "bytes_in": Metric("bytes_in", True, "By", "", "bytes of the columns read, as Arrow holds them"),
    "bytes_out": Metric("bytes_out", True, "By", "", "bytes of the columns given back"),
    "skipped": Metric("rows_skipped", True, "{row}", "", "bad rows left out"),
    "nulled": Metric("rows_nulled", True, "{row}", "", "bad rows kept with null outputs"),
    "batches": Metric("batches", True, "{batch}", "", "calls of the model that gave a result"),
    "halvings": Metric("batch_halvings", True, "{halving}", "", "batches halved as they did not fit in memory"),
    "model_loads": Metric("model_loads", True, "{load}", "", "times that a task had to load the model"),
    "cpu_seconds": Metric("cpu_seconds", True, "s", "", "processor time of the tasks"),
    "task_seconds": Metric("task_seconds", True, "s", "", "time that tasks took"),
}
PHASE = Metric("phase_seconds", True, "s", "phase", "time by phase; read and decode run beside the others")
FAILURES = Metric("task_failures", True, "{attempt}", "", "attempts that failed")
DROPPED = Metric("events_dropped", True, "{event}", "type", "events that tasks had to drop")
MISSED = Metric("export_missed", True, "{point}", "", "points, shown things and failures gone before they were exported")
TASKS = Metric("tasks", False, "{attempt}", "status", "attempts of tasks by status")
PLANNED = Metric("tasks_planned", False, "{task}", "", "tasks of the stages, as far as Spark has told")
MEMORY = Metric("memory_bytes", False, "By", "", "resident memory of the processes that work now")
GPU_BUSY = Metric("gpu_utilization_ratio", False, "1", "gpu", "how busy a device is, 0 to 1")
GPU_MEMORY = Metric("gpu_memory_bytes", False, "By", "gpu", "memory of a device in use")
STATUS = Metric("run_status", False, "1", "status", "1 for the status that the run has, 0 for the others")
STARTED = Metric("run_start_time_seconds", False, "s", "", "when the run was planned, since 1970")
HEARD = Metric("run_last_event_time_seconds", False, "s", "", "when the run was last heard of, since 1970")
LIMIT = Metric("limit_ratio", False, "1", "limit", "part of the time that the limit of the latest action takes, 0 to 1")
USER = Metric("metric", False, "1", "name", "last value of a metric of gap.report, the mean over the tasks")
LATENCY = Metric("batch_seconds", False, "s", "", "histogram of the time of a batch in the model")

METRICS = (
    *TOTALS.values(), PHASE, FAILURES, DROPPED, MISSED, TASKS, PLANNED, MEMORY, GPU_BUSY, GPU_MEMORY, STATUS, STARTED, HEARD,
    LIMIT, USER,
)  # fmt: skip
"""All that are one number each; `LATENCY` is a histogram, and each exporter writes it its own way."""

MAX_GPUS = 16
MAX_DROPPED_TYPES = 20


def samples(snapshot: Snapshot) -> Iterator[Sample]:
    """Give the numbers of a snapshot, in the order of `METRICS`."""
    for key, metric in TOTALS.items():
        yield Sample(metric, "", snapshot.totals.get(key, 0))
    yield from (Sample(PHASE, phase, seconds) for phase, seconds in sorted(snapshot.phases.items()))
    yield Sample(FAILURES, "", snapshot.attempts.get("failed", 0))
    yield from (Sample(DROPPED, t, count) for t, count in sorted(snapshot.dropped.items())[:MAX_DROPPED_TYPES])
    yield Sample(MISSED, "", snapshot.missed)
    yield from (Sample(TASKS, status, snapshot.attempts.get(status, 0)) for status in ATTEMPT_STATUSES)
    yield Sample(PLANNED, "", snapshot.tasks)
    yield Sample(MEMORY, "", snapshot.memory)
    yield from _gpus(snapshot)
    yield from (Sample(STATUS, status, int(status == snapshot.status)) for status in STATUSES)
    yield Sample(STARTED, "", snapshot.started)
    yield Sample(HEARD, "", snapshot.time)
    if snapshot.limit:
        yield Sample(LIMIT, snapshot.limit, snapshot.limit_share)
    yield from (Sample(USER, name, value) for name, value in snapshot.latest.items())


def _gpus(snapshot: Snapshot) -> Iterator[Sample]:
    """Give the first few devices, numbered: host names are no labels."""
    devices = [snapshot.gpus[k] for k in sorted(snapshot.gpus)][:MAX_GPUS]
    yield from (Sample(GPU_BUSY, str(n), busy) for n, (busy, _) in enumerate(devices) if busy is not None)
    yield from (Sample(GPU_MEMORY, str(n), used) for n, (_, used) in enumerate(devices) if used is not None)


def quantile(latency: Sequence[float], q: float) -> float | None:
    """Return about which time `q` of the batches did not exceed, in seconds; None where there is no batch.

    Args:
        latency: batches by bucket, as in `Snapshot.latency`.
        q: from 0 to 1.
    """
    below, wanted = 0.0, q * sum(latency)
    for low, high, count in zip((0.0, *LATENCY_BOUNDS), LATENCY_BOUNDS, latency, strict=False):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return LATENCY_BOUNDS[-1] if below < sum(latency) else None
