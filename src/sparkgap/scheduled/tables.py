"""Outcomes as Arrow tables."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pyarrow as pa

from sparkgap.scheduled.outcome import Outcome

ROWS = 4096
FACTS = pa.schema(
    [
        ("index", pa.int64()), ("kind", pa.string()), ("error", pa.string()), ("attempts", pa.int32()),
        ("seconds", pa.float64()), ("started", pa.timestamp("us", "UTC")), ("peak_rss", pa.int64()),
        ("exit_code", pa.int32()), ("signal", pa.int32()), ("host", pa.string()), ("output", pa.string()),
    ]
)  # fmt: skip


def table_of(outcomes: Iterable[Outcome]) -> pa.Table:
    """Return all outcomes as one table; the column ``value`` has one type, or holds pickles where there is none."""
    parts, values = [], []
    iterator = iter(outcomes)
    while chunk := list(islice(iterator, ROWS)):
        parts.append(_facts(chunk))
        values.append([o.value for o in chunk])
    facts = pa.concat_tables(parts) if parts else FACTS.empty_table()
    return facts.add_column(2, "value", _column(values))


def _facts(chunk: list[Outcome]) -> pa.Table:
    rows: dict[str, list[Any]] = {
        name: [getattr(o, name) for o in chunk] for name in FACTS.names if name not in ("error", "started")
    }
    rows["error"] = [None if o.error is None else str(o.error) for o in chunk]
    rows["started"] = [datetime.datetime.fromtimestamp(o.started, datetime.timezone.utc) for o in chunk]
    return pa.table({name: pa.array(rows[name], FACTS.field(name).type) for name in FACTS.names}, FACTS)


def _column(values: list[list[Any]]) -> pa.ChunkedArray:
    try:
        flat = [pa.array([_plain(v) for v in part]) for part in values]
        types = {a.type for a in flat} - {pa.null()}
        if not types:
            return pa.chunked_array(flat, pa.null()) if flat else pa.chunked_array([], pa.null())
        whole = pa.array([_plain(v) for part in values for v in part]) if len(types) > 1 else None
        if whole is not None:
            return pa.chunked_array([whole])
        (only,) = types
        return pa.chunked_array([a.cast(only) for a in flat], only)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.chunked_array([[None if v is None else pickle.dumps(v) for v in part] for part in values], pa.binary())


def _plain(value: Any) -> Any:
    """Return what Arrow can look at: arrays and scalars of NumPy as Python's own."""
    return value.tolist() if hasattr(value, "tolist") and hasattr(value, "dtype") else value
