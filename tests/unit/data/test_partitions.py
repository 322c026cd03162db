from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest

from sparkgap._errors import DataError
from sparkgap.data.partitions import NULL, infer, parse


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ((), ()),
        (("p=1", "q=x"), (("p", "1"), ("q", "x"))),
        (("p=a%2Fb%3Dc", "q%20r=%25"), (("p", "a/b=c"), ("q r", "%"))),
        (("p=a=b",), (("p", "a=b"),)),
        (("plain", "deeper"), ()),
        (("p=1", "plain"), (("p", "1"),)),
        (("=1",), ()),
    ],
)
def test_parse(folders: tuple[str, ...], expected: tuple[tuple[str, str], ...]) -> None:
    assert parse(folders, "file") == expected


def test_a_folder_that_is_no_partition_above_one_that_is() -> None:
    with pytest.raises(DataError, match="/x/y/p=1/f: the folder `p=1` names a column, but it lies in `y`, which does not"):
        parse(("y", "p=1"), "/x/y/p=1/f")


@pytest.mark.parametrize(
    ("raw", "kind", "values"),
    [
        (["1", "-2", "+3", "007"], pa.int32(), [1, -2, 3, 7]),
        (["1", str(1 << 31)], pa.int64(), [1, 1 << 31]),
        (["1", "2.5", NULL], pa.float64(), [1.0, 2.5, None]),
        (["1.5e3", ".5", "5d", "-Infinity"], pa.string(), ["1.5e3", ".5", "5d", "-Infinity"]),
        (["1.25e1", ".5", "5d", "-Infinity"], pa.float64(), [12.5, 0.5, 5.0, float("-inf")]),
        (["1e3"], pa.string(), ["1e3"]),
        (["5.", ".5"], pa.string(), ["5.", ".5"]),
        ([str(1 << 31), "2.5"], pa.string(), [str(1 << 31), "2.5"]),
        (["2024-02-29", NULL], pa.date32(), [datetime.date(2024, 2, 29), None]),
        (["2023-02-29"], pa.string(), ["2023-02-29"]),
        (["2024-02-29", "1"], pa.string(), ["2024-02-29", "1"]),
        (["1", "x", "02"], pa.string(), ["1", "x", "02"]),
        ([str(1 << 63)], pa.string(), [str(1 << 63)]),
        ([NULL], pa.string(), [None]),
        (["1_000"], pa.string(), ["1_000"]),
        (["true"], pa.string(), ["true"]),
    ],
)
def test_infer(raw: list[str], kind: pa.DataType, values: list[Any]) -> None:
    assert infer(raw) == (kind, values)
