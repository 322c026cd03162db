"""`evaluate`: metrics of predictions, in one pass over a table."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import DataError
from sparkgap.blocks.keys import codes
from sparkgap.blocks.local import Local
from sparkgap.blocks.subject import Subject
from sparkgap.evaluation.evaluated import Evaluation
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.planning import plan_of
from sparkgap.evaluation.results import key_table, numbers_of, result_of
from sparkgap.evaluation.states import State, merged_state, state_of
from sparkgap.evaluation.task import (
    NUMBER,
    NUMBERS,
    PARTITION,
    REFUSED,
    STATE,
    key_states,
    merged_states,
    partial_states,
    unpacked_states,
)  # fmt: skip

_ROWS = 1 << 14


def evaluate(
    data: Any,
    *,
    label: str = "label",
    prediction: str | None = None,
    probability: str | None = None,
    task: str = "auto",
    by: str | Sequence[str] | None = None,
    weight: str | None = None,
    classes: Sequence[Any] | None = None,
    positive: Any = None,
    top_k: Sequence[int] = (5,),
    bins: int = 10,
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    nulls: str = "skip",
) -> Evaluation:
    """Compare predictions with labels: metrics, confusion matrix, curves, calibration. Runs now, in one pass.

    Rows are looked at where they lie; each partition leaves sums of some kilobytes. All metrics are exact to rounding,
    whatever the partitions are, but for areas under curves and quantiles of errors: these are exact up to 65 536 different
    scores or errors (each of several classes has its share of that, at least 8 192), and then come with a bound of how far
    off they may be, in `Evaluation.errors`.

    Args:
        data: a Spark DataFrame, `gap.files(...)`, or a table of pandas, Arrow or polars, which is evaluated here.
        label: column of the truth: class numbers, text, or quantities.
        prediction: column of predictions, of the label's kind. By default columns named ``prediction`` and ``probability``
            are taken, if neither is named; without predictions, the likeliest class is the prediction.
        probability: column of probabilities: an array or a vector with one a class, or a number for the positive class.
        task: ``"classification"``, ``"binary"``, ``"regression"``; ``"auto"``: a classification where there are
            probabilities, or label and prediction are both whole numbers or text; a regression where both are floats.
        by: key column or columns: the same metrics for each key, too, as `Evaluation.table()`. Null and NaN are keys.
        weight: column of weights, not negative.
        classes: names of the classes in the order of the probabilities, where labels are no numbers from 0 on.
        positive: the class that a binary evaluation is about; by default the second of `classes`, or 1.
        top_k: is the true class among the k likeliest? Of equal probabilities the first class comes first.
        bins: of the calibration, equally wide.
        quantiles: of the error of a regression, in 0…1.
        nulls: rows with nulls, NaN or infinities in a column that is used: ``"skip"`` leaves them out and counts them in
            `Evaluation.skipped`, ``"raise"`` refuses.

    Returns:
        The evaluation. Metrics without a value, such as the area under the curve of one class, are NaN, with a reason.

    Raises:
        ConfigurationError: an option is wrong, or the task cannot be told from the columns.
        SignatureError: a column is not there or does not fit.
        DataError: a label is none of the classes, probabilities are none; or there are nulls, and ``nulls="raise"``.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.createDataFrame([(0, 0.1), (1, 0.8), (1, 0.4), (0, 0.3)], ["label", "probability"])
        >>> found = gap.evaluate(df)
        >>> found["accuracy"], found["roc_auc"]
        (0.75, 1.0)
    """
    subject = Subject.of(data)
    plan = plan_of(
        dict(subject.types), label=label, prediction=prediction, probability=probability, task=task, weight=weight, by=by,
        classes=classes, positive=positive, top_k=top_k, bins=bins, quantiles=quantiles, nulls=nulls,
    )  # fmt: skip
    return _here(plan, subject.local) if subject.local is not None else _on_spark(plan, subject.frame)


def local_batches(plan: Plan, local: Local) -> list[pa.RecordBatch]:
    """Return the rows of a table of this process as tasks get theirs."""
    whole = local.batches(plan.columns)
    return [b.slice(first, _ROWS) for b in whole for first in range(0, b.num_rows, _ROWS)]


def _here(plan: Plan, local: Local) -> Evaluation:
    batches = local_batches(plan, local)
    if not plan.by:
        return result_of(plan, merged_state(plan, (state_of(plan, b) for b in batches)))
    stretches = list(key_states(plan, iter(batches)))
    if not stretches:
        return _with_keys(plan, merged_state(plan, []), [pa.array([], kind) for kind in plan.key_types], [])
    keys = [pa.concat_arrays(list(column)) for column in zip(*(k for k, _ in stretches), strict=True)]
    by_key: dict[int, list[State]] = {}
    first: dict[int, int] = {}
    states = [s for _, part in stretches for s in part]
    for row, (code, state) in enumerate(zip(codes(keys)[0].tolist(), states, strict=True)):
        first.setdefault(code, row)
        by_key.setdefault(code, []).append(state)
    merged = [merged_state(plan, same) for same in by_key.values()]
    numbers = [numbers_of(plan, result_of(plan, state)) for state in merged]
    return _with_keys(plan, merged_state(plan, merged), [k.take(pa.array(list(first.values()))) for k in keys], numbers)


def _with_keys(plan: Plan, state: State, keys: Sequence[Any], numbers: list[Any]) -> Evaluation:
    found = result_of(plan, state)
    width = len(numbers_of(plan, found))
    return replace(found, by=key_table(plan, keys, np.array(numbers, np.float64).reshape(len(numbers), width)))


def _on_spark(plan: Plan, frame: Any) -> Evaluation:
    table = _states_on_spark(plan, frame).toArrow()
    refused = table.column(REFUSED).drop_null().to_pylist()
    if refused:
        raise DataError(refused[0])
    state = merged_state(plan, unpacked_states(table))
    if not plan.by:
        return result_of(plan, state)
    of_keys = table.filter(table.column(NUMBERS).is_valid()).combine_chunks()
    return _with_keys(plan, state, [of_keys.column(f"k{i}") for i in range(len(plan.by))], of_keys.column(NUMBERS).to_pylist())


def _states_on_spark(plan: Plan, frame: Any) -> Any:
    """Return the lazy table of merged states: first a partition each, then those of a key, or of some partitions."""
    from pyspark.sql import types as T

    kinds = [frame.schema[name].dataType for name in plan.by] or [T.IntegerType()]
    names = [f"k{i}" for i in range(len(kinds))]
    keys = [T.StructField(name, kind) for name, kind in zip(names, kinds, strict=True)]
    places = [T.StructField(name, T.IntegerType()) for name in (PARTITION, NUMBER)]
    told = [T.StructField(STATE, T.BinaryType()), T.StructField(REFUSED, T.StringType())]
    partials = _spark.columns(frame, plan.columns).mapInArrow(
        functools.partial(partial_states, plan), T.StructType([*keys, *places, *told])
    )
    together = partials.repartition(*names).sortWithinPartitions(*names, PARTITION, NUMBER)
    numbers = T.StructField(NUMBERS, T.ArrayType(T.DoubleType()))
    return together.mapInArrow(functools.partial(merged_states, plan), T.StructType([*keys, numbers, *told]))
