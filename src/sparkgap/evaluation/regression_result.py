"""The metrics of a regression, from its state. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparkgap.evaluation.evaluated import Evaluation
from sparkgap.evaluation.float_counts import FloatCounts, grouped
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.regression_state import ABSOLUTE, RELATIVE, RELATIVE_WEIGHT, SQUARED, RegressionState

_NAN = float("nan")
REGRESSION_METRICS = (
    "mae", "mse", "rmse", "r2", "explained_variance", "mape", "max_error", "median_absolute_error", "bias",
)  # fmt: skip


def regression_result(plan: Plan, state: RegressionState) -> Evaluation:
    """Return the evaluation of a regression."""
    weight = state.moments.weight
    if not weight:
        why = dict.fromkeys(REGRESSION_METRICS, "there are no rows")
        return Evaluation(
            "regression",
            state.used,
            state.skipped,
            dict.fromkeys(REGRESSION_METRICS, _NAN),
            why,
            quantiles=dict.fromkeys(plan.quantiles, _NAN),
        )
    totals = state.totals.values()
    reasons: dict[str, str] = {}
    metrics = {"mae": totals[ABSOLUTE] / weight, "mse": totals[SQUARED] / weight}
    metrics["rmse"] = math.sqrt(metrics["mse"])
    metrics.update(_of_variance(state, float(totals[SQUARED]), reasons))
    metrics["mape"] = totals[RELATIVE] / totals[RELATIVE_WEIGHT] if totals[RELATIVE_WEIGHT] else _NAN
    if state.zeros:
        reasons["mape"] = f"without {state.zeros} rows whose label is 0"
    metrics["max_error"] = state.greatest
    smooth = plan.weight is None
    (median,), median_error = _quantiles(_absolute(state.errors), (0.5,), smooth)
    quantiles, error = _quantiles(state.errors, plan.quantiles, smooth)
    metrics["median_absolute_error"], metrics["bias"] = median, float(state.moments.mean[1])
    errors = {"median_absolute_error": median_error, "quantiles": error}
    return Evaluation(
        "regression",
        state.used,
        state.skipped,
        {name: float(metrics[name]) for name in REGRESSION_METRICS},
        reasons,
        errors,
        quantiles=dict(zip(plan.quantiles, quantiles, strict=True)),
    )


def _of_variance(state: RegressionState, squared: float, reasons: dict[str, str]) -> dict[str, float]:
    label, error = state.moments.squares.tolist()
    if not label:
        reasons.update(dict.fromkeys(("r2", "explained_variance"), "all labels are equal"))
        return {"r2": _NAN, "explained_variance": _NAN}
    return {"r2": 1 - squared / label, "explained_variance": 1 - error / label}


def _absolute(errors: FloatCounts) -> FloatCounts:
    """Return the counts of absolute values."""
    codes = np.where(errors.codes < 0, ~errors.codes, errors.codes)
    return FloatCounts(*grouped(codes, errors.counts), errors.shift, errors.limit)


def _quantiles(counts: FloatCounts, wanted: Sequence[float], smooth: bool) -> tuple[list[float], float]:
    """Return quantiles and how far off each may be at most.

    Without weights they are those of NumPy, between two rows where they fall between them. With weights: the least value
    that has this share of the weight up to it.
    """
    low, high = counts.value_ranges()
    up_to = np.cumsum(counts.counts[:, 0])
    middle, half = low + (high - low) / 2, (high - low) / 2
    found, worst = [], 0.0
    for q in wanted:
        place = q * (up_to[-1] - 1) if smooth else q * up_to[-1]
        first = math.floor(place) if smooth else place
        # Row number n, from 0 on, is in the first bin with more than n rows up to it.
        i = int(np.searchsorted(up_to, first, side="right" if smooth else "left"))
        j = int(np.searchsorted(up_to, first + 1, side="right")) if smooth and place > first else i
        i, j = min(i, len(up_to) - 1), min(j, len(up_to) - 1)
        if smooth:
            found.append(float(middle[i] + (middle[j] - middle[i]) * (place - first)))
        else:
            found.append(float(middle[i]))
        worst = max(worst, float(half[i]), float(half[j]))
    return found, worst
