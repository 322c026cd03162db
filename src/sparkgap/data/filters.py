"""Filters on columns: a small language with the meaning that Spark SQL gives it.

A comparison with null is null, and a row stays only where the filter is true. NaN equals NaN and is greater than any
other number. Expressions are frozen values; `evaluate` gives true, false or null for each row, and `possible` tells
from the least and the greatest value whether a row group or a file can hold a row that stays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

OPERATORS = ("=", "!=", "<", "<=", ">", ">=")


class Expr:
    """A filter: one of the classes below."""


@dataclass(frozen=True)
class Constant(Expr):
    """True, False or None (null) for every row."""

    value: bool | None


@dataclass(frozen=True)
class Compare(Expr):
    """`column op value`, with a value that is not null."""

    op: str
    column: str
    value: Any


@dataclass(frozen=True)
class IsNull(Expr):
    """Whether a column is null; never null itself."""

    column: str


@dataclass(frozen=True)
class In(Expr):
    """Whether a column equals one of the values, None among them perhaps."""

    column: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Not(Expr):
    """The opposite; null stays null."""

    child: Expr


@dataclass(frozen=True)
class And(Expr):
    """Both: false where one is false, else null where one is null."""

    left: Expr
    right: Expr


@dataclass(frozen=True)
class Or(Expr):
    """One of them: true where one is true, else null where one is null."""

    left: Expr
    right: Expr


@dataclass(frozen=True)
class Bounds:
    """What is known of a column in some rows; None where it is not known.

    Args:
        low: a value that no value is less than.
        high: a value that no value is greater than.
        nulls: whether there may be nulls.
        values: whether there may be values that are not null.
    """

    low: Any = None
    high: Any = None
    nulls: bool = True
    values: bool = True


def conjuncts(expr: Expr | None) -> list[Expr]:
    """Return the parts that must all hold."""
    if expr is None:
        return []
    return [*conjuncts(expr.left), *conjuncts(expr.right)] if isinstance(expr, And) else [expr]


def conjoin(parts: list[Expr]) -> Expr | None:
    """Join parts that must all hold; None where there is none."""
    return functools.reduce(And, parts) if parts else None


def columns(expr: Expr | None, *, compared: bool = False) -> frozenset[str]:
    """Return the names of the columns that a filter reads; or only of those that it compares with values."""
    if isinstance(expr, And | Or):
        return columns(expr.left, compared=compared) | columns(expr.right, compared=compared)
    if isinstance(expr, Not):
        return columns(expr.child, compared=compared)
    if isinstance(expr, Compare | In) or (isinstance(expr, IsNull) and not compared):
        return frozenset([expr.column])
    return frozenset()


def evaluate(expr: Expr, data: Mapping[str, pa.Array], rows: int) -> pa.Array:
    """Return true, false or null for each row.

    Args:
        expr: the filter.
        data: the columns that it reads, each of `rows` rows; literals take the type of their column.
        rows: number of rows.
    """
    if isinstance(expr, And):
        return pc.and_kleene(evaluate(expr.left, data, rows), evaluate(expr.right, data, rows))
    if isinstance(expr, Or):
        return pc.or_kleene(evaluate(expr.left, data, rows), evaluate(expr.right, data, rows))
    if isinstance(expr, Not):
        return pc.invert(evaluate(expr.child, data, rows))
    if isinstance(expr, Compare):
        return _compare(expr.op, data[expr.column], expr.value)
    if isinstance(expr, IsNull):
        return pc.is_null(data[expr.column])
    if isinstance(expr, In):
        return _is_in(data[expr.column], expr.values)
    if isinstance(expr, Constant):
        return pa.nulls(rows, pa.bool_()) if expr.value is None else pa.repeat(pa.scalar(expr.value), rows)
    raise TypeError(f"not a filter: {expr!r}")


_ARROW: dict[str, Callable[[Any, Any], pa.Array]] = {
    "=": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal
}  # fmt: skip


def _compare(op: str, array: pa.Array, value: Any) -> pa.Array:
    literal = pa.scalar(value, type=array.type)
    if not pa.types.is_floating(array.type):
        return _ARROW[op](array, literal)
    nan = pc.is_nan(array)
    if not math.isnan(value):
        found = _ARROW[op](array, literal)
        return pc.or_(found, nan) if op in (">", ">=") else found
    if op in ("=", ">="):
        return nan
    if op in ("<", "!="):
        return pc.invert(nan)
    everything = pc.or_(nan, pc.invert(nan))  # null where the column is
    return everything if op == "<=" else pc.invert(everything)


def _is_in(array: pa.Array, values: tuple[Any, ...]) -> pa.Array:
    known = [v for v in values if v is not None]
    if pa.types.is_floating(array.type):
        # one by one: `is_in` tells 0.0 from -0.0 and does not find NaN
        none = pc.less(array, pa.scalar(-math.inf, array.type))  # null where the column is
        hit = functools.reduce(pc.or_, [_compare("=", array, v) for v in known], none)
    else:
        hit = pc.if_else(pc.is_valid(array), pc.is_in(array, value_set=pa.array(known, type=array.type)), None)
    return hit if len(known) == len(values) else pc.if_else(hit, hit, pa.scalar(None, pa.bool_()))


def possible(expr: Expr, bounds: Callable[[str], Bounds], wanted: bool = True) -> bool:
    """Tell whether the filter can be `wanted` for any row, as far as the bounds of the columns tell."""
    if isinstance(expr, And | Or):
        sides = (possible(expr.left, bounds, wanted), possible(expr.right, bounds, wanted))
        return all(sides) if isinstance(expr, And) == wanted else any(sides)
    if isinstance(expr, Not):
        return possible(expr.child, bounds, not wanted)
    if isinstance(expr, Constant):
        return expr.value is wanted
    if isinstance(expr, IsNull):
        known = bounds(expr.column)
        return known.nulls if wanted else known.values
    if isinstance(expr, Compare):
        return _may_compare(expr.op if wanted else _OPPOSITE[expr.op], bounds(expr.column), expr.value)
    if isinstance(expr, In):
        known = bounds(expr.column)
        return known.values and (not wanted or any(_may_compare("=", known, v) for v in expr.values if v is not None))
    return True


_OPPOSITE = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


def _may_compare(op: str, known: Bounds, value: Any) -> bool:
    if not known.values:
        return False
    low, high = known.low, known.high
    if low is None or high is None or type(low) is not type(value) or type(high) is not type(value):
        return True
    if isinstance(value, float) and (op in (">", ">=", "!=") or any(map(math.isnan, (value, low, high)))):
        return True  # bounds say nothing of NaN, which is greater than any number
    return bool({"=": low <= value <= high, "!=": not low == high == value, "<": low < value, "<=": low <= value,
                 ">": high > value, ">=": high >= value}[op])  # fmt: skip
