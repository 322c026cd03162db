"""Timing one part of the demo: the same work twice, once from cold and once with the model in the workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkgap import explain, summary

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparkgap.embedded.explanation import Explanation
    from sparkgap.monitor.summary import RunSummary


@dataclass(frozen=True)
class Pass:
    """One action on a transformed DataFrame.

    Args:
        seconds: wall time.
        summary: what its tasks reported.
    """

    seconds: float
    summary: RunSummary


@dataclass(frozen=True)
class Timing:
    """A part's two passes.

    Args:
        rows: rows of the table.
        first: includes importing the framework and loading the model in every worker.
        again: the same once more, results thrown away.
        explanation: what was going to happen and why, told before.
    """

    rows: int
    first: Pass
    again: Pass
    explanation: Explanation

    @property
    def rate(self) -> float:
        """Rows a second of the second pass, everything included."""
        return self.rows / self.again.seconds


def measure(out: DataFrame, rows: int, write: Callable[[], None]) -> Timing:
    """Run `write`, which is an action on `out`, then `out` once more into nothing.

    Args:
        out: what `gap.transform` returned.
        rows: how many rows its data has.
        write: computes `out` and keeps the result.
    """
    first = _timed(out, write)
    again = _timed(out, lambda: out.write.format("noop").mode("overwrite").save())
    return Timing(rows, first, again, explain(out))


def _timed(out: DataFrame, action: Callable[[], None]) -> Pass:
    start = time.perf_counter()
    action()
    return Pass(time.perf_counter() - start, summary(out))
