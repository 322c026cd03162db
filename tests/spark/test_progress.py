"""The progress line over real work, on classic and Connect."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from sparkgap._progress import progress

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def shown(spark: SparkSession, work: str) -> str:
    text = StringIO()
    with progress(spark, enabled=True, console=Console(file=text, force_terminal=True, width=100)):
        spark.range(0, 40, 1, 5).selectExpr(work).write.format("noop").mode("overwrite").save()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())


@pytest.mark.classic
def test_the_last_line_counts_the_tasks_once(spark: SparkSession) -> None:
    spark.range(0, 100, 1, 7).count()  # work of before does not count
    text = shown(spark, "id")
    assert re.search(r"5 of 5 tasks in \d+\.\d s\n$", text)
    assert text.count(" of ") == 1


def test_one_last_line_stays(spark: SparkSession) -> None:
    text = shown(spark, "id")
    assert re.search(r"(5 of 5 tasks in|done in) \d+\.\d s( \(\d of \d tasks seen\))?\n$", text)
    assert len(re.findall(r"(tasks in|done in) ", text)) == 1


def test_an_error_of_the_work_comes_through_and_leaves_no_last_line(spark: SparkSession) -> None:
    console = Console(file=StringIO(), force_terminal=True)
    with pytest.raises(Exception, match="no good"), progress(spark, enabled=True, console=console):
        spark.range(3).selectExpr("raise_error('no good')").collect()
    assert "tasks in" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert spark.range(3).count() == 3
