"""The entries of a WebDataset sample <-> columns: the ending of a name tells how its bytes are read. Pure."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap.records import ndarrays
from sparkgap.records.example_types import leaf

KEY = "__key__"
_TEXT = ("txt", "text", "transcript", "json", "jsn")
_NUMBER = ("cls", "cls2", "index", "inx", "id", "count")


def is_plain(kind: pa.DataType) -> bool:
    """Whether values of a type are written as one line of text."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def infer(name: str, values: Sequence[bytes]) -> pa.DataType:
    """Tell the type of a column by some of its entries: text, whole numbers, arrays; else bytes."""
    ending = name.rpartition(".")[2]
    if ending == "npy":
        return ndarrays.type_of(_load(values[0]))
    if ending in _NUMBER:
        return pa.int64() if all(_is_whole(v) for v in values) else pa.string()
    return pa.string() if ending in _TEXT else pa.binary()


def decode(name: str, kind: pa.DataType, values: Sequence[bytes | None]) -> pa.Array:
    """Make a column.

    Args:
        name: its name, an ending such as ``"cls"`` or ``"seg.png"``.
        kind: its type: bytes stay as they are, text is UTF-8, numbers are text, lists and structs JSON, or arrays of numpy
            where the name ends with ``npy``.
        values: the entries; None where a sample has none.

    Raises:
        ValueError: an entry is no such value.
    """
    try:
        if pa.types.is_binary(kind):
            return pa.array(values, kind)
        if pa.types.is_string(kind):
            return pa.array([None if v is None else v.decode() for v in values], kind)
        if name.rpartition(".")[2] == "npy":
            return ndarrays.to_arrow([None if v is None else _load(v) for v in values], kind)
        if is_plain(kind):
            return pa.array([None if v is None else v.decode().strip() for v in values], pa.string()).cast(kind)
        return pa.array([None if v is None else json.loads(v) for v in values], kind)
    except (ValueError, TypeError, EOFError) as error:
        raise ValueError(f"entry `{name}` is no {kind}: {error}") from error


def encode(name: str, column: pa.Array) -> list[bytes | None]:
    """Return the entry of each row; None for null.

    Raises:
        ValueError: a value cannot be written.
    """
    if pa.types.is_binary(column.type):
        return list(column.to_pylist())
    if name.rpartition(".")[2] == "npy" and is_plain(leaf(column.type)):
        return [None if a is None else _saved(np.asarray(a)) for a in ndarrays.from_arrow(column)]
    try:
        return [None if v is None else _text(v) for v in column.to_pylist()]
    except TypeError as error:
        raise ValueError(f"column `{name}` cannot be written as JSON: {error}") from error


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()


def _is_whole(value: bytes) -> bool:
    return value.strip().lstrip(b"+-").isdigit()


def _load(value: bytes) -> np.ndarray:
    array: np.ndarray = np.load(io.BytesIO(value), allow_pickle=False)
    return array


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
