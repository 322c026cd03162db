"""Results to record batches: encode the outputs, put rows back in order, join small batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from sparkgap.embedded.decoding import BadRow
from sparkgap.embedded.plan import Output, TransformPlan
from sparkgap.embedded.scoring import Scored
from sparkgap.tensors.encode import arrow_type, encode

JOIN_ROWS = 4096
JOIN_BYTES = 4 << 20


def assemble(plan: TransformPlan, data: pa.RecordBatch, scored: Sequence[Scored], bad: Mapping[int, BadRow]) -> pa.RecordBatch:
    """Make the result of one batch: kept columns, output columns, and the error column where one is wanted."""
    drop = plan.on_error.policy == "skip" and bool(bad)
    good = np.setdiff1d(np.arange(data.num_rows), np.fromiter(bad, dtype=np.int64, count=len(bad))) if drop else None
    kept = [data.column(name) for name in plan.keep]
    if good is not None:
        kept = [column.take(pa.array(good)) for column in kept]
    order = _order(scored, data.num_rows, good)
    arrays = [*kept, *(_output(o, scored, order) for o in plan.outputs)]
    if plan.on_error.column is not None:
        arrays.append(pa.array([bad[r].reason if r in bad else None for r in range(data.num_rows)], pa.string()))
    return pa.RecordBatch.from_arrays(arrays, schema=plan.output_schema([data.schema.field(n) for n in plan.keep]))


def _order(scored: Sequence[Scored], rows: int, good: np.ndarray | None) -> pa.Array | None:
    """Return, for each row of the result, its place in the scored rows laid end to end; None if that is as they lie."""
    if len(scored) == 1 and scored[0].count == rows and good is None:
        return None
    place = np.full(rows, -1, dtype=np.int64)
    first = 0
    for part in scored:
        numbers = np.arange(rows) if part.rows is None else part.rows
        place[numbers] = np.arange(first, first + part.count)
        first += part.count
    wanted = place if good is None else place[good]
    return pa.array(wanted, mask=wanted < 0)


def _output(output: Output, scored: Sequence[Scored], order: pa.Array | None) -> pa.Array:
    kind = arrow_type(output.spec, output.encoding)
    if not scored:
        return pa.nulls(0 if order is None else len(order), kind)
    parts = [encode(s.block[output.spec.name], output.spec, output.encoding) for s in scored]
    joined = parts[0] if len(parts) == 1 else pa.concat_arrays(parts)
    return joined if order is None else joined.take(order)


def join_small(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join small batches before they go to Spark: each batch costs a fixed time there."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= JOIN_ROWS or size >= JOIN_BYTES:
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    columns = [pa.concat_arrays([b.column(i) for b in batches]) for i in range(batches[0].num_columns)]
    return pa.RecordBatch.from_arrays(columns, schema=batches[0].schema)
