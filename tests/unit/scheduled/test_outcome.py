"""Endings in the journal and on the way, and what users get of them."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparkgap as gap
from sparkgap.scheduled.bench import Ended
from sparkgap.scheduled.outcome import KINDS, Ending, decode, encode, is_ok, outcome, value_of
from sparkgap.scheduled.report import Columns, Report
from sparkgap.scheduled.tables import table_of

TEXTS = st.dictionaries(st.sampled_from(["error", "message", "traceback", "output"]), st.text(min_size=1, max_size=10))
ENDINGS = st.builds(
    Ending, st.sampled_from(KINDS), st.binary(max_size=20), st.integers(1, 65535), st.floats(0, 1e6), st.floats(0, 2e9),
    st.integers(0, 1 << 50), st.none() | st.integers(-255, 255), st.none() | st.integers(1, 64), st.text(max_size=10), TEXTS,
)  # fmt: skip


@given(ENDINGS)
def test_an_ending_comes_back(ending: Ending) -> None:
    raw = encode(ending)
    assert decode(raw) == ending
    assert is_ok(raw) == (ending.kind == "ok")


@given(ENDINGS, st.data())
def test_a_cut_ending_is_refused(ending: Ending, data: st.DataObject) -> None:
    raw = encode(ending)
    with pytest.raises(ValueError, match="outcome"):
        decode(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.lists(ENDINGS, max_size=10))
def test_a_report_carries_endings(told: list[Ending]) -> None:
    report = Report()
    for number, e in enumerate(told):
        texts = {name: e.texts.get(name, "") for name in ("error", "message", "traceback", "output")}
        ended = Ended(
            number, e.kind, e.value, exit_code=e.exit_code, signal=e.signal, seconds=e.seconds, peak_rss=e.peak_rss,
            started=e.started, **texts,
        )  # fmt: skip
        report.add(10 + number, ended)
    assert bool(report) == bool(told)
    header, payload = report.take()
    got = list(Columns(header, memoryview(payload)).endings("here"))
    assert [n for n, _ in got] == [10 + n for n in range(len(told))]
    for (_, e), wanted in zip(got, told, strict=True):
        assert (e.kind, e.value, e.seconds, e.host) == (wanted.kind, wanted.value, wanted.seconds, "here")
        if wanted.kind != "ok":
            assert (e.exit_code, e.signal, dict(e.texts)) == (wanted.exit_code, wanted.signal, dict(wanted.texts))
    assert not report


class Unloadable:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_a_value_that_cannot_be_unpickled_is_an_outcome_without_one() -> None:
    raw = encode(Ending("ok", pickle.dumps(Unloadable())))
    found = outcome(3, "item", decode(raw))
    assert (found.kind, found.ok, found.value) == ("result", False, None)
    assert "cannot be unpickled on the driver (ValueError" in str(found.error)
    with pytest.raises(gap.TaskError, match="cannot be unpickled"):
        value_of(3, raw)
    with pytest.raises(gap.TaskError, match="Item 3"):
        found.unwrap()


def test_errors_travel() -> None:
    found = outcome(1, None, Ending("exception", texts={"message": "no", "error": "KeyError", "traceback": "line 3"}))
    assert found.error is not None
    again = pickle.loads(pickle.dumps(found.error))
    assert (again.index, again.kind, again.error, str(again)) == (1, "exception", "KeyError", str(found.error))
    assert "line 3" in str(again)


@pytest.mark.parametrize(
    ("values", "kind", "column"),
    [
        ([1, None, 3], "int64", [1, None, 3]),
        ([1, 2.5], "double", [1.0, 2.5]),
        ([{"a": 1}, {"b": 2}], "struct<a: int64, b: int64>", [{"a": 1, "b": None}, {"a": None, "b": 2}]),
        ([None], "null", [None]),
        ([], "null", []),
        ([1, "a"], "binary", None),
        ([object], "binary", None),
    ],
)
def test_values_become_a_column(values: list[Any], kind: str, column: list[Any] | None) -> None:
    table = table_of(outcome(n, n, Ending("ok", pickle.dumps(v))) for n, v in enumerate(values))
    assert str(table["value"].type) == kind
    got = table["value"].to_pylist()
    assert got == column if column is not None else [pickle.loads(v) for v in got] == values
