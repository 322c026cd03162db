"""Shapes of cells: found by `analyze`, declared by `append_shape`, shown by `print_schema`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap.blocks.local import Local
from sparkgap.blocks.subject import Subject
from sparkgap.embedded.metadata import with_shape
from sparkgap.tensors.columns import Column
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import dtype_of, plain_type, row_shape
from sparkgap.tensors.spec import Dim, TensorSpec
from sparkgap.tensors.vectors import is_vector

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn


def analyze(data: Any) -> Any:
    """Find the shapes of the cells of arrays and vectors, and keep them in the metadata of the columns.

    Columns whose metadata tell a shape already are not looked at, and where that is all of them nothing runs: shapes come
    with the results of `map_blocks`, and survive select, rename, persist and Parquet. Else one pass over the data, in
    Spark's own expressions. Shapes are used by the other verbs, which without them look at a row.

    Args:
        data: a Spark DataFrame. A table of this process is given back as it is: its shapes are seen when it is worked on.

    Returns:
        The same rows, with shapes: a length is known where all cells have it.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(4).selectExpr("array(1.0D, double(id)) AS x")
        >>> gap.print_schema(gap.analyze(df))
        x  array<double>  float64[?,2]
    """
    subject = Subject.of(data)
    if subject.frame is None:
        return data
    unknown = {n: t for n, t in subject.types.items() if n not in subject.shapes and _rank(t)}
    if not unknown:
        return subject.frame
    from pyspark.sql import functions as F

    frame = subject.frame
    measures = {name: _lengths(F.col(f"`{name.replace('`', '``')}`"), kind) for name, kind in unknown.items()}
    flat = [column for levels in measures.values() for pair in levels for column in pair]
    row = frame.agg(*[c.alias(f"m{i}") for i, c in enumerate(flat)]).first()
    found = iter(() if row is None else tuple(row))
    for name, levels in measures.items():
        ends = [(next(found), next(found)) for _ in levels]
        shape = [None if low is None or low != high else int(low) for low, high in ends]
        frame = frame.withMetadata(name, with_shape(subject.frame.schema[name].metadata, shape, told=True))
    return frame


def _rank(kind: pa.DataType | None) -> int:
    """Return the rank of the cells of a column; 0 for scalars and for what is no tensor."""
    if kind is None:
        return 0
    kind = plain_type(kind)
    return 1 if is_vector(kind) else len(row_shape(kind)) if dtype_of(kind) is not None else 0


def _lengths(column: SparkColumn, kind: pa.DataType) -> list[tuple[SparkColumn, SparkColumn]]:
    """Return the shortest and the longest list at each level of nesting, as aggregates."""
    from pyspark.sql import functions as F

    if is_vector(plain_type(kind)):
        parts = F.unwrap_udt(column)
        size = F.when(parts["type"] == 0, parts["size"]).otherwise(F.size(parts["values"]))
        return [(F.min(size), F.max(size))]
    return [
        (F.min(_extreme(column, level, F.array_min)), F.max(_extreme(column, level, F.array_max)))
        for level in range(_rank(kind))
    ]


def _extreme(column: SparkColumn, level: int, pick: Callable[[SparkColumn], SparkColumn]) -> SparkColumn:
    from pyspark.sql import functions as F

    if level == 0:
        return F.when(column.isNotNull(), F.size(column))
    return pick(F.transform(column, lambda item: _extreme(item, level - 1, pick)))


def append_shape(data: Any, column: str, shape: Sequence[Dim]) -> Any:
    """Declare the shape of the cells of a column, so that nobody has to look. Lazy: nothing runs on Spark.

    A cell of another shape is an error when it is met (or a null or a skipped row, by `on_error`).

    Args:
        data: a Spark DataFrame; of a table of this process the cells are checked here and now.
        column: an array or vector column, or a scalar one, whose shape is ``()``.
        shape: the lengths of one cell, as many as the column has ranks; None or -1 where it differs from row to row.

    Returns:
        The same rows, with the shape.

    Raises:
        SignatureError: there is no such column, it holds no tensors, or is of another rank.
        DataError: a table of this process has cells of another shape.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(4).selectExpr("array(1.0D, double(id)) AS x")
        >>> gap.print_schema(gap.append_shape(df, "x", [2]))
        x  array<double>  float64[?,2]
    """
    subject = Subject.of(data)
    wanted = _wanted(subject, column, shape)
    if subject.local is not None:
        _check(subject.local, column, wanted)
        return data
    assert subject.frame is not None
    if not wanted:
        return subject.frame
    metadata = with_shape(subject.frame.schema[column].metadata, wanted, told=True)
    return subject.frame.withMetadata(column, metadata)


def _wanted(subject: Subject, column: str, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    if column not in subject.types:
        raise SignatureError(f"There is no column `{column}`; the columns are {', '.join(subject.types) or 'none'}.")
    bad = [d for d in shape if d is not None and (isinstance(d, bool) or not isinstance(d, int | np.integer) or d < -1)]
    if bad:
        raise ConfigurationError(
            f"append_shape got {list(shape)!r}; each length is an int >= 0, or None (or -1) where it is open."
        )
    kind = subject.types[column]
    if kind is None or (dtype_of(kind) is None and not is_vector(plain_type(kind))):
        raise SignatureError(f"Column `{column}` (Arrow type {kind}) holds no tensors, so it has no shape. Cast it first.")
    if len(shape) != _rank(kind):
        raise SignatureError(
            f"append_shape got {list(shape)!r} for column `{column}`, whose cells have rank {_rank(kind)} "
            f"({kind}). Give one length a rank, and none for the rows."
        )
    return tuple(None if d is None or d < 0 else int(d) for d in shape)


def _check(local: Local, column: str, shape: tuple[Dim, ...]) -> None:
    for batch in local.batches([column]):
        named = pa.RecordBatch.from_arrays(batch.columns, names=[column])
        try:
            Column(column).decode(named, TensorSpec(column, None, shape))
        except BadRows as bad:
            row, why = next(iter(bad.reasons.items()))
            raise DataError(
                f"Column `{column}` is not of shape {list(shape)} a row: row {row} {why}. Correct the shape."
            ) from bad
        except RaggedRows:
            continue  # of lengths that the shape leaves open


def print_schema(data: Any) -> None:
    """Print the columns of a table, a line each: name, type, and the tensor that a block of it is.

    The first length of a tensor is the number of rows, which is never known; ``?`` is a length that is not, and
    ``no tensor`` a column that no program can take.

    Args:
        data: a Spark DataFrame, or a table of pandas, Arrow or polars.
    """
    subject = Subject.of(data)
    rows = [(name, _type_text(subject, name), _tensor_text(subject, name)) for name in subject.types]
    widths = [max((len(r[i]) for r in rows), default=0) for i in range(2)]
    for name, kind, tensor in rows:
        print(f"{name:{widths[0]}}  {kind:{widths[1]}}  {tensor}")


def _type_text(subject: Subject, name: str) -> str:
    if subject.frame is not None:
        return str(subject.frame.schema[name].dataType.simpleString())
    return str(subject.types[name] or "object")


def _tensor_text(subject: Subject, name: str) -> str:
    kind = subject.types[name]
    vector = kind is not None and is_vector(plain_type(kind))
    dtype = "float64" if vector else None if kind is None else dtype_of(kind)
    if kind is None or dtype is None:
        return "no tensor"
    shape = subject.shapes.get(name) or ((None,) if vector else row_shape(plain_type(kind)))
    return f"{dtype}[{','.join('?' if d is None else str(d) for d in (None, *shape))}]"
