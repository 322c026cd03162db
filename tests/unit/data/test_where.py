from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkgap._errors import ConfigurationError
from sparkgap.data.filters import And, Compare, Expr, In, IsNull, Not, Or
from sparkgap.data.where import parse

SCHEMA = pa.schema(
    [
        ("i", pa.int32()),
        ("f", pa.float32()),
        ("s", pa.string()),
        ("d", pa.date32()),
        ("b", pa.bool_()),
        ("a", pa.list_(pa.int8())),
    ]
)
DAY = datetime.date(2024, 1, 2)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, None),
        ([], None),
        ([("i", "=", 3)], Compare("=", "i", 3)),
        ([("i", "==", np.int64(3))], Compare("=", "i", 3)),
        ([("i", ">", 3), ("s", "!=", "x")], And(Compare(">", "i", 3), Compare("!=", "s", "x"))),
        ([[("i", "<", 3)], [("b", "=", True), ("d", ">=", DAY)]],
         Or(Compare("<", "i", 3), And(Compare("=", "b", True), Compare(">=", "d", DAY)))),
        ([("s", "in", ["x", "y"])], In("s", ("x", "y"))),
        ([("i", "NOT  IN", range(2))], Not(In("i", (0, 1)))),
        ([("a", "is null")], IsNull("a")),
        ([("a", "is not null")], Not(IsNull("a"))),
        ([("f", "<=", 1)], Compare("<=", "f", 1.0)),
        ([("f", ">", 0.1)], Compare(">", "f", float(np.float32(0.1)))),
    ],
)  # fmt: skip
def test_parse(where: Any, expected: Expr | None) -> None:
    assert parse(where, SCHEMA) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("i > 3", r"where is 'i > 3'\. Write where="),
        (7, r"where is 7\. Write where="),
        ([("i", ">", 3), [("i", ">", 3)]], "Write where="),
        ([[], [("i", ">", 3)]], "Write where="),
        ([("i", ">")], r"where has \('i', '>'\)\. Write where="),
        ([("i", "~", 3)], "operators: =, !=, <, <=, >, >=, in, not in, is null, is not null"),
        ([("i", "is null", 3)], "Write where="),
        ([("x", ">", 3)], "where names the column 'x'; the files have: i, f, s, d, b, a"),
        ([("i", ">", "3")], "compares 'i' of type int32 with '3', which does not fit it"),
        ([("i", ">", 3.5)], r"compares 'i' of type int32 with 3\.5"),
        ([("i", ">", 1 << 40)], "compares 'i' of type int32 with 1099511627776, which does not fit it"),
        ([("i", "=", True)], "compares 'i' of type int32 with True"),
        ([("i", "=", None)], r"with None, which is never true\. Use \('i', 'is null'\)"),
        ([("s", "in", "xy")], "'in' wants a list of values"),
        ([("s", "in", [None])], "with None, which is never true"),
        ([("a", "=", [1])], r"cannot compare the column 'a' of type list<.*>; only is \(not\) null works"),
    ],
)
def test_refused(where: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(where, SCHEMA)
