"""What became of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

from sparkgap._errors import TaskError
from sparkgap.scheduled.outcome import Ending, Outcome, opened
from sparkgap.scheduled.tables import table_of


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """What became of one group of `gap.run_grouped`.

    Attributes:
        key: its value of the key column; a tuple, where columns were given as a list.
        rows: how many rows it has.
        index: its place by size, from 0, the largest.
        kind: as in `Outcome`; or ``"max_rows"``: it has more rows than it may, and was not run.
        value: what the function returned; None unless `ok`.
        error: why there is no value; None if `ok`.
        attempts: how often it was tried.
        seconds: how long the last attempt took.
        started: when that began, in seconds since 1970.
        peak_rss: highest resident memory of its process until then, in bytes.
        exit_code: of its process, where the function ended that.
        signal: that killed its process, or None.
        host: where it ran.
        output: the end of what it printed.
    """

    key: Any
    rows: int
    index: int
    kind: str
    value: Any = None
    error: TaskError | None = None
    attempts: int = 1
    seconds: float = 0.0
    started: float = 0.0
    peak_rss: int = 0
    exit_code: int | None = None
    signal: int | None = None
    host: str = ""
    output: str = field(default="", repr=False)

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.kind == "ok"

    def unwrap(self) -> Any:
        """Return the value.

        Raises:
            TaskError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self.value


def group_outcome(key: Any, rows: int, index: int, ending: Ending) -> GroupOutcome:
    """Return what users get of an ending. Driver side: the value is unpickled here."""
    kind, value, error = opened(f"Group {key!r}", index, ending)
    return GroupOutcome(
        key, rows, index, kind, value, error, ending.attempts, ending.seconds, ending.started, ending.peak_rss,
        ending.exit_code, ending.signal, ending.host, ending.texts.get("output", ""),
    )  # fmt: skip


def too_large(key: Any, rows: int, index: int, limit: int) -> GroupOutcome:
    """Return the outcome of a group that was not run, as it has too many rows."""
    message = f"Group {key!r} has {rows:,} rows, and max_rows={limit:,}. Raise that, or split the group by another key."
    return GroupOutcome(key, rows, index, "max_rows", None, TaskError(message, index, "max_rows"), attempts=0)


def group_table(keys: pa.Table, outcomes: Sequence[GroupOutcome]) -> pa.Table:
    """Return outcomes as a table: the key columns, then ``rows``, ``kind``, ``value``, ``error`` and so on.

    Args:
        keys: the key columns, a row for each outcome.
        outcomes: in the same order.
    """
    facts = table_of(_plain(o) for o in outcomes).drop_columns(["index"])
    counts = pa.array([o.rows for o in outcomes], pa.int64())
    columns = [*keys.columns, counts, *facts.columns]
    return pa.table(columns, names=[*keys.column_names, "rows", *facts.column_names])


def _plain(outcome: GroupOutcome) -> Outcome:
    known = {f.name: getattr(outcome, f.name) for f in fields(outcome) if f.name not in ("key", "rows")}
    return Outcome(item=outcome.key, **known)
