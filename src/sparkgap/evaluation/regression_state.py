"""What a regression leaves of rows: sums that merge, whatever the split. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparkgap.evaluation.float_counts import FloatCounts, codes_of_values
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.reading import Examples
from sparkgap.evaluation.sums import Moments, Totals

ABSOLUTE, SQUARED, RELATIVE, RELATIVE_WEIGHT = range(4)
"""Places of the totals."""


@dataclass(frozen=True)
class RegressionState:
    """A regression of some rows; an error is prediction - label.

    Args:
        seen: rows that were looked at.
        used: rows that count.
        skipped: reason -> rows left out.
        zeros: rows whose label is 0, which have no relative error.
        moments: of the label and of the error.
        totals: see `ABSOLUTE` and what follows it.
        greatest: greatest absolute error.
        errors: weights by error.
    """

    seen: int
    used: int
    skipped: dict[str, int]
    zeros: int
    moments: Moments
    totals: Totals
    greatest: float
    errors: FloatCounts

    @staticmethod
    def of(plan: Plan, rows: Examples) -> RegressionState:
        """Look at rows."""
        assert rows.prediction is not None
        error = rows.prediction - rows.label
        absolute, weight = np.abs(error), rows.weight
        some = rows.label != 0
        with np.errstate(over="ignore"):  # of labels next to zero
            relative = absolute[some] / np.abs(rows.label[some])
        sums = [
            (absolute * weight).sum(),
            (error * error * weight).sum(),
            (relative * weight[some]).sum(),
            weight[some].sum(),
        ]
        return RegressionState(
            rows.seen,
            len(error),
            dict(rows.skipped),
            int((~some).sum()),
            Moments.of(np.stack([rows.label, error], axis=1), weight),
            Totals.of(np.array(sums)),
            float(absolute.max(initial=0.0)),
            FloatCounts.of(codes_of_values(error), weight[:, None], plan.limit),
        )

    @staticmethod
    def merged(plan: Plan, parts: Sequence[RegressionState]) -> RegressionState:
        """Lay rows together."""
        skipped: dict[str, int] = {}
        for part in parts:
            for reason, count in part.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        return RegressionState(
            sum(p.seen for p in parts),
            sum(p.used for p in parts),
            skipped,
            sum(p.zeros for p in parts),
            Moments.merged([p.moments for p in parts]),
            Totals.merged([p.totals for p in parts]),
            max(p.greatest for p in parts),
            FloatCounts.merged([p.errors for p in parts]),
        )
