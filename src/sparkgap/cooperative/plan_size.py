"""How large Spark's plan says that a DataFrame is. Driver side; starts no job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sparkgap import _spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_STATISTICS = re.compile(r"Statistics\(sizeInBytes=([0-9.E+]+) ([KMGTPE]i)?B\b")
_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}


def plan_bytes(df: DataFrame) -> int | None:
    """Return the bytes of a DataFrame by its optimized plan; None where it cannot be known.

    It is an estimate: filters count for nothing, and an array has one element.
    """
    try:
        if _spark.is_connect(df.sparkSession):
            return said(df._explain_string(mode="cost"))
        return int(str(df._jdf.queryExecution().optimizedPlan().stats().sizeInBytes()))
    except Exception:  # plans have no stable interface: what cannot be read there is not known
        return None


def said(text: str) -> int | None:
    """Return the size that ``explain(mode="cost")`` says first: that of the whole plan. Pure."""
    found = _STATISTICS.search(text)
    return None if found is None else int(float(found[1]) * _UNITS[found[2] or ""])
