"""Walking the structure of UBJSON, the binary format of XGBoost's models, without reading its values."""

from __future__ import annotations

import struct

_SIZES = {b"Z": 0, b"N": 0, b"T": 0, b"F": 0, b"C": 1, b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8, b"d": 4, b"D": 8}
_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}


def check_whole(data: bytes) -> None:
    """Check that `data` is one complete value: parsers in C++ may read past the end of a truncated one.

    Raises:
        ValueError: it ends too early, or is no UBJSON.
    """
    end = _skip(data, data[:1], 1)
    if end != len(data):
        raise ValueError(f"{len(data) - end:,} bytes are left after the end")


def _skip(data: bytes, marker: bytes, at: int) -> int:
    """Return where the value of that type ends, which begins at `at` (behind its marker)."""
    if marker in _SIZES:
        end = at + _SIZES[marker]
    elif marker in (b"S", b"H"):
        length, at = _integer(data, at)
        end = at + length
    elif marker in (b"[", b"{"):
        end = _skip_container(data, at, keyed=marker == b"{")
    else:
        raise ValueError(f"there is no type {marker!r} (at byte {at - 1:,} of {len(data):,})")
    if end > len(data):
        raise ValueError(f"it ends after {len(data):,} bytes and goes on to byte {end:,} at least")
    return end


def _skip_container(data: bytes, at: int, *, keyed: bool) -> int:
    kind, count = None, None
    if data[at : at + 1] == b"$":
        kind, at = data[at + 1 : at + 2], at + 2
    if data[at : at + 1] == b"#":
        count, at = _integer(data, at + 1)
    if kind in _SIZES and count is not None and not keyed:
        return at + _SIZES[kind] * count
    close = b"}" if keyed else b"]"
    done = 0
    while done != count:
        if count is None and data[at : at + 1] == close:
            return at + 1
        if keyed:
            length, at = _integer(data, at)
            at += length
        marker = kind or data[at : at + 1]
        at = _skip(data, marker, at if kind else at + 1)
        done += 1
    return at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Return a length and where it ends."""
    code = _INTEGERS.get(data[at : at + 1])
    if code is None:
        raise ValueError(f"a length is missing (at byte {at:,} of {len(data):,})")
    end = at + 1 + struct.calcsize(code)
    if end > len(data):
        raise ValueError(f"it ends after {len(data):,} bytes, within a length")
    value = struct.unpack(code, data[at + 1 : end])[0]
    if value < 0:
        raise ValueError(f"a length is {value} (at byte {at:,})")
    return value, end
