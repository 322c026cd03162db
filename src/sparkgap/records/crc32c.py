"""CRC-32C (Castagnoli) of many ranges of a buffer at once, as TFRecord files need it.

With the package `google-crc32c` its instructions of the processor are used; without it, numpy. A CRC is linear: zeros in front
change nothing, and the CRC of two pieces is that of the first one, shifted by the length of the second, XOR that of the
second. So all ranges are cut into short lanes, which advance together, and are then joined in pairs.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import numpy as np

_POLYNOMIAL = 0x82F63B78
_WIDTH = 64
"""Bytes of a lane; a power of two."""
_CHUNK = 4 << 20


def crc32c(data: bytes, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return the CRCs, uint32, of `data[start[i]:stop[i]]`."""
    fast = _package()
    if fast is not None:
        pairs = zip(start.tolist(), stop.tolist(), strict=True)
        return np.fromiter((fast(data[a:b]) for a, b in pairs), np.uint32, len(start))
    return by_numpy(data, start, stop)


def masked(crc: np.ndarray) -> np.ndarray:
    """Return CRCs as TFRecord stores them, so that the CRC of bytes that hold CRCs is no special one."""
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


def by_numpy(data: bytes, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return the CRCs as `crc32c` does, without a package."""
    out = np.empty(len(start), np.uint32)
    if not len(start):
        return out
    padded = np.concatenate([np.zeros(_WIDTH, np.uint8), np.frombuffer(data, np.uint8)])
    size = stop - start
    edges = np.flatnonzero(np.diff(np.cumsum(size) // _CHUNK)) + 1  # bounded memory for the lanes
    for part in np.split(np.arange(len(start)), edges):
        out[part] = _many(padded, start[part] + _WIDTH, stop[part] + _WIDTH)
    return out


def _many(buf: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    size = stop - start
    width = 8 if size.max() <= 8 else _WIDTH
    lanes = np.maximum(-(-size // width), 1)
    firsts = np.cumsum(lanes) - lanes
    number = np.arange(lanes.sum()) - np.repeat(firsts, lanes)
    base = np.repeat(stop - lanes * width, lanes) + number * width
    block = np.lib.stride_tricks.sliding_window_view(buf, width)[base]
    # The first lane of a range begins before it: zeros there, and the start value is XORed into its first four bytes.
    at = (lanes * width - size)[:, None]
    column = np.arange(width)
    head = np.where(column < at, 0, block[firsts])
    block[firsts] = head ^ np.where((column >= at) & (column < at + 4), 0xFF, 0).astype(np.uint8)
    spill = np.flatnonzero((at[:, 0] + 4 > width) & (lanes > 1))  # the four bytes may reach into the second lane
    for i in spill.tolist():
        block[firsts[i] + 1, : at[i, 0] + 4 - width] ^= 0xFF
    crc = _joined(_lanes(block), lanes, width)
    for i in np.flatnonzero(size < 4).tolist():
        crc[i] = _short(bytes(buf[start[i] : stop[i]]))
    return crc ^ np.uint32(0xFFFFFFFF)


def _lanes(block: np.ndarray) -> np.ndarray:
    words = np.ascontiguousarray(block.view("<u2").T)
    table = _words()
    state = np.zeros(block.shape[0], np.uint32)
    for word in words:
        state = table[(state ^ word) & np.uint32(0xFFFF)] ^ (state >> np.uint32(16))
    return state


def _joined(state: np.ndarray, lanes: np.ndarray, width: int) -> np.ndarray:
    """Join the lanes of each range, neighbours first; an odd one gets zeros in front."""
    power = width.bit_length() - 1
    while lanes.max() > 1:
        halves = (lanes + 1) // 2
        ends = np.cumsum(halves) * 2
        at = np.arange(len(state)) + np.repeat(ends - np.cumsum(lanes), lanes)
        pairs = np.zeros(ends[-1], np.uint32)
        pairs[at] = state
        state = _shift(_shifts(power), pairs[::2]) ^ pairs[1::2]
        lanes, power = halves, power + 1
    return state


def _shift(tables: np.ndarray, crc: np.ndarray) -> np.ndarray:
    one: np.ndarray = tables[0][crc & 0xFF] ^ tables[1][(crc >> 8) & 0xFF]
    two: np.ndarray = tables[2][(crc >> 16) & 0xFF] ^ tables[3][crc >> 24]
    both: np.ndarray = one ^ two
    return both


@functools.cache
def _shifts(power: int) -> np.ndarray:
    """Return, for each of the four bytes of a CRC, what 2**power zero bytes make of it."""
    if power:
        half = _shifts(power - 1)
        return np.stack([_shift(half, table) for table in half])
    byte = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    made: np.ndarray = _bytes()[byte & 0xFF] ^ (byte >> 8)
    return made


@functools.cache
def _bytes() -> np.ndarray:
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return table


@functools.cache
def _words() -> np.ndarray:
    word = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        word = _bytes()[word & 0xFF] ^ (word >> 8)
    return word


def _short(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state = int(_bytes()[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state


@functools.cache
def _package() -> Callable[[bytes], int] | None:
    try:
        module = importlib.import_module("google_crc32c")
    except ImportError:
        return None
    value: Callable[[bytes], int] | None = module.value if module.implementation == "c" else None
    return value
