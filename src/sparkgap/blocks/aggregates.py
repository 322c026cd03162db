"""`aggregate`: a program reduces the rows of each key."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.blocks.algebra import algebraic, without_suffix
from sparkgap.blocks.grouping import grouping_of
from sparkgap.blocks.job import Job
from sparkgap.blocks.keyed import NUMBER, merged_keys, partial_keys
from sparkgap.blocks.keys import can_be_key, codes, order
from sparkgap.blocks.local import Local
from sparkgap.blocks.reducing import PARTITION
from sparkgap.blocks.reductions import no_nulls
from sparkgap.blocks.running import encoded, fields, here, on_spark, plan_of
from sparkgap.blocks.subject import Subject
from sparkgap.embedded.options import Batching, OnError
from sparkgap.embedded.plan import Input, Output, TransformPlan
from sparkgap.tensors.columns import Column
from sparkgap.tensors.kinds import plain_type
from sparkgap.tensors.spec import TensorSpec


def aggregate(
    program: Any,
    grouped: Any,
    *,
    feed: Mapping[str, Any] | None = None,
    on_error: str | OnError = "raise",
    framework: str | None = None,
) -> Any:
    """Reduce the rows of each key to one row, with a program as for `reduce_blocks`. Lazy on Spark.

    The program is applied to the rows of each key in a stretch of a partition, and then again to those results, after the
    shuffle. So few rows are shuffled where keys are few, and a key with most of the rows is no burden for one task.
    Memory is bounded by the stretch, whatever the number of keys and rows. Null is a key, and so is NaN.

    Args:
        program: as for `reduce_blocks`: ``lambda x: {"x": x.sum(axis=0)}``.
        grouped: ``df.groupBy("key", ...)``, of columns; or that of pandas, Arrow or polars.
        feed: as for `map_blocks`.
        on_error: for rows with nulls or of wrong shape: ``"raise"`` or ``"skip"``.
        framework: as for `map_blocks`.

    Returns:
        A table of the key columns and the outputs, one row a key, in no certain order.

    Raises:
        ConfigurationError: it is not grouped by columns, an output has the name of a key, or outputs and parameters do
            not belong together.
        SignatureError: a parameter names no column, or a key's type cannot be compared.
        ModelOutputError: the program returns no dict of tensors, or cannot be applied to its own results.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(6).selectExpr("id % 2 AS key", "double(id) AS x")
        >>> sums = gap.aggregate(lambda x: {"x": x.sum(axis=0)}, df.groupBy("key"))
        >>> sums.orderBy("key").collect()
        [Row(key=0, x=6.0), Row(key=1, x=9.0)]
    """
    grouping = grouping_of(grouped)
    job = Job.of(program, grouping.data, feed, framework, block=True, default=without_suffix)
    pairs, outputs = algebraic(job, "aggregate")
    _check_keys(job.subject, grouping.keys, outputs)
    policy = no_nulls(on_error)
    if job.subject.local is not None:
        return _here(job, grouping.keys, outputs, pairs, policy, grouping.drop_nulls)
    return _on_spark(job, grouping.keys, outputs, pairs, policy)


def _check_keys(subject: Subject, keys: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> None:
    for key in keys:
        kind = subject.types.get(key)
        if not can_be_key(None if kind is None else plain_type(kind)):
            raise SignatureError(
                f"Column `{key}` of type {kind} cannot be a key: its values are not compared. Group by a "
                "number, text, bytes, date or time."
            )
    lower = {k.lower() for k in keys}
    clash = [s.name for s in outputs if s.name.lower() in lower]
    if clash:
        raise ConfigurationError(
            f"The program returns {', '.join(clash)}, which is a key column, too. Return it under another name, "
            f"with feed={{...}}."
        )


def _plans(
    job: Job, keys: tuple[str, ...], outputs: tuple[TensorSpec, ...], pairs: Mapping[str, str], policy: OnError
) -> tuple[TransformPlan, TransformPlan]:
    """Return the plans before and after the shuffle; columns between them are numbered, so that no names meet."""
    names = {spec.name: f"o{i}" for i, spec in enumerate(outputs)}
    before = plan_of(job, outputs, keys, Batching(), policy)
    before = replace(before, outputs=tuple(Output(s, names[s.name]) for s in outputs))
    inputs = tuple(Input(replace(s, name=pairs[s.name]), Column(names[s.name])) for s in outputs)
    after = replace(plan_of(job, outputs), inputs=inputs, keep=tuple(f"k{i}" for i in range(len(keys))))
    return before, after


def _on_spark(
    job: Job, keys: tuple[str, ...], outputs: tuple[TensorSpec, ...], pairs: Mapping[str, str], policy: OnError
) -> Any:
    from pyspark.sql.types import IntegerType, StructField

    frame = job.subject.frame
    assert frame is not None
    before, after = _plans(job, keys, outputs, pairs, policy)
    places = [StructField(PARTITION, IntegerType()), StructField(NUMBER, IntegerType())]
    between = [StructField(short, frame.schema[k].dataType) for short, k in zip(after.keep, keys, strict=True)]
    partials = on_spark(
        before, frame, functools.partial(partial_keys, pairs=pairs), "aggregate", job, [*between, *fields(before), *places]
    )
    together = partials.repartition(*after.keep).sortWithinPartitions(*after.keep, PARTITION, NUMBER)
    final = [frame.schema[k] for k in keys]
    return on_spark(after, together, functools.partial(merged_keys, pairs=pairs), "aggregate", job, [*final, *fields(after)])


def _here(
    job: Job,
    keys: tuple[str, ...],
    outputs: tuple[TensorSpec, ...],
    pairs: Mapping[str, str],
    policy: OnError,
    drop_nulls: bool,
) -> Any:
    local = job.subject.local
    assert local is not None
    before, after = _plans(job, keys, outputs, pairs, policy)
    kinds = [plain_type(local.types[k]) for k in keys]
    short = [pa.field(s, kind) for s, kind in zip(after.keep, kinds, strict=True)]
    places = [pa.field(PARTITION, pa.int32()), pa.field(NUMBER, pa.int32())]
    between = pa.schema([*short, *encoded(before), *places])
    partials = here(before, local, functools.partial(partial_keys, pairs=pairs), between).combine_chunks()
    if partials.num_rows:
        columns = [partials.column(s).chunk(0) for s in after.keep]
        partials = partials.take(pa.array(order(*codes(columns))))
    sorted_ = Local(partials, "pyarrow", {n: partials.column(n) for n in partials.column_names}, partials.num_rows)
    final = pa.schema([*(pa.field(k, kind) for k, kind in zip(keys, kinds, strict=True)), *encoded(after)])
    table = here(after, sorted_, functools.partial(merged_keys, pairs=pairs), final)
    if drop_nulls:
        table = table.filter(_complete(table, keys))
    return local.answer(table)


def _complete(table: pa.Table, keys: tuple[str, ...]) -> Any:
    import pyarrow.compute as pc

    there = [pc.is_valid(table.column(k)) for k in keys]
    there += [
        pc.invert(pc.fill_null(pc.is_nan(table.column(k)), False)) for k in keys if pa.types.is_floating(table.column(k).type)
    ]
    return functools.reduce(pc.and_, there)
