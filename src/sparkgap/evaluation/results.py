"""Results of either kind, whole or as the numbers of a key's row. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from sparkgap.evaluation.class_result import class_metric_names, class_result
from sparkgap.evaluation.class_state import ClassState
from sparkgap.evaluation.evaluated import Evaluation
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.regression_result import REGRESSION_METRICS, regression_result
from sparkgap.evaluation.states import State

_COUNTS = ("rows", "skipped")


def result_of(plan: Plan, state: State) -> Evaluation:
    """Return what a state tells."""
    return class_result(plan, state) if isinstance(state, ClassState) else regression_result(plan, state)


def _names(plan: Plan) -> tuple[str, ...]:
    return REGRESSION_METRICS if plan.kind == "regression" else class_metric_names(plan)


def numbers_of(plan: Plan, found: Evaluation) -> list[float | None]:
    """Return rows, skipped, the metrics, and the bound of the area, in a fixed order; None for those that are not there."""
    counts = [float(found.rows), float(sum(found.skipped.values()))]
    return [*counts, *(found.metrics.get(n) for n in _names(plan)), found.errors.get("roc_auc")]


def key_table(plan: Plan, keys: Sequence[pa.Array], numbers: np.ndarray) -> pa.Table:
    """Return one row a key.

    Args:
        plan: names the keys.
        keys: columns.
        numbers: (keys, ...) of `numbers_of`; NaN for those that are not there, too.
    """
    names = [*_COUNTS, *_names(plan), "auc_error"]
    columns = dict(zip(plan.by, keys, strict=True))
    for name, values in zip(names, numbers.T, strict=True):
        if name in _COUNTS:
            columns[name] = pa.array(values.astype(np.int64))
        elif not np.isnan(values).all():
            columns[name] = pa.array(values)
    return pa.table(columns)
