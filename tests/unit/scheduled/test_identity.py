"""Equal content has one digest, in every process; other content another."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError
from sparkgap.scheduled.identity import digest, keys

Pair = namedtuple("Pair", "a b")
Other = namedtuple("Other", "a b")


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: int
    y: int


@dataclass(frozen=True)
class Place:
    x: int
    y: int


class Numbers(list):
    pass


DIFFERENT = [
    None, True, False, 0, 1, -1, 10, 11, 16, 2**64, 2**64 + 1, 2**200,
    0.0, -0.0, 1.0, float("nan"), float("inf"), 1j, "", "1", "a", b"", b"1", b"a",
    bytearray(b"a"), Path("a"), PurePosixPath("a"), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1),
    dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc), dt.datetime(2020, 1, 1, fold=1), dt.time(1), dt.timedelta(1),
    (), [], {}, set(), frozenset(), (1,), [1], {1}, frozenset({1}), {1: 2}, {2: 1}, ((1,), 2), ((1, 2),), (1, 2), [1, 2],
    [[1], 2], [[1, 2]], ["ab", "c"], ["a", "bc"], Pair(1, 2), Other(1, 2), Point(1, 2), Place(1, 2), Colour.RED, Colour.BLUE,
    Numbers([1, 2]), OrderedDict({1: 2}), len, Point, print,
    np.float64(1), np.float32(1), np.int64(1), np.array(1), np.array([1]), np.array([[1]]), np.array([1.0]),
    np.array([1], ">i8"),
    np.zeros((0, 3)), np.zeros((3, 0)), np.array(["a"]), np.array(["a"], object), np.array([b"a"]),
    np.array(["2020"], "M8[D]"),
    np.array(["2020"], "M8[s]"), np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0]),
    pa.array([1]), pa.array([1.0]), pa.array([1, None]), pa.array([1, 0]), pa.table({"a": [1]}), pa.table({"b": [1]}),
    pa.scalar(1),
    pa.scalar(2), pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=[7]), pd.DataFrame({"a": ["x"]}),
    pd.Series([1], name="a"),
]  # fmt: skip


def test_items_that_differ_in_type_or_value_have_different_digests():
    found = [digest(item) for item in DIFFERENT]
    assert {len(d) for d in found} == {16}
    for (a, x), (b, y) in combinations(zip(DIFFERENT, found, strict=True), 2):
        assert x != y, (a, b)


FRESH = """
import sys; sys.path[:0] = {paths!r}
from test_identity import DIFFERENT
from sparkgap.scheduled.identity import digest
print([digest(item).hex() for item in DIFFERENT])
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_with_other_hashes_finds_the_same_digests(seed):
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)  # so that the classes of this module have the same name there
    try:
        from test_identity import DIFFERENT as ITEMS
    finally:
        sys.path.remove(here)
    code = FRESH.format(paths=[here])
    env = {**os.environ, "PYTHONHASHSEED": seed}
    out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert out.strip() == str([digest(item).hex() for item in ITEMS])


def test_neither_the_order_of_a_dict_or_set_nor_shared_objects_count():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    many = [f"word {n}" for n in range(100)]
    assert digest(set(many)) == digest(set(reversed(many)))
    one = ["x" * 50]
    assert digest([one, one]) == digest([["x" * 50], ["x" * 50]])
    assert digest(float("nan")) == digest(-float("nan"))


def test_layout_in_memory_does_not_count():
    array = np.arange(24.0).reshape(4, 6)
    assert digest(np.asfortranarray(array)) == digest(array) == digest(np.repeat(array, 2, axis=1)[:, ::2])
    assert digest(array.T) != digest(array)
    values = [1, None, 3, None, 5, 6, 7, 8, 9, None, 11]
    whole = pa.array(values)
    assert digest(pa.array([0, 0, 0, *values, 4])[3:14]) == digest(whole)
    assert digest(pa.chunked_array([values[:4], values[4:]])) == digest(pa.chunked_array([values])) == digest(whole)
    assert digest(pa.array(np.array([1, 77, 3]), mask=np.array([False, True, False]))) == digest(pa.array([1, None, 3]))
    flags, words = [True, None, False] * 5, ["a", None, "bcd"] * 5
    table = pa.table({"f": flags, "w": words})
    longer = pa.table({"f": [False] * 3 + flags, "w": ["zz"] * 3 + words})
    assert digest(longer.slice(3)) == digest(table) == digest(pa.concat_tables([table.slice(0, 7), table.slice(7)]))


def test_a_memory_map_equals_the_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5))
    assert digest(np.load(tmp_path / "a.npy", mmap_mode="r")) == digest(np.arange(5))


def test_types_that_numpy_does_not_name_are_told_apart():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.ones(3, ml_dtypes.float8_e5m2)
    found = {digest(array.view(dtype)) for dtype in (array.dtype, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, "V1", "u1")}
    assert len(found) == 5


PLAIN = st.recursive(
    # Few values, so that equal ones meet, and many.
    st.sampled_from([None, True, 0, 1, 11, -1, 0.0, -0.0, 1.0, "", "a", "1", b"", b"a"])
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN, PLAIN)
def test_digests_of_plain_values_are_equal_exactly_where_the_values_are(a, b):
    assert (digest(a) == digest(b)) == (_spelled(a) == _spelled(b))


def _spelled(value):
    """A text that is equal for equal content: `repr` with sorted keys."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{k!r}:{_spelled(v)}" for k, v in value.items())) + "}"
    if isinstance(value, list | tuple):
        return type(value).__name__ + "(" + ",".join(map(_spelled, value)) + ")"
    return repr(value)


def test_an_item_that_holds_itself_is_refused():
    item: list = []
    item.append(item)
    with pytest.raises(ConfigurationError, match="holds itself.*key="):
        digest(item)


def test_an_item_that_cannot_be_pickled_is_refused():
    with pytest.raises(ConfigurationError, match=r"_thread.lock cannot be pickled.*plain values"):
        digest({"a": threading.Lock()})


@given(st.lists(st.integers(0, 5)))
def test_identities_never_repeat_and_do_not_depend_on_the_order(items):
    found = list(keys(items))
    assert len(set(found)) == len(items)
    assert set(keys(sorted(items))) == set(found)


def test_the_first_of_equal_items_keeps_its_identity_when_more_come():
    a, b, c = keys(["x", "x", "y"])
    assert [a, c] == [digest("x"), digest("y")]
    assert list(keys(["x", "x", "x"]))[:2] == [a, b]


def test_a_key_names_an_item():
    rows = [{"id": 1, "data": [1]}, {"id": 2, "data": [1]}]
    assert list(keys(rows, "id")) == list(keys(rows, lambda row: row["id"])) == [digest(1), digest(2)]
    assert list(keys([Point(1, 5)], "y")) == list(keys([Pair(2, 5)], "b")) == [digest(5)]


def test_a_row_of_spark_is_named_by_its_column_even_where_that_is_a_method():
    from pyspark.sql import Row

    assert list(keys([Row(count=3, index=4)], "count")) == [digest(3)]
    assert digest(Row(a=1)) != digest(Row(b=1))


@pytest.mark.parametrize("item", [{"id": 1, "name": 2}, Point(1, 2)])
def test_a_key_that_an_item_lacks_is_an_error(item):
    with pytest.raises(ConfigurationError, match="has no 'nme'"):
        list(keys([item], "nme"))
    with pytest.raises(ConfigurationError, match="key= is a function"):
        list(keys([item], 3))
