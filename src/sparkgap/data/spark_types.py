"""Spark's types, as JSON -> the Arrow types in which Spark itself would give them, and their columns in Parquet. Pure.

Only types whose values Spark and Arrow read from Parquet alike, bit for bit, are here. Timestamps (time zones, INT96,
rebased calendars), decimals (several encodings), maps and intervals are not.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

Json = Any

_SIMPLE = {
    "boolean": pa.bool_(), "byte": pa.int8(), "short": pa.int16(), "integer": pa.int32(), "long": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "string": pa.string(), "binary": pa.binary(), "date": pa.date32(),
}  # fmt: skip
_VECTORS = ("org.apache.spark.ml.linalg.VectorUDT", "org.apache.spark.ml.linalg.MatrixUDT")


def to_arrow(kind: Json) -> pa.DataType | None:
    """Return the Arrow type of a Spark type; None for a type that only Spark may read."""
    if isinstance(kind, str):
        return _SIMPLE.get(kind)
    if kind["type"] == "udt":
        return to_arrow(kind["sqlType"]) if kind.get("class") in _VECTORS else None
    if kind["type"] == "array":
        element = to_arrow(kind["elementType"])
        return element and pa.list_(pa.field("element", element, nullable=kind["containsNull"]))
    if kind["type"] == "struct" and kind["fields"]:
        fields = [(f["name"], to_arrow(f["type"]), f["nullable"]) for f in kind["fields"]]
        if len({name.lower() for name, _, _ in fields}) < len(fields) or any(t is None for _, t, _ in fields):
            return None
        return pa.struct([pa.field(name, t, nullable=nullable) for name, t, nullable in fields])
    return None


def describe(kind: Json) -> str:
    """Return a type's short name for messages."""
    if isinstance(kind, str):
        return kind
    return str(kind.get("class") or kind["type"])


def has_date(kind: Json) -> bool:
    """Whether there are dates in a type."""
    if isinstance(kind, str):
        return kind == "date"
    if kind["type"] == "udt":
        return has_date(kind["sqlType"])
    if kind["type"] == "array":
        return has_date(kind["elementType"])
    return kind["type"] == "struct" and any(has_date(f["type"]) for f in kind["fields"])


def leaf_paths(name: str, kind: Json) -> list[tuple[str, ...]]:
    """Return the paths of the leaf columns of one column, in standard Parquet layout.

    A list is `name.list.element`; for the last part some writers say `item`, which means the same.
    """
    if isinstance(kind, str):
        return [(name,)]
    if kind["type"] == "udt":
        return leaf_paths(name, kind["sqlType"])
    if kind["type"] == "array":
        return [(name, "list", *path) for path in leaf_paths("element", kind["elementType"])]
    return [(name, *path) for field in kind["fields"] for path in leaf_paths(field["name"], field["type"])]


def same_leaves(found: list[str], wanted: list[tuple[str, ...]]) -> bool:
    """Whether the leaf columns of a file are those of a type, in order; `found` has dotted paths."""
    if len(found) != len(wanted):
        return False
    return all(path in (".".join(want), ".".join(_items(want))) for path, want in zip(found, wanted, strict=True))


def _items(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("item" if i and path[i - 1] == "list" and part == "element" else part for i, part in enumerate(path))
