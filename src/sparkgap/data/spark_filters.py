"""Filters of Spark's optimized plans, as JSON -> `filters.Expr`, where both mean the same. Pure.

Float columns: Spark also asks the statistics and dictionaries of row groups, which tell 0.0 from -0.0 and may not know
NaN (seen with Spark 4.3: `x = 0.0` finds no -0.0, unless its push-down of filters is off). So comparisons with zero and
with NaN are left to Spark.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparkgap.data.filters import And, Compare, Constant, Expr, In, IsNull, Not, Or

_PREFIX = "org.apache.spark.sql.catalyst.expressions."
_OPERATORS = {"EqualTo": "=", "LessThan": "<", "LessThanOrEqual": "<=", "GreaterThan": ">", "GreaterThanOrEqual": ">="}
_MIRRORED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_INTEGERS = ("byte", "short", "integer", "long")
_COMPARED = (*_INTEGERS, "date", "float", "double", "string", "boolean")


class NotSame(Exception):
    """Spark's answer could be another one; the message says why. Control flow: it never reaches a user."""


@dataclass(frozen=True)
class Tree:
    """A node of an expression with its children."""

    kind: str
    fields: Mapping[str, Any]
    children: tuple[Tree, ...] = field(default=())


def translate(nodes: list[dict[str, Any]], known: Mapping[int, str], kinds: Mapping[str, Any]) -> Expr:
    """Translate a condition.

    Args:
        nodes: the tree in prefix order, as `TreeNode.toJSON` writes it.
        known: expression id -> column of the files.
        kinds: column of the files -> Spark type, as JSON.

    Raises:
        NotSame: there is something in it that is not known to mean the same.
    """
    tree, rest = _tree(nodes)
    if rest:
        raise NotSame("a filter cannot be read")
    return _expr(tree, known, kinds)


def _tree(nodes: list[dict[str, Any]]) -> tuple[Tree, list[dict[str, Any]]]:
    head, rest = nodes[0], nodes[1:]
    children = []
    for _ in range(head["num-children"]):
        child, rest = _tree(rest)
        children.append(child)
    return Tree(head["class"].removeprefix(_PREFIX), head, tuple(children)), rest


def _expr(tree: Tree, known: Mapping[int, str], kinds: Mapping[str, Any]) -> Expr:
    if tree.kind in ("And", "Or"):
        left, right = (_expr(child, known, kinds) for child in tree.children)
        return And(left, right) if tree.kind == "And" else Or(left, right)
    if tree.kind == "Not":
        return Not(_expr(tree.children[0], known, kinds))
    if tree.kind in ("IsNull", "IsNotNull"):
        null = IsNull(_attribute(tree.children[0], known))
        return null if tree.kind == "IsNull" else Not(null)
    if tree.kind == "AttributeReference":
        return Compare("=", _attribute(tree, known), True)
    if tree.kind == "Literal" and tree.fields["dataType"] == "boolean":
        return Constant(_literal(tree.fields["value"], "boolean"))
    if tree.kind in ("In", "InSet"):
        return _in(tree, known, kinds)
    if tree.kind in _OPERATORS:
        return _compare(tree, known, kinds)
    raise NotSame(f"a filter uses {tree.kind.rpartition('.')[2]}")


def _compare(tree: Tree, known: Mapping[int, str], kinds: Mapping[str, Any]) -> Expr:
    left, right = tree.children
    op = _OPERATORS[tree.kind]
    if left.kind == "Literal":
        left, right, op = right, left, _MIRRORED[op]
    column = _attribute(left, known)
    kind = _comparable(column, kinds)
    if right.kind != "Literal" or right.fields["dataType"] != kind:
        raise NotSame(f"a filter compares {column} with something that is not a plain value of its type")
    value = _literal(right.fields["value"], kind)
    if value is None:
        return Constant(None)
    _check_float(column, value)
    return Compare(op, column, value)


def _in(tree: Tree, known: Mapping[int, str], kinds: Mapping[str, Any]) -> Expr:
    column = _attribute(tree.children[0], known)
    kind = _comparable(column, kinds)
    if tree.kind == "In":
        if any(c.kind != "Literal" or c.fields["dataType"] != kind for c in tree.children[1:]):
            raise NotSame(f"a filter compares {column} with something that is not a plain value of its type")
        raw = [c.fields["value"] for c in tree.children[1:]]
    else:
        raw = tree.fields["hset"]
    values = tuple(_literal(v, kind) for v in raw)
    for value in values:
        _check_float(column, value)
    return In(column, values)


def _attribute(tree: Tree, known: Mapping[int, str]) -> str:
    if tree.kind != "AttributeReference":
        raise NotSame(f"a filter uses {tree.kind.rpartition('.')[2]}")
    column = known.get(tree.fields["exprId"]["id"])
    if column is None:
        raise NotSame(f"a filter uses the hidden column {tree.fields['name']}")
    return column


def _comparable(column: str, kinds: Mapping[str, Any]) -> str:
    kind = kinds[column]
    if not isinstance(kind, str) or kind not in _COMPARED:
        raise NotSame(f"a filter compares {column}, which is {kind if isinstance(kind, str) else kind['type']}")
    return kind


def _check_float(column: str, value: Any) -> None:
    if isinstance(value, float) and (value == 0 or math.isnan(value)):
        raise NotSame(f"a filter compares {column}, a float column, with zero or NaN")


def _literal(text: Any, kind: str) -> Any:
    """Read the value of a literal, which JSON has as text."""
    if text is None:
        return None
    if kind == "boolean":
        return {"true": True, "false": False}[text]
    if kind in _INTEGERS:
        return int(text)
    if kind == "date":
        return _date(text)
    if kind == "float":
        return float(np.float32(text))
    return float(text) if kind == "double" else text


def _date(text: str) -> datetime.date:
    """Read a date as a Literal has it, or as a set has it: days since 1970."""
    try:
        if text.lstrip("-").isdigit():
            return datetime.date(1970, 1, 1) + datetime.timedelta(days=int(text))
        return datetime.date.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise NotSame(f"a filter has a date that Python does not know: {text}") from error
