"""CRC-32C: the check values of the standard, and the same with and without the package."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.records.crc32c import by_numpy


def one(data: bytes) -> int:
    return int(by_numpy(data, np.array([0]), np.array([len(data)]))[0])


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_published_values(data, crc):
    assert one(data) == crc


def bit_by_bit(data: bytes) -> int:
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_many_ranges_at_once(parts):
    ends = np.cumsum([len(p) for p in parts])
    starts = np.concatenate([[0], ends[:-1]])
    assert by_numpy(b"".join(parts), starts, ends).tolist() == [bit_by_bit(p) for p in parts]


def test_a_long_range_among_short_ones():
    data = np.random.default_rng(0).integers(0, 256, 100_003, np.uint8).tobytes()
    got = by_numpy(data, np.array([5, 0, 9]), np.array([6, len(data), 73]))
    assert got.tolist() == [bit_by_bit(data[5:6]), bit_by_bit(data), bit_by_bit(data[9:73])]
