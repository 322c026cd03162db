"""Runs as a table: what ran, how it ended, how much it did, and what limited it."""

from __future__ import annotations

import datetime

import pyarrow as pa

from sparkgap.monitor.driver import monitor
from sparkgap.monitor.state import RunState, span
from sparkgap.monitor.store import Store
from sparkgap.monitor.summary import of_state

SCHEMA = pa.schema(
    [
        ("run", pa.string()), ("kind", pa.string()), ("name", pa.string()), ("status", pa.string()),
        ("started", pa.timestamp("us", "UTC")), ("seconds", pa.float64()), ("tasks", pa.int64()), ("retries", pa.int64()),
        ("rows_in", pa.int64()), ("rows_out", pa.int64()), ("skipped", pa.int64()), ("nulled", pa.int64()),
        ("failures", pa.int64()), ("limit", pa.string()), ("verdict", pa.string()),
    ]
)  # fmt: skip


def runs(*, limit: int = 100) -> pa.Table:
    """Return the latest runs of this machine's history and of this process, newest first.

    Runs that were planned and have had no action are left out. Driver side; reads the history.

    Args:
        limit: at most so many.

    Returns:
        An Arrow table, a row a run; its numbers are those of the run's latest action. ``spark.createDataFrame(gap.runs())``
        makes a DataFrame of it.
    """
    return table(monitor().store, limit)


def table(store: Store, limit: int = 100) -> pa.Table:
    """Return the latest runs of a store and its history, newest first."""
    rows = []
    for run in latest(store, limit):
        with store.reading(run) as live:
            state = live if live is not None else (store.history.read(run) if store.history is not None else None)
            if state is not None and state.attempts:
                rows.append(_row(state))
    return pa.Table.from_pylist(rows, SCHEMA)


def latest(store: Store, limit: int) -> list[str]:
    """Return ids of runs, in memory and on disk, newest first."""
    past = store.history.runs() if store.history is not None else []
    known = store.runs()
    return [*reversed(known), *(r for r in reversed(past) if r not in set(known))][:limit]


def _row(state: RunState) -> dict[str, object]:
    found = of_state(state)
    counted = state.counted()
    begin, end = span(counted, state.started)
    total = state.totals()
    return {
        "run": state.run, "kind": state.kind, "name": state.name, "status": state.status(),
        "started": datetime.datetime.fromtimestamp(begin, datetime.timezone.utc), "seconds": max(0.0, end - begin),
        "tasks": found.tasks, "retries": state.retries(),
        "rows_in": total.rows_in, "rows_out": total.rows_out, "skipped": total.skipped, "nulled": total.nulled,
        "failures": state.failure_count, "limit": found.verdict.limit if found.verdict else "",
        "verdict": str(found.verdict) if found.verdict else "",
    }  # fmt: skip
