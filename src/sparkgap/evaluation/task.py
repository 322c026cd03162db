"""What runs in Spark's tasks: batches become states, and states of one key become one.

What rows are refused for travels to the driver as text beside the states, so that users get a `DataError` of their call.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.blocks.keys import codes, normal, order, starts
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.results import numbers_of, result_of
from sparkgap.evaluation.states import State, merged_state, state_of, state_tree

PARTITION, NUMBER, STATE, REFUSED, NUMBERS = "partition", "number", "state", "refused", "numbers"
MOST_ROWS = 1 << 18
"""Rows that are sorted by key at a time, if they are no larger than this:"""
MOST_BYTES = 64 << 20
_TOGETHER = 32
"""Partitions whose states meet before the driver gets them."""
_ROWS_OUT = 256


def partial_states(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Leave one state a partition; by key, one a key and stretch of the partition."""
    from pyspark import TaskContext

    context = TaskContext.get()
    partition = context.partitionId() if context is not None else 0
    try:
        if plan.by:
            yield from _by_key(plan, batches, partition)
        else:
            state = merged_state(plan, (state_of(plan, b) for b in batches if b.num_rows))
            group = pa.array([partition // _TOGETHER], pa.int32())
            yield _rows([group], partition, 0, [_packed(state)])
    except DataError as error:
        yield _refusal(plan, partition, str(error))


def key_states(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[list[pa.Array], list[State]]]:
    """Give keys, `normal` and one row a key, with the states of their rows: some keys of a stretch of rows at a time."""
    for stretch in _stretches(batches):
        keys = [normal(stretch.column(plan.place(name))) for name in plan.by]
        found, count = codes(keys)
        by = order(found, count)
        first = starts(found[by])
        ends = [*first[1:].tolist(), len(by)]
        ordered = stretch.take(pa.array(by))
        for some in range(0, len(first), _ROWS_OUT):
            spans = zip(first[some : some + _ROWS_OUT].tolist(), ends[some:], strict=False)
            states = [state_of(plan, ordered.slice(i, j - i)) for i, j in spans]
            rows = pa.array(by[first[some : some + _ROWS_OUT]])
            yield [k.take(rows) for k in keys], states


def _by_key(plan: Plan, batches: Iterator[pa.RecordBatch], partition: int) -> Iterator[pa.RecordBatch]:
    for number, (keys, states) in enumerate(key_states(plan, batches)):
        yield _rows(keys, partition, number, [_packed(s) for s in states])


def _stretches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join batches to stretches of about `MOST_ROWS` rows, or `MOST_BYTES`."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= MOST_ROWS or size >= MOST_BYTES:
            yield _joined(waiting)
            waiting, rows, size = [], 0, 0
    if rows:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).combine_chunks()
    return pa.RecordBatch.from_arrays([c.chunk(0) for c in table.columns], schema=table.schema)


def merged_states(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Merge the states of each key, which come sorted by key: its numbers, and one state of all keys together.

    Without keys, the groups of partitions are the keys, and each leaves its state.
    """
    done = state_tree(plan)
    ready: list[tuple[list[pa.Array], list[float | None]]] = []
    try:
        for keys, states in _runs(plan, batches):
            state = merged_state(plan, states)
            done.add(state)
            if plan.by:
                ready.append((keys, numbers_of(plan, result_of(plan, state))))
            if len(ready) >= _ROWS_OUT:
                yield _numbers(ready)
                ready = []
        if ready:
            yield _numbers(ready)
        if (whole := done.result()) is not None:
            yield _last(plan, _packed(whole), None)
    except DataError as error:
        yield _last(plan, None, str(error))


def _runs(plan: Plan, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[list[pa.Array], list[State]]]:
    """Give each key with its states.

    Raises:
        DataError: a task refused its rows.
    """
    held: list[pa.Array] | None = None
    states: list[State] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        refused = [text for text in batch.column(REFUSED).to_pylist() if text is not None]
        if refused:
            raise DataError(refused[0])
        keys = [batch.column(f"k{i}") for i in range(max(1, len(plan.by)))]
        first = starts(codes(keys)[0])
        ends = [*first[1:].tolist(), batch.num_rows]
        packed = batch.column(STATE)
        for i, j in zip(first.tolist(), ends, strict=True):
            key = [k.slice(i, 1) for k in keys]
            if held is not None and (i or not _same(held, key)):  # a run may go on in the next batch only
                yield held, states
                states = []
            held = key
            states += [_unpacked(packed[n].as_py()) for n in range(i, j)]
            if len(states) > _TOGETHER:
                states = [merged_state(plan, states)]
    if held is not None:
        yield held, states


def _same(one: list[pa.Array], other: list[pa.Array]) -> bool:
    found, _ = codes([pa.concat_arrays([a, b]) for a, b in zip(one, other, strict=True)])
    return bool(found[0] == found[1])


def _packed(state: State) -> bytes:
    return pickle.dumps(state, protocol=5)


def _unpacked(data: bytes) -> State:
    state: State = pickle.loads(data)  # of our own tasks, as all that Spark's Python workers send each other
    return state


def unpacked_states(table: pa.Table) -> list[State]:
    """Return the states of a table that tasks have left."""
    return [_unpacked(data) for data in table.column(STATE).drop_null().to_pylist()]


def _rows(keys: list[pa.Array], partition: int, number: int, states: list[bytes]) -> pa.RecordBatch:
    count = len(states)
    places = [pa.array(np.full(count, n, np.int32)) for n in (partition, number)]
    arrays = [*keys, *places, pa.array(states, pa.binary()), pa.nulls(count, pa.string())]
    return pa.RecordBatch.from_arrays(arrays, names=_names(len(keys), PARTITION, NUMBER, STATE, REFUSED))


def _refusal(plan: Plan, partition: int, text: str) -> pa.RecordBatch:
    places = [pa.array([n], pa.int32()) for n in (partition, 0)]
    arrays = [*_no_keys(plan), *places, pa.nulls(1, pa.binary()), pa.array([text])]
    return pa.RecordBatch.from_arrays(arrays, names=_names(len(arrays) - 4, PARTITION, NUMBER, STATE, REFUSED))


def _numbers(ready: list[tuple[list[pa.Array], list[float | None]]]) -> pa.RecordBatch:
    columns = [pa.concat_arrays(list(column)) for column in zip(*(keys for keys, _ in ready), strict=True)]
    numbers = pa.array([n for _, n in ready], pa.list_(pa.float64()))
    rest = [numbers, pa.nulls(len(ready), pa.binary()), pa.nulls(len(ready), pa.string())]
    return pa.RecordBatch.from_arrays([*columns, *rest], names=_names(len(columns), NUMBERS, STATE, REFUSED))


def _last(plan: Plan, state: bytes | None, refused: str | None) -> pa.RecordBatch:
    rest = [pa.nulls(1, pa.list_(pa.float64())), pa.array([state], pa.binary()), pa.array([refused], pa.string())]
    arrays = [*_no_keys(plan), *rest]
    return pa.RecordBatch.from_arrays(arrays, names=_names(len(arrays) - 3, NUMBERS, STATE, REFUSED))


def _no_keys(plan: Plan) -> list[pa.Array]:
    return [pa.nulls(1, kind) for kind in plan.key_types or (pa.int32(),)]


def _names(keys: int, *others: str) -> list[str]:
    return [*(f"k{i}" for i in range(keys)), *others]
