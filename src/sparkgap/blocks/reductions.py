"""`reduce_blocks` and `reduce_rows`: a table becomes one tensor a column, here on the driver."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.blocks.algebra import algebraic, columns_of_pairs, pair_outputs, without_suffix
from sparkgap.blocks.cells import as_cell
from sparkgap.blocks.job import Job
from sparkgap.blocks.reducing import PARTITION, WIDTH, Reducer, partial_blocks, partial_rows
from sparkgap.blocks.running import encoded, fields, here, on_spark, plan_of
from sparkgap.blocks.tree import Tree
from sparkgap.embedded.options import Batching, OnError
from sparkgap.embedded.plan import TransformPlan
from sparkgap.embedded.worker import Work
from sparkgap.models import cache
from sparkgap.models.base import Runtime
from sparkgap.tensors.casts import numpy_dtype
from sparkgap.tensors.columns import Column
from sparkgap.tensors.spec import Block


def reduce_blocks(
    program: Any,
    data: Any,
    *,
    feed: Mapping[str, Any] | None = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    framework: str | None = None,
) -> dict[str, np.ndarray]:
    """Reduce columns to one cell each: a program is applied to blocks of rows, and again to what it made of them.

    Parameter ``x`` gets many cells of column x, stacked, and output ``x`` is one such cell: ``{"x": x.sum(axis=0)}``. The
    program must give the same whatever the blocks are, as sums, minima and products do, and means do not. Runs now. Blocks
    are reduced where they lie, and the partial results in a tree that is fixed by the number of partitions and their
    blocks: two runs over the same partitions give the same bits.

    Args:
        program: as for `map_blocks`. A parameter may also be named ``x_input`` for column and output ``x``.
        data: as for `map_blocks`. Columns that the program does not name do not matter.
        feed: as for `map_blocks`.
        batch_size: rows of a block.
        on_error: for rows with nulls or of wrong shape: ``"raise"`` or ``"skip"``.
        framework: as for `map_blocks`.

    Returns:
        Output -> its one cell, an ndarray (of no axes for a scalar). Where there are no rows: what the program makes of
        none, e.g. zeros of a sum.

    Raises:
        ConfigurationError: the outputs are not named as the parameters, or an option is wrong.
        SignatureError: a parameter names no column.
        ModelOutputError: the program returns no dict of tensors, or cannot be applied to its own results.
        DataError: there are no rows, and the program gives nothing for none; or it failed on a block.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(5).selectExpr("double(id) AS x")
        >>> float(gap.reduce_blocks(lambda x: {"x": x.sum(axis=0)}, df)["x"])
        10.0
    """
    job = Job.of(program, data, feed, framework, block=True, default=without_suffix)
    pairs, outputs = algebraic(job, "reduce_blocks")
    plan = plan_of(job, outputs, (), Batching.of(batch_size), no_nulls(on_error))
    partials = _partials(job, plan, functools.partial(partial_blocks, pairs=pairs), "reduce_blocks")
    reducer = Reducer(cache.open_model(plan.model, Runtime("cpu", 1)), outputs, pairs)
    tree: Tree[Block] = Tree(reducer.cells, WIDTH)
    return _result(partials, tree) or _of_nothing(job, reducer)


def reduce_rows(
    pair_function: Any, data: Any, *, on_error: str | OnError = "raise", framework: str | None = None
) -> dict[str, np.ndarray]:
    """Reduce columns to one cell each with a function of two rows.

    For output ``x`` the function has the parameters ``x_1`` and ``x_2``: one cell of column x each, or what it has made of
    several. It must be associative; rows meet their neighbours, so it need not be commutative. Runs now, and calls Python
    once a row: `reduce_blocks` is faster. Cells may differ in shape. The order is fixed as for `reduce_blocks`.

    Args:
        pair_function: ``lambda x_1, x_2: {"x": x_1 + x_2}``.
        data: as for `map_blocks`. Columns that the function does not name do not matter.
        on_error: for rows with nulls: ``"raise"`` or ``"skip"``.
        framework: as for `map_blocks`.

    Returns:
        Output -> its one cell, an ndarray (of no axes for a scalar).

    Raises:
        ConfigurationError: parameters and outputs do not belong together.
        SignatureError: there is no such column.
        ModelOutputError: the function returns no dict of tensors, or cannot be applied to its own results.
        DataError: there are no rows, or the function failed on two of them.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(5).selectExpr("double(id) AS x")
        >>> float(gap.reduce_rows(lambda x_1, x_2: {"x": x_1 + x_2}, df)["x"])
        10.0
    """
    job = Job.of(pair_function, data, None, framework, block=False, default=columns_of_pairs)
    outputs = pair_outputs(job)
    plan = plan_of(job, outputs, (), Batching(), no_nulls(on_error))
    partials = _partials(job, plan, partial_rows, "reduce_rows")
    reducer = Reducer(cache.open_model(plan.model, Runtime("cpu", 1)), outputs, {})
    found = _result(partials, Tree(reducer.pair, 2))
    if found is None:
        raise DataError(
            "reduce_rows has no row to begin with: the table is empty. Use gap.reduce_blocks, which knows what none gives."
        )
    return found


def no_nulls(on_error: str | OnError) -> OnError:
    """Return the policy of a reduction.

    Raises:
        ConfigurationError: it is ``"null"``: a reduction has no row to keep.
    """
    policy = OnError.of(on_error)
    if policy.policy == "null":
        raise ConfigurationError("A reduction keeps no rows, so on_error is 'raise' or 'skip'; got 'null'.")
    return policy


def _partials(job: Job, plan: TransformPlan, work: Work, verb: str) -> list[Block]:
    """Run the first part of a reduction, and return the results of the partitions in order."""
    schema = pa.schema([pa.field(PARTITION, pa.int32()), *encoded(plan)])
    if job.subject.local is not None:
        table = here(plan, job.subject.local, work, schema)
    else:
        from pyspark.sql.types import IntegerType, StructField

        assert job.subject.frame is not None
        columns = [StructField(PARTITION, IntegerType()), *fields(plan)]
        table = on_spark(plan, job.subject.frame, work, verb, job, columns).toArrow().sort_by(PARTITION)
    decoders = {o.column: (Column(o.column), o.spec) for o in plan.outputs}
    rows = (table.slice(i, 1).combine_chunks().to_batches()[0] for i in range(table.num_rows))
    return [{name: decoder.decode(row, spec)[0] for name, (decoder, spec) in decoders.items()} for row in rows]


def _result(partials: list[Block], tree: Tree[Block]) -> dict[str, np.ndarray] | None:
    for cell in partials:
        tree.add(cell)
    found = tree.result()
    return None if found is None else {name: as_cell(value) for name, value in found.items()}


def _of_nothing(job: Job, reducer: Reducer) -> dict[str, np.ndarray]:
    """Return what a program makes of no rows."""
    open_ = [i.spec.name for i in job.inputs if not i.spec.fixed]
    if open_:
        raise DataError(
            f"The table has no rows, and the length of the cells for {', '.join(open_)} is not known, so neither is the "
            "result. Tell it with gap.append_shape."
        )
    block = {
        i.spec.name: np.empty((0, *(d or 0 for d in i.spec.shape or ())), numpy_dtype(i.spec.dtype or "")) for i in job.inputs
    }
    return {name: as_cell(a) for name, a in reducer.block(block, "a block of no rows, as the table is empty").items()}
