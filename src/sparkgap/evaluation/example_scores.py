"""`per_example`: how well each row is predicted, to look at the worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.blocks.subject import Subject
from sparkgap.evaluation.api import local_batches
from sparkgap.evaluation.plan import Plan
from sparkgap.evaluation.planning import plan_of
from sparkgap.evaluation.reading import read
from sparkgap.evaluation.row_scores import row_scores
from sparkgap.tensors.vectors import is_vector


def per_example(
    data: Any,
    *,
    label: str = "label",
    prediction: str | None = None,
    probability: str | None = None,
    task: str = "auto",
    classes: Sequence[Any] | None = None,
    positive: Any = None,
    prefix: str = "",
) -> Any:
    """Add scores of each row to a table, to look at the worst ones. Lazy on Spark.

    Args:
        data: as for `evaluate`.
        label: as for `evaluate`, and so the others.
        prediction: column.
        probability: column.
        task: kind of task.
        classes: names of classes.
        positive: the positive class.
        prefix: of the names of the new columns.

    Returns:
        The table with more columns. A classification: ``correct`` (boolean); with probabilities ``loss`` (log-loss) and
        ``confidence`` (the probability of the predicted class); with one for each class ``rank`` of the true class among
        the likeliest, from 1 on. A regression: ``error`` (prediction - label), ``absolute_error``, ``squared_error``. All
        are null where a row has nulls, NaN or infinities.

    Raises:
        ConfigurationError: an option is wrong, or the table has such a column already.
        SignatureError: a column is not there or does not fit.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.createDataFrame([("a", 0, 0.25), ("b", 1, 0.5)], ["id", "label", "probability"])
        >>> gap.per_example(df).orderBy("loss").select("id", "correct", "confidence").collect()
        [Row(id='a', correct=True, confidence=0.75), Row(id='b', correct=False, confidence=0.5)]
    """
    subject = Subject.of(data)
    plan = plan_of(
        dict(subject.types), label=label, prediction=prediction, probability=probability, task=task, classes=classes,
        positive=positive,
    )  # fmt: skip
    fields = _fields(plan)
    names = [prefix + f.name for f in fields]
    there = {n.lower() for n in subject.types}
    clash = [n for n in names if n.lower() in there]
    if clash:
        raise ConfigurationError(
            f"The table has {', '.join(clash)} already. Give the new columns a prefix, e.g. prefix='score_'."
        )
    if subject.local is None:
        return _on_spark(plan, subject.frame, names)
    parts = [_scored(plan, batch) for batch in local_batches(plan, subject.local)]
    columns = [pa.chunked_array([part.field(f.name) for part in parts], f.type) for f in fields]
    return subject.local.beside(np.arange(subject.local.rows), pa.table(columns, names=names))


def _fields(plan: Plan) -> list[pa.Field]:
    double, whole, truth = pa.float64(), pa.int32(), pa.bool_()
    if plan.kind == "regression":
        found = [("error", double), ("absolute_error", double), ("squared_error", double)]
    elif plan.probability is None:
        found = [("correct", truth)]
    else:
        found = [("loss", double), ("correct", truth), ("confidence", double)]
        found += [("rank", whole)] if plan.kind == "vector" else []
    return [pa.field(name, kind) for name, kind in found]


def _scored(plan: Plan, batch: pa.RecordBatch) -> pa.StructArray:
    """Return the scores of all rows, null where a row is not scored."""
    rows = read(plan, batch)
    if plan.kind == "regression":
        assert rows.prediction is not None
        error = rows.prediction - rows.label
        values = {"error": error, "absolute_error": np.abs(error), "squared_error": error * error}
    else:
        found = row_scores(plan, rows)
        scores = {"loss": found.loss, "correct": found.correct, "confidence": found.confidence, "rank": found.rank}
        values = {name: array for name, array in scores.items() if array is not None}
    place = np.full(batch.num_rows, -1, np.int64)
    place[rows.rows] = np.arange(len(rows.rows))
    take = pa.array(place, mask=place < 0)
    fields = _fields(plan)
    return pa.StructArray.from_arrays([pa.array(values[f.name], f.type).take(take) for f in fields], fields=fields)


def _on_spark(plan: Plan, frame: Any, names: list[str]) -> Any:
    from pyspark.sql import functions as F

    def score(columns: Iterator[Any]) -> Iterator[pa.Array]:
        for arrays in columns:
            yield _scored(plan, pa.RecordBatch.from_arrays(list(arrays), names=[plan.place(c) for c in plan.columns]))

    fields = _fields(plan)
    function = _spark.column_function(score, _spark.spark_type(pa.struct(fields)))
    types = _spark.arrow_types(frame.schema)
    given = []
    for name in plan.columns:
        column, kind = F.col(_quoted(name)), types[name]
        given.append(F.unwrap_udt(column) if kind is not None and is_vector(kind) else column)
    added = "sparkgap scores"
    scored = frame.withColumn(added, function(*given))
    kept = [F.col(_quoted(name)) for name in frame.columns]
    new = [F.col(_quoted(added)).getField(f.name).alias(name) for f, name in zip(fields, names, strict=True)]
    return scored.select(*kept, *new)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
