"""Rows of equal keys: found by codes, in any order, with nulls and NaN equal to themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from sparkgap.tensors.kinds import plain

_TESTS = (
    pat.is_boolean, pat.is_integer, pat.is_floating, pat.is_string, pat.is_large_string, pat.is_binary, pat.is_large_binary,
    pat.is_date, pat.is_timestamp, pat.is_decimal, pat.is_duration,
)  # fmt: skip


def can_be_key(kind: pa.DataType | None) -> bool:
    """Whether values of a type can be compared as keys."""
    return kind is not None and any(test(kind) for test in _TESTS)


def normal(column: pa.Array) -> pa.Array:
    """Return keys with one zero and one NaN, as Spark groups them."""
    column = plain(column)
    if not pat.is_floating(column.type):
        return column
    column = pc.if_else(pc.equal(column, pa.scalar(0.0, column.type)), pa.scalar(0.0, column.type), column)
    return pc.if_else(pc.is_nan(column), pa.scalar(float("nan"), column.type), column)


def codes(columns: Sequence[pa.Array]) -> tuple[np.ndarray, int]:
    """Return a number for each row, equal where all keys are equal, and how many numbers there may be.

    Args:
        columns: `normal` ones, of one length.
    """
    found, count = _codes(columns[0])
    for column in columns[1:]:
        more, size = _codes(column)
        _, found = np.unique(found.astype(np.int64) * size + more, return_inverse=True)
        count = int(found.max()) + 1 if len(found) else 0
    return found, count


def _codes(column: pa.Array) -> tuple[np.ndarray, int]:
    encoded = column.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy(zero_copy_only=False), len(encoded.dictionary)


def order(found: np.ndarray, count: int) -> np.ndarray:
    """Return the order that puts rows of one code together and keeps them in theirs."""
    narrow = found.astype(np.uint16) if count <= 1 << 16 else found  # sorted by radix, several times as fast
    return np.argsort(narrow, kind="stable")


def starts(found: np.ndarray) -> np.ndarray:
    """Return where each run of equal codes begins."""
    if not len(found):
        return np.empty(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(found[1:] != found[:-1]) + 1])
