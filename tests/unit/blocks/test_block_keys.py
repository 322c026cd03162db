"""Rows of equal keys."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.blocks.keys import can_be_key, codes, normal, order, starts

floats = st.one_of(st.none(), st.sampled_from([0.0, -0.0, math.nan, 1.5, math.inf]))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", ""]))


def identity(row):
    return tuple("nan" if isinstance(v, float) and math.isnan(v) else v for v in row)


@given(st.lists(st.tuples(floats, texts)))
def test_equal_codes_mean_equal_keys(rows):
    columns = [normal(pa.array([r[i] for r in rows], kind)) for i, kind in enumerate((pa.float64(), pa.string()))]
    found, count = codes(columns)
    assert all(0 <= c < max(count, 1) for c in found)
    for i in range(len(rows)):
        for j in range(i):
            assert (found[i] == found[j]) == (identity(rows[i]) == identity(rows[j]))


@given(st.lists(st.integers(0, 5)))
def test_order_brings_equal_codes_together_and_keeps_rows_in_order(values):
    found = np.array(values, np.int64)
    by = order(found, 6)
    assert sorted(zip(values, range(len(values)), strict=True)) == [(values[i], i) for i in by]
    first = starts(found[by])
    assert [values[by[i]] for i in first] == sorted(set(values))


def test_nested_values_and_unknown_types_are_no_keys():
    assert can_be_key(pa.decimal128(10, 2))
    assert can_be_key(pa.date32())
    assert not can_be_key(pa.list_(pa.int64()))
    assert not can_be_key(None)


def test_all_nans_are_one_key_whatever_their_bits():
    values = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)
    found, _ = codes([normal(pa.array(values))])
    assert len(set(found.tolist())) == 1
