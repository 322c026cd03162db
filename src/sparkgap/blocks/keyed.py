"""Aggregation in a task: the rows of each key become one, before the shuffle and again after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from sparkgap.blocks.keys import codes, normal, order, starts
from sparkgap.blocks.reducing import PARTITION, Reducer, stacked_cells
from sparkgap.blocks.worker import good_blocks, join_blocks
from sparkgap.embedded.decoding import Decoded
from sparkgap.embedded.plan import TransformPlan
from sparkgap.monitor.reporter import Attempted
from sparkgap.monitor.stats import TaskStats
from sparkgap.tensors.encode import encode
from sparkgap.tensors.spec import Block

NUMBER = "number"
"""Column of partial results: their place among those of a partition."""
MOST_BYTES = 32 << 20
MOST_ROWS = 1 << 20
Keys = list[pa.Array]


def partial_keys(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None, *, pairs: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """Reduce the rows of each key, as many rows at a time as memory should hold: keys, results, partition, number."""
    waiting: list[tuple[Keys, Block]] = []
    rows = size = number = 0
    reducer: Reducer | None = None
    for predictor, decoded, piece in good_blocks(plan, stats, feed, begun):
        reducer = reducer or Reducer(predictor, tuple(o.spec for o in plan.outputs), pairs)
        keys = [normal(decoded.batch.data.column(name)) for name in plan.keep]
        if piece.rows is not None:
            keys = [k.take(pa.array(piece.rows)) for k in keys]
        waiting.append((keys, piece.block))
        rows, size = rows + piece.count, size + _nbytes(piece.block)
        if rows >= MOST_ROWS or size >= MOST_BYTES:
            yield _flush(plan, stats, reducer, waiting, number)
            rows = size = 0
            number += 1
    if waiting and reducer is not None:
        yield _flush(plan, stats, reducer, waiting, number)


def _nbytes(block: Block) -> int:
    # Text and bytes are objects: count some bytes for each.
    return sum(a.nbytes * 8 if a.dtype.kind == "O" else a.nbytes for a in block.values())


def _flush(
    plan: TransformPlan, stats: TaskStats, reducer: Reducer, waiting: list[tuple[Keys, Block]], number: int
) -> pa.RecordBatch:
    keys, block = _joined(waiting)
    waiting.clear()
    with stats.timed("model"):
        found, count = codes(keys)
        by = order(found, count)
        first = starts(found[by])
        block = {name: array[by] for name, array in block.items()}
        ends = [*first[1:].tolist(), len(by)]
        cells = [
            reducer.block({n: a[i:j] for n, a in block.items()}, f"the {j - i} rows of a key")
            for i, j in zip(first.tolist(), ends, strict=True)
        ]
        done = stacked_cells(cells)
    taken = [k.take(pa.array(by[first])) for k in keys]
    at = [pa.array(np.full(len(first), n, np.int32)) for n in (stats.partition, number)]
    results = [encode(done[o.spec.name], o.spec) for o in plan.outputs]
    return pa.RecordBatch.from_arrays([*taken, *results, *at], names=[*_names(plan), PARTITION, NUMBER])


def _names(plan: TransformPlan) -> list[str]:
    return [*plan.keep, *(o.column for o in plan.outputs)]


def _joined(parts: Sequence[tuple[Keys, Block]]) -> tuple[Keys, Block]:
    if len(parts) == 1:
        return parts[0]
    keys = [pa.concat_arrays(list(columns)) for columns in zip(*(k for k, _ in parts), strict=True)]
    return keys, join_blocks([b for _, b in parts])


def merged_keys(
    plan: TransformPlan, stats: TaskStats, feed: Iterator[Decoded], begun: Attempted | None, *, pairs: Mapping[str, str]
) -> Iterator[pa.RecordBatch]:
    """Reduce partial results that come sorted by key, to one row a key; never holds more than a block and one row."""
    carried: tuple[Keys, Block] | None = None
    for predictor, decoded, piece in good_blocks(plan, stats, feed, begun):
        reducer = Reducer(predictor, tuple(o.spec for o in plan.outputs), pairs)
        keys = [decoded.batch.data.column(name) for name in plan.keep]
        keys, block = _joined([*([carried] if carried else []), (keys, piece.block)])
        first = starts(codes(keys)[0])
        with stats.timed("model"):
            block = _runs(reducer, block, first)
        keys = [k.take(pa.array(first)) for k in keys]
        last = len(first) - 1
        carried = [k.slice(last) for k in keys], {n: a[last:].copy() for n, a in block.items()}
        if last:
            yield _rows(plan, pairs, [k.slice(0, last) for k in keys], {n: a[:last] for n, a in block.items()})
    if carried is not None:
        yield _rows(plan, pairs, *carried)


def _runs(reducer: Reducer, block: Block, first: np.ndarray) -> Block:
    """Reduce each run of rows that is longer than one; blocks are named by parameter, before and after."""
    ends = np.append(first[1:], len(next(iter(block.values()))))
    done = {name: array[first] for name, array in block.items()}
    for run in np.flatnonzero(ends - first > 1).tolist():
        i, j = int(first[run]), int(ends[run])
        cell = reducer.block({n: a[i:j] for n, a in block.items()}, f"{j - i} partial results of a key")
        for name, array in cell.items():
            done[reducer.pairs[name]][run] = array
    return done


def _rows(plan: TransformPlan, pairs: Mapping[str, str], keys: Keys, block: Block) -> pa.RecordBatch:
    results = [encode(block[pairs[o.spec.name]], o.spec) for o in plan.outputs]
    return pa.RecordBatch.from_arrays([*keys, *results], names=_names(plan))
