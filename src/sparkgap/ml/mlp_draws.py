"""Initial weights of a perceptron: those that MLlib draws for the same seed. Pure.

MLlib's generator is a 64-bit xorshift (21, 35, 4) whose state begins as a MurmurHash3 of the seed. A step is linear over
bits, so n states further on is a linear map, too: states are doubled by table look-ups instead of stepped one by one.
"""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_ARRAY_SEED = 0x3C074A61
"""Seed with which Scala's MurmurHash3 hashes arrays."""


def uniform(seed: int, count: int) -> np.ndarray:
    """Return `count` doubles in [0, 1), as ``java.util.Random.nextDouble`` gives them over MLlib's generator."""
    states = _states(_hashed(seed), 2 * count)
    high = (states[0::2] & np.uint64((1 << 26) - 1)).astype(np.float64)
    low = (states[1::2] & np.uint64((1 << 27) - 1)).astype(np.float64)
    return np.asarray((high * (1 << 27) + low) * 2.0**-53)


def _states(first: int, count: int) -> np.ndarray:
    """Return the states after 1, 2, … steps."""
    found = np.array([_step(first)], np.uint64)
    columns = np.array([_step(1 << bit) for bit in range(64)], np.uint64)  # of the map that is as many steps as are found
    while len(found) < count:
        tables = _tables(columns)
        found = np.concatenate([found, _mapped(tables, found[: count - len(found)])])
        columns = _mapped(tables, columns)
    return found[:count]


def _step(state: int) -> int:
    state ^= (state << 21) & _MASK
    state ^= state >> 35
    return (state ^ (state << 4)) & _MASK


def _tables(columns: np.ndarray) -> np.ndarray:
    """Return the images of each value of each byte: (8, 256)."""
    tables = np.zeros((8, 256), np.uint64)
    for byte in range(8):
        for bit in range(8):
            half = 1 << bit
            tables[byte, half : 2 * half] = tables[byte, :half] ^ columns[8 * byte + bit]
    return tables


def _mapped(tables: np.ndarray, states: np.ndarray) -> np.ndarray:
    found = np.zeros_like(states)
    for byte in range(8):
        found ^= tables[byte, (states >> np.uint64(8 * byte)) & np.uint64(255)]
    return found


def _hashed(seed: int) -> int:
    raw = (seed & _MASK).to_bytes(8, "big")
    low = _murmur(raw, _ARRAY_SEED)
    return (_murmur(raw, low) << 32) | low


def _murmur(raw: bytes, seed: int) -> int:
    """MurmurHash3, 32 bits, of a whole number of words."""
    hashed = seed
    for at in range(0, len(raw), 4):
        word = int.from_bytes(raw[at : at + 4], "little")
        word = _rotated(word * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF
        hashed = (_rotated(hashed ^ word, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    hashed ^= len(raw)
    hashed = (hashed ^ (hashed >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    hashed = (hashed ^ (hashed >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return hashed ^ (hashed >> 16)


def _rotated(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & 0xFFFFFFFF
