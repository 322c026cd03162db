"""What is wrong with list columns that are no tensor as they are: nulls, wrong and unequal lengths.

Runs only after the fast way has met something odd; says it of every row at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.kinds import plain
from sparkgap.tensors.spec import Dim

_ANY = -1  # the length of lists that a row has none of


def raise_why(array: pa.Array, shape: tuple[Dim, ...], nulls: str, check: Callable[[pa.Array], object]) -> NoReturn:
    """Raise what keeps the rows of an array from being one tensor.

    Args:
        array: lists nested as deep as `shape` is long.
        shape: wanted row shape; None for any length.
        nulls: ``"nan"`` where null values are fine.
        check: raises BadRows for wrong entries of the array of values below all lists.

    Raises:
        BadRows: some rows are null, have nulls, are not rectangular or have a length that `shape` forbids.
        RaggedRows: none is, and their lengths differ.
    """
    reasons: dict[int, str] = {}
    dims = np.zeros((len(array), len(shape)), np.int64)
    counts = np.ones(len(array), np.int64)  # entries of `level` that belong to each row
    level = array
    for depth in range(len(shape)):
        _name_nulls(level, counts, dims[:, :depth], reasons)
        lengths = list_lengths(level)
        low = _per_row(np.minimum, lengths, counts, _ANY)
        high = _per_row(np.maximum, lengths, counts, _ANY)
        for row in np.flatnonzero(low != high).tolist():
            text = f"is not rectangular: its inner lists have {low[row]} to {high[row]} elements"
            reasons.setdefault(row, text)
        dims[:, depth] = low
        counts = _per_row(np.add, lengths, counts, 0)
        level = plain(level.flatten())
    if nulls == "error":
        _name_nulls(level, counts, dims, reasons)
    try:
        check(level)
    except BadRows as bad:
        rows = np.repeat(np.arange(len(array)), counts)
        for entry in sorted(bad.reasons):
            reasons.setdefault(int(rows[entry]), bad.reasons[entry])
    raise_shapes(dims, shape, reasons)


def raise_shapes(dims: np.ndarray, shape: tuple[Dim, ...], reasons: dict[int, str]) -> NoReturn:
    """Raise BadRows for rows of forbidden shapes and for `reasons`, else RaggedRows.

    Args:
        dims: the shape of each row, one row each.
        shape: wanted row shape.
        reasons: what is known of bad rows by now; it goes first.
    """
    wrong = np.zeros(len(dims), bool)
    for depth, want in enumerate(shape):
        if want is not None:
            wrong |= (dims[:, depth] != want) & (dims[:, depth] != _ANY)
    for row in np.flatnonzero(wrong).tolist():
        reasons.setdefault(row, _mismatch(dims[row].tolist(), shape))
    if reasons:
        raise BadRows(dict(sorted(reasons.items())))
    default = np.array([want or 0 for want in shape], np.int64)
    raise RaggedRows([tuple(row) for row in np.where(dims == _ANY, default, dims).tolist()])


def list_lengths(array: pa.Array) -> np.ndarray:
    """Return the number of elements of each list; 0 for a null one, as `flatten` has it."""
    if pat.is_fixed_size_list(array.type):
        lengths = np.full(len(array), array.type.list_size, np.int64)
    else:
        lengths = np.diff(array.offsets.to_numpy()).astype(np.int64)
    if array.null_count:
        lengths[np.asarray(array.is_null())] = 0
    return lengths


def _mismatch(dims: list[int], shape: tuple[Dim, ...]) -> str:
    if len(shape) == 1:
        return f"has {dims[0]} elements, expected {shape[0]}"
    return f"has shape {_text([None if d == _ANY else d for d in dims])}, expected {_text(shape)}"


def _text(dims: list[Dim] | tuple[Dim, ...]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


def _per_row(ufunc: np.ufunc, values: np.ndarray, counts: np.ndarray, empty: int) -> np.ndarray:
    """Reduce the values of each row, which has `counts` of them; `empty` for a row without."""
    result = np.full(len(counts), empty, np.int64)
    filled = counts > 0
    if filled.any():
        result[filled] = ufunc.reduceat(values, (np.cumsum(counts) - counts)[filled])
    return result


def _name_nulls(level: pa.Array, counts: np.ndarray, dims: np.ndarray, reasons: dict[int, str]) -> None:
    """Name for each row its first null at this level of nesting."""
    if not level.null_count:
        return
    what = "a null list" if dims.shape[1] and pat.is_nested(level.type) else "a null"
    entries = np.flatnonzero(np.asarray(level.is_null()))
    ends = np.cumsum(counts)
    rows, first = np.unique(np.searchsorted(ends, entries, side="right"), return_index=True)
    for row, entry in zip(rows.tolist(), entries[first].tolist(), strict=True):
        if row in reasons:
            continue  # its shape may be unknown, so the place of the null is too
        if dims.shape[1] == 0:
            reasons[row] = "is null"
            continue
        place = np.unravel_index(entry - int(ends[row] - counts[row]), tuple(dims[row].tolist()))
        index = tuple(int(i) for i in place)
        reasons[row] = f"has {what} at element {index[0] if len(index) == 1 else index}"
