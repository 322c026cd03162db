"""Whether columns of some type can feed a tensor at all: the checks of the driver, and what to do instead."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.types as pat

from sparkgap._errors import SignatureError
from sparkgap.tensors.casts import castable, kind
from sparkgap.tensors.kinds import dtype_of, leaf_type, plain_type, row_shape
from sparkgap.tensors.spec import Dim, TensorSpec
from sparkgap.tensors.vectors import is_vector


def refusal(column: str, arrow: pa.DataType, spec: TensorSpec, fact: str, remedy: str) -> SignatureError:
    """Return the error that a column cannot feed a tensor."""
    return SignatureError(
        f"Column `{column}` (Arrow type {arrow}) cannot feed tensor `{spec.name}` ({spec.describe()}): {fact}. {remedy}"
    )


def column_type(column: str, types: Mapping[str, pa.DataType], spec: TensorSpec) -> pa.DataType:
    """Return the plain type of a column.

    Raises:
        SignatureError: there is no such column.
    """
    if column not in types:
        raise SignatureError(
            f"There is no column `{column}` to feed tensor `{spec.name}` ({spec.describe()}). "
            f"The columns are: {', '.join(types) or 'none'}."
        )
    return plain_type(types[column])


def natural(column: str, arrow: pa.DataType, spec: TensorSpec) -> TensorSpec:
    """Return the tensor that a column is by itself.

    Raises:
        SignatureError: its values are nothing that a tensor holds; says the SQL that makes them so.
    """
    if is_vector(arrow):
        return TensorSpec(spec.name, "float64", (None,))
    dtype = dtype_of(arrow)
    if dtype is None:
        leaf = leaf_type(arrow)
        raise refusal(column, arrow, spec, f"a tensor holds no {leaf} values", _remedy(column, leaf, leaf != arrow))
    return TensorSpec(spec.name, dtype, row_shape(arrow))


def fit_dtype(column: str, arrow: pa.DataType, found: TensorSpec, spec: TensorSpec) -> None:
    """Raise SignatureError where values of the dtype found never go into the spec's without loss."""
    assert found.dtype is not None
    if spec.dtype is None or castable(found.dtype, spec.dtype):
        return
    if (found.dtype, spec.dtype) == ("str", "bytes"):
        return  # as UTF-8
    fact = f"{found.dtype} values do not become {spec.dtype} without loss"
    raise refusal(column, arrow, spec, fact, _conversion(column, found, spec.dtype))


def fit_shape(column: str, arrow: pa.DataType, found: TensorSpec, spec: TensorSpec) -> TensorSpec:
    """Complete the spec's shape by the one found; rows of rank 0 and 1 may be reshaped to a fixed shape.

    Raises:
        SignatureError: rank or lengths differ.
    """
    assert found.shape is not None
    if spec.shape is None or len(spec.shape) == len(found.shape):
        if spec.shape is not None and not _agree(spec.shape, found.shape):
            raise refusal(
                column,
                arrow,
                spec,
                f"a row has shape {found.shape}",
                "Change the column, or the model's input, so that the lengths agree.",
            )
        return spec.merge(found)
    if reshaped(found.shape, spec) is None:
        raise refusal(column, arrow, spec, *_rank(column, found.shape, spec))
    return replace(spec, dtype=spec.dtype or found.dtype)


def reshaped(shape: tuple[Dim, ...], spec: TensorSpec) -> tuple[Dim, ...] | None:
    """Return the row shape to ask of a column, before reshaping to the spec; None where none will do.

    A scalar column can feed any shape of one element, a column of flat lists any fixed shape of higher rank.
    """
    if spec.shape is None or len(spec.shape) == len(shape):
        return shape if spec.shape is None else spec.shape
    if not spec.fixed or len(spec.shape) < len(shape) or len(shape) > 1:
        return None
    size = math.prod(d or 0 for d in spec.shape)
    if shape == ():
        return () if size == 1 else None
    return (size,) if shape[0] in (None, size) else None


def _agree(one: tuple[Dim, ...], other: tuple[Dim, ...]) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _rank(column: str, shape: tuple[Dim, ...], spec: TensorSpec) -> tuple[str, str]:
    assert spec.shape is not None
    if shape == ():
        return (
            "a row has one value",
            f'Pass a list of scalar columns, ["{column}", ...], or an array column, array({column}, ...).',
        )
    text = "(" + ", ".join("?" if d is None else str(d) for d in shape) + ")"
    if len(shape) == 1 and len(spec.shape) > 1 and not spec.fixed:
        return (
            f"a row has shape {text}, and rows are reshaped only where all lengths are known",
            "Give the model's full row shape in its signature, or nest the column's arrays.",
        )
    return (
        f"a row has shape {text}, of rank {len(shape)} where the tensor has {len(spec.shape)}",
        "Nest or flatten() the column's arrays, or change the model's input.",
    )


def _conversion(column: str, found: TensorSpec, want: str) -> str:
    """Say how to turn values of one dtype into another on purpose."""
    assert found.dtype is not None
    if kind(want) == "bool":
        return f"Make them boolean first, e.g. {_each(column, found, '{} != 0')}."
    if found.dtype == "bytes" and want == "str":
        return f"If they are UTF-8 text: {_sql(column, 'STRING', bool(found.shape))}."
    if found.dtype == "bytes":
        return "For raw numbers use Raw(column, dtype, shape), for pictures image(column)."
    if want == "bytes":
        return f"Convert them on purpose, e.g. to text first: {_sql(column, 'STRING', bool(found.shape))}."
    sql = {"float": "DOUBLE", "int": "BIGINT"}.get(kind(want), "STRING")
    return f"Convert them on purpose: {_sql(column, sql, bool(found.shape))}."


def _each(column: str, found: TensorSpec, expression: str) -> str:
    if found.shape:
        return f"transform({column}, v -> {expression.format('v')})"
    return expression.format(column)


def _sql(column: str, target: str, nested: bool) -> str:
    return f"CAST({column} AS ARRAY<{target}>)" if nested else f"CAST({column} AS {target})"


def _remedy(column: str, leaf: pa.DataType, nested: bool) -> str:
    """Say how a column of values that no tensor holds becomes one of numbers."""
    if pat.is_decimal(leaf):
        return f"Cast it: {_sql(column, 'DOUBLE', nested)}."
    value = "v" if nested else column
    if pat.is_timestamp(leaf):
        zoned = value if leaf.tz is not None else f"CAST({value} AS TIMESTAMP)"
        number = f"CAST({zoned} AS DOUBLE)"
    elif pat.is_date(leaf):
        number = f"unix_date({value})"
    elif pat.is_duration(leaf):
        number = f"unix_micros(TIMESTAMP '1970-01-01 00:00:00Z' + {value})"
    elif pat.is_time(leaf):
        number = f"EXTRACT(HOUR FROM {value})"
    elif pat.is_interval(leaf):
        number = f"EXTRACT(MONTH FROM {value})"
    elif pat.is_map(leaf):
        return f"Take its parts: {column}['key'] for one value, map_values({column}) for an array."
    elif pat.is_struct(leaf):
        first = leaf.field(0).name if leaf.num_fields else "field"
        return (
            f"Take its fields as columns of their own ({column}.{first}, ...) and pass a list of them; "
            "for Spark's image struct use image(column)."
        )
    elif pat.is_null(leaf):
        return f"All of it is null; give it a type: {_sql(column, 'FLOAT', nested)}."
    else:
        return f"Cast it: {_sql(column, 'DOUBLE', nested)}."
    return f"Make numbers of it: {f'transform({column}, v -> {number})' if nested else number}."
