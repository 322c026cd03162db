"""What became of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparkgap._errors import TaskError
from sparkgap.scheduled.outcome import Ending, Outcome, opened
from sparkgap.scheduled.tables import table_of


@dataclass(frozen=True, slots=True)
class GroupOutcome(Outcome):
    """What became of one group of `gap.run_grouped`: an `Outcome` whose item is the key.

    Attributes:
        index: its place by size, from 0, the largest.
        item: its value of the key column; a tuple, where columns were given as a list. `key` is the same.
        kind: as in `Outcome`; or ``"max_rows"``: it has more rows than it may, and was not run.
        rows: how many rows it has.
    """

    rows: int = 0

    @property
    def key(self) -> Any:
        """Its value of the key column."""
        return self.item


def group_outcome(key: Any, rows: int, index: int, ending: Ending) -> GroupOutcome:
    """Return what users get of an ending. Driver side: the value is unpickled here."""
    kind, value, error = opened(f"Group {key!r}", index, ending)
    return GroupOutcome(
        index, key, kind, value, error, ending.attempts, ending.seconds, ending.started, ending.peak_rss,
        ending.exit_code, ending.signal, ending.host, ending.texts.get("output", ""), rows,
    )  # fmt: skip


def too_large(key: Any, rows: int, index: int, limit: int) -> GroupOutcome:
    """Return the outcome of a group that was not run, as it has too many rows."""
    message = f"Group {key!r} has {rows:,} rows, and max_rows={limit:,}. Raise that, or split the group by another key."
    return GroupOutcome(index, key, "max_rows", None, TaskError(message, index, "max_rows"), attempts=0, rows=rows)


def group_table(keys: pa.Table, outcomes: Sequence[GroupOutcome]) -> pa.Table:
    """Return outcomes as a table: the key columns, then ``rows``, ``kind``, ``value``, ``error`` and so on.

    Args:
        keys: the key columns, a row for each outcome.
        outcomes: in the same order.
    """
    facts = table_of(outcomes).drop_columns(["index"])
    counts = pa.array([o.rows for o in outcomes], pa.int64())
    columns = [*keys.columns, counts, *facts.columns]
    return pa.table(columns, names=[*keys.column_names, "rows", *facts.column_names])
