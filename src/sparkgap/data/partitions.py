"""Columns that are in the names of folders (`day=3/city=Bern/`), found and typed as Spark does. Pure."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from sparkgap._errors import DataError

NULL = "__HIVE_DEFAULT_PARTITION__"

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_DOUBLE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[dDfF]?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INT, _LONG, _FLOAT, _DAY, _TEXT = pa.int32(), pa.int64(), pa.float64(), pa.date32(), pa.string()


def unescape(text: str) -> str:
    """Undo the escapes of special characters in a folder's name."""
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), text)


def parse(folders: Sequence[str], origin: str) -> tuple[tuple[str, str], ...]:
    """Return the (name, value) pairs in the folders above a file.

    Raises:
        DataError: a folder `name=value` lies in one that is not such a folder.
    """
    pairs: list[tuple[str, str]] = []
    for i, folder in enumerate(folders):
        name, sign, value = folder.partition("=")
        if not (sign and name and value):
            continue
        if len(pairs) != i:
            raise DataError(
                f"{origin}: the folder `{folder}` names a column, but it lies in `{folders[i - 1]}`, which does not. "
                "Give the folder that holds the partition folders as the path."
            )
        pairs.append((unescape(name), unescape(value)))
    return tuple(pairs)


def infer(raw: Sequence[str]) -> tuple[pa.DataType, list[Any]]:
    """Find the type of one partition column, and its typed values.

    The type is int, bigint, double, date or string, whichever is the first that holds every value; what Spark takes
    for decimals and timestamps stays a string.
    """
    kinds = [_kind(text) for text in raw]
    present = {k for k in kinds if k is not None}
    target = _widest(present)
    return target, [None if k is None else _value(text, target) for text, k in zip(raw, kinds, strict=True)]


def _kind(text: str) -> pa.DataType | None:
    if text == NULL:
        return None
    if _INTEGER.fullmatch(text):
        number = int(text)
        if -(1 << 31) <= number < 1 << 31:
            return _INT
        return _LONG if -(1 << 63) <= number < 1 << 63 else _TEXT
    if text in ("NaN", "Infinity", "-Infinity", "+Infinity"):
        return _FLOAT
    if _DOUBLE.fullmatch(text):
        # Whole numbers that are no bigint are decimals for Spark; here they stay as they are written.
        return _TEXT if text[-1] not in "dDfF" and Decimal(text).as_tuple().exponent >= 0 else _FLOAT  # type: ignore[operator]
    return _DAY if _is_date(text) else _TEXT


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _widest(kinds: set[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {_INT, _LONG}:
        return _LONG
    # A double does not hold every bigint: Spark makes those two strings.
    return _FLOAT if kinds == {_INT, _FLOAT} else _TEXT


def _value(text: str, kind: pa.DataType) -> Any:
    if kind in (_INT, _LONG):
        return int(text)
    if kind == _FLOAT:
        return float(text.rstrip("dDfF"))
    return datetime.date.fromisoformat(text) if kind == _DAY else text
