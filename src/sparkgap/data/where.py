"""The `where=` of `gap.files`: lists of tuples, as pandas and pyarrow write filters -> `filters.Expr`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap._errors import ConfigurationError
from sparkgap.data import filters
from sparkgap.data.filters import And, Compare, Expr, In, IsNull, Not, Or

if TYPE_CHECKING:
    from pyspark.sql import Column

Where = Sequence[tuple[Any, ...]] | Sequence[Sequence[tuple[Any, ...]]]

_FORM = (
    'Write where=[("column", ">", 3), …] (all must hold) or a list of such lists (one must hold); operators: '
    "=, !=, <, <=, >, >=, in, not in, is null, is not null."
)
_SPARK = {
    pa.bool_(): "boolean", pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint",
    pa.uint8(): "smallint", pa.uint16(): "int", pa.uint32(): "bigint", pa.float32(): "float", pa.float64(): "double",
    pa.string(): "string", pa.large_string(): "string", pa.binary(): "binary", pa.large_binary(): "binary",
    pa.date32(): "date",
}  # fmt: skip


def parse(where: Where | None, schema: pa.Schema) -> Expr | None:
    """Turn a filter into an expression over these columns.

    Raises:
        ConfigurationError: the form is wrong, there is no such column, or a value does not fit its column.
    """
    if where is None:
        return None
    if isinstance(where, str | bytes) or not isinstance(where, Sequence):
        raise ConfigurationError(f"where is {where!r}. {_FORM}")
    if all(isinstance(item, tuple) for item in where):
        return _all(where, schema)
    if not all(isinstance(item, list) and item for item in where):
        raise ConfigurationError(f"where is {where!r}. {_FORM}")
    return functools.reduce(Or, [e for group in where if (e := _all(group, schema)) is not None])


def _all(terms: Sequence[Any], schema: pa.Schema) -> Expr | None:
    return filters.conjoin([_term(term, schema) for term in terms])


def _term(term: Any, schema: pa.Schema) -> Expr:
    if not isinstance(term, tuple) or not 2 <= len(term) <= 3 or not all(isinstance(t, str) for t in term[:2]):
        raise ConfigurationError(f"where has {term!r}. {_FORM}")
    column, op = term[0], " ".join(term[1].lower().split())
    if schema.get_field_index(column) < 0:
        raise ConfigurationError(f"where names the column {column!r}; the files have: {', '.join(schema.names)}.")
    kind = schema.field(column).type
    if len(term) == 2 and op in ("is null", "is not null"):
        return IsNull(column) if op == "is null" else Not(IsNull(column))
    if kind not in _SPARK:
        raise ConfigurationError(f"where cannot compare the column {column!r} of type {kind}; only is (not) null works.")
    if len(term) == 3 and op in ("in", "not in"):
        found = In(column, tuple(_literal(v, column, kind) for v in _values(term)))
        return found if op == "in" else Not(found)
    op = "=" if op == "==" else op
    if len(term) != 3 or op not in filters.OPERATORS:
        raise ConfigurationError(f"where has {term!r}. {_FORM}")
    return Compare(op, column, _literal(term[2], column, kind))


def _values(term: tuple[Any, ...]) -> Sequence[Any]:
    if isinstance(term[2], str | bytes) or not hasattr(term[2], "__iter__"):
        raise ConfigurationError(f"where has {term!r}: {term[1]!r} wants a list of values.")
    return list(term[2])


def _literal(value: Any, column: str, kind: pa.DataType) -> Any:
    """Give a value the type of its column, without loss: for float32 columns the nearest float32."""
    if value is None:
        raise ConfigurationError(
            f"where compares {column!r} with None, which is never true. Use ({column!r}, 'is null') or 'is not null'."
        )
    try:
        typed = pa.scalar(value.item() if hasattr(value, "item") else value, type=kind).as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"where compares {column!r} of type {kind} with {value!r}, which does not fit it: {error}."
        ) from error
    if not pa.types.is_floating(kind) and typed != value:
        raise ConfigurationError(f"where compares {column!r} of type {kind} with {value!r}, which is not such a value.")
    return typed


def to_column(expr: Expr, schema: pa.Schema) -> Column:
    """Return the same filter as a Spark column."""
    from pyspark.sql import functions as F

    if isinstance(expr, And):
        return to_column(expr.left, schema) & to_column(expr.right, schema)
    if isinstance(expr, Or):
        return to_column(expr.left, schema) | to_column(expr.right, schema)
    if isinstance(expr, Not):
        return ~to_column(expr.child, schema)
    if isinstance(expr, IsNull):
        return quoted(expr.column).isNull()
    if isinstance(expr, Compare | In):
        # Literals get the column's type, or Spark would compare float columns as doubles.
        left, name = quoted(expr.column), _SPARK[schema.field(expr.column).type]
        if isinstance(expr, In):
            return left.isin([F.lit(v).cast(name) for v in expr.values])
        right = F.lit(expr.value).cast(name)
        return {
            "=": left.__eq__, "!=": left.__ne__, "<": left.__lt__, "<=": left.__le__, ">": left.__gt__, ">=": left.__ge__
        }[expr.op](right)  # fmt: skip
    raise TypeError(f"not a filter of gap.files: {expr!r}")


def quoted(name: str) -> Column:
    """Return a Spark column by its exact name, dots and all."""
    from pyspark.sql import functions as F

    return F.col(f"`{name.replace('`', '``')}`")
