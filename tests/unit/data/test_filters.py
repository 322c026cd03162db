"""Filters against a plain Python reading of what Spark SQL says."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap.data import filters
from sparkgap.data.filters import And, Bounds, Compare, Constant, Expr, In, IsNull, Not, Or

NAN = float("nan")
FLOATS = st.sampled_from([None, NAN, -math.inf, -1.5, -0.0, 0.0, 2.0, math.inf])
INTS = st.one_of(st.none(), st.integers(-3, 3))
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "ü", "\U0001f600", "\uffff"]))
ROWS = st.lists(st.tuples(FLOATS, INTS, TEXTS), min_size=1, max_size=12)


def known(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values.filter(lambda v: v is not None)


LEAVES = st.one_of(
    st.builds(Compare, st.sampled_from(filters.OPERATORS), st.just("f"), known(FLOATS)),
    st.builds(Compare, st.sampled_from(filters.OPERATORS), st.just("i"), known(INTS)),
    st.builds(Compare, st.sampled_from(filters.OPERATORS), st.just("s"), known(TEXTS)),
    st.builds(IsNull, st.sampled_from("fis")),
    st.builds(In, st.just("f"), st.lists(FLOATS, max_size=3).map(tuple)),
    st.builds(In, st.just("i"), st.lists(INTS, max_size=3).map(tuple)),
    st.builds(In, st.just("s"), st.lists(TEXTS, max_size=3).map(tuple)),
    st.builds(Constant, st.sampled_from([True, False, None])),
)
EXPRS = st.recursive(LEAVES, lambda e: st.one_of(st.builds(And, e, e), st.builds(Or, e, e), st.builds(Not, e)), max_leaves=6)


def rank(value: Any) -> tuple[int, Any]:
    return (1, 0.0) if isinstance(value, float) and math.isnan(value) else (0, value)


def compare(op: str, a: Any, b: Any) -> bool:
    x, y = (rank(v) if isinstance(v, float) else (v.encode() if isinstance(v, str) else v) for v in (a, b))
    return {"=": x == y, "!=": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[op]


def expected(expr: Expr, row: dict[str, Any]) -> bool | None:
    if isinstance(expr, And | Or):
        sides = {expected(expr.left, row), expected(expr.right, row)}
        decisive = isinstance(expr, Or)
        return decisive if decisive in sides else (None if None in sides else not decisive)
    if isinstance(expr, Not):
        inner = expected(expr.child, row)
        return None if inner is None else not inner
    if isinstance(expr, Constant):
        return expr.value
    assert isinstance(expr, Compare | IsNull | In)
    value = row[expr.column]
    if isinstance(expr, IsNull):
        return value is None
    if isinstance(expr, Compare):
        return None if value is None else compare(expr.op, value, expr.value)
    if value is None:
        return None
    if any(v is not None and compare("=", value, v) for v in expr.values):
        return True
    return None if None in expr.values else False


def columns(rows: list[tuple[Any, ...]]) -> dict[str, pa.Array]:
    f, i, s = zip(*rows, strict=True)
    return {"f": pa.array(f, pa.float64()), "i": pa.array(i, pa.int32()), "s": pa.array(s, pa.string())}


@settings(deadline=None)
@given(EXPRS, ROWS)
def test_evaluate(expr: Expr, rows: list[tuple[Any, ...]]) -> None:
    got = filters.evaluate(expr, columns(rows), len(rows))
    assert got.type == pa.bool_()
    assert got.to_pylist() == [expected(expr, dict(zip("fis", row, strict=True))) for row in rows]


EVERY = [None, NAN, -math.inf, -1.5, -0.0, 0.0, 2.0, math.inf]


@pytest.mark.parametrize("op", filters.OPERATORS)
@pytest.mark.parametrize("value", EVERY[1:])
def test_floats(op: str, value: float) -> None:
    for kind in (pa.float32(), pa.float64()):
        got = filters.evaluate(Compare(op, "f", value), {"f": pa.array(EVERY, kind)}, len(EVERY))
        assert got.to_pylist() == [None if v is None else compare(op, v, value) for v in EVERY]
        got = filters.evaluate(In("f", (value, 5.0)), {"f": pa.array(EVERY, kind)}, len(EVERY))
        assert got.to_pylist() == [None if v is None else compare("=", v, value) for v in EVERY]


@settings(deadline=None)
@given(EXPRS, ROWS, st.booleans())
def test_possible_never_rules_out_a_row(expr: Expr, rows: list[tuple[Any, ...]], wanted: bool) -> None:
    known_bounds = {name: bounds([row[k] for row in rows]) for k, name in enumerate("fis")}
    found = filters.evaluate(expr, columns(rows), len(rows)).to_pylist()
    if wanted in found:
        assert filters.possible(expr, known_bounds.__getitem__, wanted)


def bounds(values: list[Any]) -> Bounds:
    """As writers that leave NaN out of their statistics write them."""
    there = [v for v in values if v is not None]
    plain = [v for v in there if not (isinstance(v, float) and math.isnan(v))]
    return Bounds(min(plain, default=None), max(plain, default=None), len(there) < len(values), bool(there))


@pytest.mark.parametrize(
    ("expr", "result"),
    [
        (Compare("=", "i", 5), False),
        (Compare("=", "i", 3), True),
        (Compare("<", "i", 1), False),
        (Compare("<=", "i", 1), True),
        (Compare(">", "i", 3), False),
        (Compare(">=", "i", 3), True),
        (Compare("!=", "i", 3), True),
        (In("i", (0, 9)), False),
        (In("i", (0, 2)), True),
        (IsNull("i"), False),
        (Not(IsNull("i")), True),
        (Not(Compare(">", "i", 0)), False),
        (Or(Compare("=", "i", 9), Compare("=", "i", 2)), True),
        (And(Compare("=", "i", 9), Compare("=", "i", 2)), False),
        (Constant(None), False),
        (Compare("=", "other", 1), True),
        (Compare("=", "i", 1.5), True),
        (Compare(">", "f", 9.0), True),
        (Compare("!=", "g", 2.0), True),
        (Compare("<", "f", 1.0), False),
        (Compare("=", "f", NAN), True),
        (Not(Compare("<=", "f", 9.0)), True),
    ],
)
def test_possible(expr: Expr, result: bool) -> None:
    there = {"i": Bounds(1, 3, nulls=False), "f": Bounds(1.0, 3.0), "g": Bounds(2.0, 2.0)}
    assert filters.possible(expr, lambda name: there.get(name, Bounds())) is result


def test_float32_literals_are_float32() -> None:
    data = {"f": pa.array([0.1, 0.2], pa.float32())}
    assert filters.evaluate(Compare("=", "f", 0.1), data, 2).to_pylist() == [True, False]
    assert filters.evaluate(In("f", (0.2,)), data, 2).to_pylist() == [False, True]


def test_columns_and_conjuncts() -> None:
    expr = And(And(Compare("=", "a", 1), Or(IsNull("b"), Not(In("c", (1,))))), Constant(True))
    assert filters.columns(expr) == {"a", "b", "c"}
    assert filters.columns(expr, compared=True) == {"a", "c"}
    assert len(filters.conjuncts(expr)) == 3
    assert filters.conjoin(filters.conjuncts(expr)) == expr
    assert filters.conjoin([]) is None
    assert filters.conjuncts(None) == []
