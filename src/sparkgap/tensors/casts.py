"""Casts between numeric dtypes that never change a value in silence."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from sparkgap._errors import SignatureError
from sparkgap._optional import need
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.spec import OBJECTS, dtype_name

# Bits of the significand, the hidden one included: integers up to 2 ** bits are exact.
_SIGNIFICAND: Final = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype that a spec's dtype name stands for; ``"str"`` and ``"bytes"`` are objects.

    Raises:
        MissingDependencyError: the name is ``"bfloat16"``, and `ml_dtypes` is not installed.
    """
    if name in OBJECTS:
        return np.dtype(object)
    if name == "bfloat16":
        name = need("ml_dtypes", extra="bfloat16", why="for tensors of dtype bfloat16").bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def kind(name: str) -> str:
    """Return ``"bool"``, ``"int"``, ``"float"`` or ``"object"`` for a spec's dtype name."""
    if name in OBJECTS:
        return "object"
    if name == "bool":
        return "bool"
    return "float" if name in _SIGNIFICAND else "int"


def castable(source: str, target: str) -> bool:
    """Whether `cast` takes `source` to `target`, so that only single values can fail.

    Bools go to any number, integers to any integer or float, floats to any float; never the other way.
    """
    if source == target:
        return True
    order = {"bool": 0, "int": 1, "float": 2}
    if kind(source) not in order or kind(target) not in order or kind(target) == "bool":
        return False
    return order[kind(source)] <= order[kind(target)]


def cast(array: np.ndarray, dtype: str, *, rows_axis: int = 0, out: np.ndarray | None = None) -> np.ndarray:
    """Cast an array without loss, but for the rounding of floats to narrower floats.

    Args:
        array: bools or numbers; left alone.
        dtype: dtype name as in specs.
        rows_axis: the axis that counts the rows, for the rows named in errors.
        out: array of the target dtype and the same shape to write into.

    Returns:
        `out` if given; else `array` itself where it has that dtype already, else a new array.

    Raises:
        BadRows: integers that `dtype` cannot hold exactly, or finite floats that overflow it.
        SignatureError: no value goes that way, e.g. floats to integers.
    """
    source = dtype_name(array)
    if not castable(source, dtype):
        raise SignatureError(f"A tensor of {source} cannot become {dtype} without loss. Convert it before.")
    if source == dtype:
        if out is None:
            return array
        out[...] = array
        return out
    if kind(source) == "int":
        _check_ints(array, dtype, rows_axis)
    if out is None:
        out = np.empty(array.shape, numpy_dtype(dtype))
    try:
        # The processor's own overflow flag: costs no second pass over the data.
        with np.errstate(over="raise", invalid="ignore"):
            np.copyto(out, array, casting="unsafe")
    except FloatingPointError:
        _raise_overflow(array, dtype, rows_axis)
        raise
    if dtype == "bfloat16" and np.isinf(out).any():
        _raise_overflow(array, dtype, rows_axis)  # ml_dtypes rounds bits itself and may set no flag
    return out


def _check_ints(array: np.ndarray, dtype: str, rows_axis: int) -> None:
    """Raise BadRows for integers that `dtype` cannot hold exactly; two cheap reductions where all fit."""
    if array.size == 0:
        return
    if kind(dtype) == "int":
        info = np.iinfo(dtype)
        low, high = int(info.min), int(info.max)
    else:
        low, high = -(2 ** _SIGNIFICAND[dtype]), 2 ** _SIGNIFICAND[dtype]
    held = np.iinfo(array.dtype)
    if low <= held.min and held.max <= high:
        return
    if low <= int(array.min()) and int(array.max()) <= high:
        return
    # Bounds are compared as Python ints clipped to the source's range: no mixed-sign promotion.
    if kind(dtype) == "int":
        wrong = (array < max(low, int(held.min))) | (array > min(high, int(held.max)))
    else:
        wrong = ~_exact(array, dtype)
    _raise(array, wrong, rows_axis, f"which {dtype} cannot hold exactly")


def _exact(array: np.ndarray, dtype: str) -> np.ndarray:
    """Which integers a float dtype holds exactly: those whose odd part fits into the significand."""
    negative = array < 0
    # |x|, through the complement: right for the lowest int64 too.
    size = np.where(negative, ~array, array).astype(np.uint64) + negative
    odd = size // np.maximum(size & (~size + np.uint64(1)), np.uint64(1))
    exact: np.ndarray = odd < np.uint64(2 ** _SIGNIFICAND[dtype])
    if dtype == "float16":
        exact &= size <= np.uint64(65504)
    return exact


def _raise_overflow(array: np.ndarray, dtype: str, rows_axis: int) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = np.isinf(array.astype(numpy_dtype(dtype))) & ~np.isinf(array)
    _raise(array, wrong, rows_axis, f"which overflows {dtype}")


def _raise(array: np.ndarray, wrong: np.ndarray, rows_axis: int, why: str) -> None:
    """Raise BadRows for rows that have a wrong value, each with its first; return if there is none."""
    if not wrong.any():
        return
    values = np.moveaxis(array, rows_axis, 0).reshape(array.shape[rows_axis], -1)
    marks = np.moveaxis(wrong, rows_axis, 0).reshape(values.shape)
    rows = np.flatnonzero(marks.any(axis=1))
    firsts = values[rows, marks[rows].argmax(axis=1)].tolist()
    raise BadRows({row: f"has {value}, {why}" for row, value in zip(rows.tolist(), firsts, strict=True)})
