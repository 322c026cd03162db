"""A task's own error is what the driver raises, whatever Spark has put around it."""

from __future__ import annotations

import traceback

import pytest

from sparkgap._errors import DataError, SignatureError
from sparkgap._task_errors import ours_in, own_errors


def as_spark_tells(error: Exception) -> str:
    try:
        raise error
    except Exception:
        return f"[PYTHON] Job aborted. Lost task 0.3:\n{traceback.format_exc()}\n\tat org.apache.spark.api.python"


def test_it_comes_out_with_its_class_and_message() -> None:
    with pytest.raises(SignatureError, match=r"^Column `x` has no type\.$") as caught, own_errors():
        raise RuntimeError(as_spark_tells(SignatureError("Column `x` has no type.")))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("text", ["java.lang.Foo", "sparkgap._errors.NotOne: what", as_spark_tells(OSError("no"))])
def test_other_errors_stay_what_they_are(text: str) -> None:
    error = RuntimeError(text)
    with pytest.raises(RuntimeError) as caught, own_errors():
        raise error
    assert caught.value is error


def test_the_first_one_counts() -> None:
    found = ours_in(as_spark_tells(DataError("first")) + as_spark_tells(SignatureError("second")))
    assert isinstance(found, DataError)
    assert str(found) == "first"
