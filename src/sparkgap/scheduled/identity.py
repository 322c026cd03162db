"""Which item is which: digests of content that stay equal in another process and another run.

A digest is 16 bytes of BLAKE2b over a tag of the type and the content; a container is digested over the digests of
what it holds, sorted where order does not count. Neither Python's hash randomisation nor the memo of pickle nor the
order of a dict has a say. Pure; runs on the driver.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

from sparkgap._errors import ConfigurationError

SIZE = 16
"""Length of a digest and of an identity, in bytes."""


def digest(item: Any) -> bytes:
    """Return the digest of an item's content; a few microseconds for a scalar.

    Known by content: None, bool, int, float, complex, str, bytes, paths, dates and times, Decimal, UUID, tuples, lists,
    dicts, sets, their subclasses, named tuples, dataclasses, enums, numpy arrays and scalars, Arrow arrays and tables,
    pandas frames and series. Different types of equal value differ: 1, 1.0 and True are three items.

    Anything else is known by its cloudpickle bytes, which may differ between versions of Python and of the classes
    involved; the bytes of Arrow's format may differ between versions of Arrow. Where a journal has to outlive an
    upgrade, give `key=`.

    Raises:
        ConfigurationError: the item cannot be pickled, or holds itself.
    """
    try:
        return _digest(item)
    except RecursionError:
        raise ConfigurationError(
            f"An item of type {_name(type(item))} holds itself, or is nested too deeply to be told from other items. "
            "Give key=: a function of an item that returns what names it."
        ) from None


def keys(items: Iterable[Any], key: Callable[[Any], Any] | str | None = None) -> Iterator[bytes]:
    """Yield the identity of each item, 16 bytes each; no two are equal.

    The first of several equal items has its digest as identity, each later one a digest of it and its running number.
    So the same items in another order have the same identities. Memory: an entry of a dict for each distinct item.

    Args:
        items: the items, taken one at a time.
        key: what names an item: a function of it, or the name of a key or attribute; None for all its content.

    Raises:
        ConfigurationError: an item lacks the key, or has no digest; `key` is neither of these.
    """
    of = _naming(key)
    seen: dict[bytes, int] = {}
    for item in items:
        found = digest(of(item))
        before = seen.get(found, 0)
        seen[found] = before + 1
        yield found if before == 0 else _hash(b"again", found, b"%d" % before)


def _naming(key: Callable[[Any], Any] | str | None) -> Callable[[Any], Any]:
    if key is None:
        return lambda item: item
    if isinstance(key, str):
        return lambda item: _named(item, key)
    if callable(key):
        return key
    raise ConfigurationError(f"key= is a function of an item, or the name of a key or attribute, got {key!r}.")


def _named(item: Any, key: str) -> Any:
    """Take a key of a mapping or of a row of Spark, else an attribute: a row has methods that columns are called like."""
    try:
        return item[key] if isinstance(item, Mapping) or hasattr(item, "__fields__") else getattr(item, key)
    except (KeyError, ValueError, AttributeError):
        known = f"; it has {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
        raise ConfigurationError(f"An item of type {_name(type(item))} has no {key!r}{known}. Change key=.") from None


def _hash(*parts: bytes) -> bytes:
    return blake2b(b"\0".join(parts), digest_size=SIZE).digest()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(item: Any) -> bytes:
    found = _EXACT.get(type(item))
    if found is not None:
        return found(item)
    for kind, function in _GENERAL:
        if isinstance(item, kind):
            return function(item)
    root = type(item).__module__.partition(".")[0]
    special = _LIBRARIES[root](item) if root in _LIBRARIES else None
    if special is not None:
        return special
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return _dataclass(item)
    for kind, function in _BUILTIN:
        if isinstance(item, kind):
            return _subclass(item, kind, function)
    return _pickled(item)


def _ordered(tag: bytes, items: Iterable[Any]) -> bytes:
    return _hash(tag, b"".join(map(_digest, items)))


def _unordered(tag: bytes, items: Iterable[Any]) -> bytes:
    return _hash(tag, b"".join(sorted(map(_digest, items))))


def _mapping(item: Mapping[Any, Any]) -> bytes:
    return _hash(b"dict", b"".join(sorted(_digest(k) + _digest(v) for k, v in item.items())))


def _float(item: float) -> bytes:
    return _hash(b"float", repr(item).encode())  # exact, tells -0.0, and all kinds of nan are one


def _enum(item: Enum) -> bytes:
    return _hash(b"enum", _name(type(item)).encode(), str(item.name).encode())


def _path(item: PurePath) -> bytes:
    return _hash(b"path", type(item).__name__.encode(), str(item).encode(errors="surrogateescape"))


def _time(item: dt.datetime | dt.date | dt.time) -> bytes:
    zone = str(getattr(item, "tzinfo", None))
    return _hash(
        b"time", _name(type(item)).encode(), item.isoformat().encode(), zone.encode(), b"%d" % getattr(item, "fold", 0)
    )


def _dataclass(item: Any) -> bytes:
    held = {field.name: getattr(item, field.name, None) for field in dataclasses.fields(item)}
    return _hash(b"dataclass", _name(type(item)).encode(), _mapping(held))


def _subclass(item: Any, kind: type, function: Callable[[Any], bytes]) -> bytes:
    """Content as of the built-in type, and the name of the class, and what else the object carries."""
    return _hash(b"subclass", _name(type(item)).encode(), function(item), _mapping(getattr(item, "__dict__", {})))


def _pickled(item: Any) -> bytes:
    from pyspark import cloudpickle

    try:
        data = cloudpickle.dumps(item, protocol=5)
    except RecursionError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"An item of type {_name(type(item))} cannot be pickled ({error}), so it cannot be told from other items, nor "
            "sent to an executor. Make items of plain values, such as paths and numbers."
        ) from error
    return _hash(b"pickled", data)


def _numpy(item: Any) -> bytes | None:
    import numpy as np

    if isinstance(item, np.generic):
        return _hash(b"scalar", _array(np.asarray(item)))
    # A subclass, such as a masked array, may hold more than its elements.
    return _array(item) if type(item) in (np.ndarray, np.memmap) else None


def _array(item: Any) -> bytes:
    import numpy as np

    head = b"\0".join((b"array", str(item.dtype).encode(), repr(item.shape).encode()))
    if item.dtype.hasobject:
        return _hash(head, _ordered(b"list", item.reshape(-1).tolist()))
    state = blake2b(head, digest_size=SIZE)
    state.update(np.ascontiguousarray(item).reshape(-1).view(np.uint8).data)  # the elements where they lie: no copy
    return state.digest()


class Digesting:
    """A file for Arrow that digests what is written.

    Args:
        state: a state of hashlib.
    """

    closed = False

    def __init__(self, state: Any) -> None:
        self._state = state
        self._written = 0

    def write(self, data: Any) -> int:
        """Digest some bytes."""
        self._state.update(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._written

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _arrow(item: Any) -> bytes | None:
    import pyarrow as pa

    tag = type(item).__name__.encode()
    if isinstance(item, pa.Scalar):
        return _hash(b"arrow", tag, _table(pa.table({"": pa.array([item.as_py()], item.type)})))
    if isinstance(item, pa.Array | pa.ChunkedArray):
        return _hash(b"arrow", b"array", _table(pa.table({"": item})))
    if isinstance(item, pa.RecordBatch):
        return _hash(b"arrow", tag, _table(pa.Table.from_batches([item])))
    return _hash(b"arrow", tag, _table(item)) if isinstance(item, pa.Table) else None


def _table(table: Any) -> bytes:
    import pyarrow as pa

    state = blake2b(digest_size=SIZE)
    # `take` lays the values out anew: how they were cut or sliced, and what lies under nulls, does not count.
    whole = table.take(pa.array(range(len(table)), pa.int64())).combine_chunks()
    with pa.ipc.new_stream(pa.PythonFile(Digesting(state), mode="w"), whole.schema) as writer:
        writer.write_table(whole)
    return state.digest()


def _pandas(item: Any) -> bytes | None:
    import pandas as pd

    if isinstance(item, pd.Series):
        return _hash(b"series", _digest([item.name, str(item.dtype), item.index.to_numpy(), item.to_numpy()]))
    if not isinstance(item, pd.DataFrame):
        return None
    columns = [[name, str(column.dtype), column.to_numpy()] for name, column in item.items()]
    return _hash(b"frame", _digest([item.index.to_numpy(), columns]))


_EXACT: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda item: _hash(b"none"),
    bool: lambda item: _hash(b"bool", b"%d" % item),
    int: lambda item: _hash(b"int", b"%x" % item),  # decimal digits are quadratic, and limited, in long numbers
    float: _float,
    complex: lambda item: _hash(b"complex", _float(item.real), _float(item.imag)),
    str: lambda item: _hash(b"str", item.encode("utf-8", "surrogatepass")),
    bytes: lambda item: _hash(b"bytes", item),
    bytearray: lambda item: _hash(b"bytearray", item),
    tuple: lambda item: _ordered(b"tuple", item),
    list: lambda item: _ordered(b"list", item),
    dict: _mapping,
    set: lambda item: _unordered(b"set", item),
    frozenset: lambda item: _unordered(b"frozenset", item),
    dt.timedelta: lambda item: _hash(b"delta", b"%d %d %d" % (item.days, item.seconds, item.microseconds)),
    decimal.Decimal: lambda item: _hash(b"decimal", str(item).encode()),
    uuid.UUID: lambda item: _hash(b"uuid", item.bytes),
}

_GENERAL: tuple[tuple[type, Callable[[Any], bytes]], ...] = ((Enum, _enum), (PurePath, _path))

_LIBRARIES: dict[str, Callable[[Any], bytes | None]] = {"numpy": _numpy, "pyarrow": _arrow, "pandas": _pandas}

_BUILTIN: tuple[tuple[type, Callable[[Any], bytes]], ...] = (
    *((kind, _time) for kind in (dt.datetime, dt.date, dt.time)),
    *((kind, _EXACT[kind]) for kind in (int, float, str, bytes, tuple, list, dict, set, frozenset)),
)
