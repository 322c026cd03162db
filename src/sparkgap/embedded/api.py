"""`transform`: a model over a table, lazily."""

from __future__ import annotations

import functools
import os
import pickle
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.data.source import Source
from sparkgap.embedded import planning
from sparkgap.embedded.boundary import Decision, decide
from sparkgap.embedded.explanation import Explanation, remember
from sparkgap.embedded.metadata import with_shape
from sparkgap.embedded.options import Batching, OnError, Sampling, check_boundary
from sparkgap.embedded.plan import Input, Output, TransformPlan
from sparkgap.embedded.worker import run_files, run_rows
from sparkgap.models import bundle
from sparkgap.models.base import TransformsItself
from sparkgap.models.model import Model, load
from sparkgap.monitor import driver
from sparkgap.monitor.summary import watch
from sparkgap.tensors.encode import arrow_type

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_KEY_TYPES = (pa.types.is_integer, pa.types.is_string, pa.types.is_date)
_MAX_KEYS = 3


def transform(
    data: DataFrame | Source,
    model: Any,
    *,
    inputs: Any = None,
    outputs: Any = None,
    keep: Any = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    boundary: str = "auto",
    device: str = "auto",
    sample: int | Sampling = 0,
) -> DataFrame:
    """Apply a model to the rows of a table.

    Lazy: the model runs when an action asks for the result, on the executors, loaded once in each Python worker.
    Where the model does not tell its outputs, one row of `data` is run on the driver here, to find them.

    Args:
        data: a DataFrame (classic or Connect), or `gap.files(...)` / `gap.images(...)`.
        model: a `Model`, or anything that `load` takes: a path, a module, an estimator, a function.
        inputs: what feeds the model: column names in the order of its input tensors, or ``{tensor: source}``, where
            a source is a column name, a list of scalar columns to be stacked into one tensor of shape (batch, k), or
            a decoder such as ``gap.image("content", size=(224, 224))``. Default: the column of each tensor's name.
        outputs: column names in the order of the output tensors, or ``{tensor: column}``. Default: their own names.
            A tensor of shape (batch,) gives a scalar column, (batch, n) an array, higher ranks nested arrays; with
            ``{tensor: (column, "binary")}`` any rank gives its little-endian bytes.
        keep: columns that stay. Default: all (for images: the path).
        batch_size: rows the model gets at a time: exactly so many, but for the last batch of a partition. Default:
            by the bytes of a row, about 8 MiB.
        on_error: for rows that cannot be decoded or scored: ``"raise"`` fails and names the row, ``"null"`` keeps it
            with null outputs, ``"skip"`` leaves it out; see `OnError`. Counts and reasons are in `gap.summary`.
        boundary: ``"rows"`` sends rows through Spark; ``"files"`` lets executors read the files by themselves;
            ``"auto"`` takes files where the answer is certain to be the same. `gap.explain` tells which and why.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``.
        sample: so many rows of each task are shown on the page while it runs, decoded, with their outputs;
            ``Sampling(4, layers=["fc1"])`` shows activations, too.

    Returns:
        A DataFrame with the kept columns and one column an output.

    Raises:
        SignatureError: a column is missing or cannot feed its tensor.
        ConfigurationError: an option is wrong, a name collides, or the files boundary is not possible.
        ModelError: the model is not recognised, unreadable, or gives no tensors.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(4).selectExpr("id", "float(id) AS x")
        >>> out = gap.transform(df, lambda x: {"y": 2 * x + 1}, keep=["id"])
        >>> [r.y for r in out.orderBy("id").collect()]
        [1.0, 3.0, 5.0, 7.0]
    """
    if isinstance(model, TransformsItself):
        return model.transform(
            data, inputs=inputs, outputs=outputs, keep=keep, batch_size=batch_size, boundary=boundary, on_error=on_error,
            device=device, sample=sample,
        )  # fmt: skip
    batching, policy = Batching.of(batch_size), OnError.of(on_error)
    check_boundary(boundary)
    _check_data(data)
    spark = _spark.active_session() if isinstance(data, Source) else data.sparkSession
    loaded = load(model)
    check_batch(batching, loaded)
    decision = decide(data, boundary, spark)
    types = _types(data)
    planned = planning.plan_inputs(inputs, loaded.signature, types)
    loaded, planned = planning.complete(loaded, planned, lambda: sample_rows(decision, planned))
    results = planning.plan_outputs(outputs, loaded.signature)
    kept = planning.plan_keep(keep, types, data.default_keep if isinstance(data, Source) else None)
    planning.check_names(kept, results, policy.column)
    plan = TransformPlan(
        run="",
        model=shipped(loaded, spark),
        inputs=planned,
        outputs=results,
        keep=kept,
        keys=_keys(kept, types),
        batching=fixed(batching, loaded),
        on_error=policy,
        device=device,
        channel=None,
        sample=Sampling.of(sample),
    )
    explanation = Explanation.of(plan, loaded, decision, spark)
    opened = driver.monitor().open(spark, "transform", label(model, loaded), _details(explanation, spark))
    frame = _frame(replace(plan, run=opened.run, channel=opened.address), decision, spark)
    watch(frame, opened)
    remember(frame, explanation)
    return frame


def label(given: Any, loaded: Model) -> str:
    """Return a short name of a model for people: of its file, its function or its class."""
    if isinstance(given, str | os.PathLike):
        return PurePath(given).name
    if isinstance(given, Model):
        return f"{loaded.adapter} model"
    return str(getattr(given, "__name__", type(given).__name__))


def _details(explanation: Explanation, spark: SparkSession) -> dict[str, str]:
    """Facts of the plan for those who watch the run."""
    slots = _spark.known_slots(spark)
    facts = {name: f"{choice} ({why})" if why else choice for name, choice, why in explanation.rows}
    return facts | {"boundary": explanation.boundary, "reason": explanation.reason, "slots": str(slots or "unknown")}


def _check_data(data: Any) -> None:
    if isinstance(data, Source) or (hasattr(data, "mapInArrow") and hasattr(data, "sparkSession")):
        return
    raise ConfigurationError(
        f"data must be a Spark DataFrame, gap.files(...) or gap.images(...); got a {type(data).__module__}."
        f"{type(data).__qualname__}. For a pandas or Arrow table: spark.createDataFrame(table)."
    )


def check_batch(batching: Batching, model: Model) -> None:
    """Refuse a batch size that a model with a fixed batch axis cannot take."""
    fixed = model.signature.batch
    if fixed is not None and batching.size is not None and batching.size % fixed:
        raise ConfigurationError(
            f"batch_size is {batching.size} and this model takes exactly {fixed} rows a call. Use a multiple of {fixed}, "
            "or leave batch_size out."
        )


def fixed(batching: Batching, model: Model) -> Batching:
    """Take the batch size from a model with a fixed batch axis, where the user named none."""
    fixed = model.signature.batch
    return batching if fixed is None or batching.size is not None else replace(batching, size=fixed)


def _types(data: DataFrame | Source) -> planning.Types:
    if isinstance(data, Source):
        return {f.name: f.type for f in data.schema}
    return _spark.arrow_types(data.schema)


def sample_rows(decision: Decision, inputs: tuple[Input, ...]) -> pa.RecordBatch:
    """Fetch a few rows of the input columns to the driver."""
    names = tuple(dict.fromkeys(c for i in inputs for c in i.decoder.columns))
    if decision.source is not None:
        chunks = (
            chunk.batch
            for split in decision.source.splits(tasks=1)
            for chunk in decision.source.read(split, columns=names, rows=planning.SAMPLE_ROWS)
        )
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([decision.source.schema.field(n) for n in names]))
        return next((c for c in chunks if c.num_rows), empty)
    if decision.frame is None:
        raise ConfigurationError("There is neither a DataFrame nor a source to take a sample of.")
    table = _spark.columns(decision.frame, names).limit(planning.SAMPLE_ROWS).toArrow().combine_chunks()
    columns = [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in table.columns]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def _keys(keep: tuple[str, ...], types: planning.Types) -> tuple[str, ...]:
    """Pick the kept columns that name a row in messages: the first few integers, strings and dates."""
    named = [n for n in keep if (kind := types[n]) is not None and any(test(kind) for test in _KEY_TYPES)]
    return tuple(named[:_MAX_KEYS])


def shipped(model: Model, spark: SparkSession) -> bundle.BundleRef:
    """Make sure that executors can get the bundle; on this machine they read the driver's files."""
    if _spark.shares_files_with_executors(spark):
        return model.ref
    return replace(model.ref, artifact=_spark.send_file(spark, bundle.archive(model.ref)))


def _frame(plan: TransformPlan, decision: Decision, spark: SparkSession) -> DataFrame:
    if decision.source is not None:
        return _files_frame(plan, decision.source, _kept_fields(plan, decision), spark)
    if decision.frame is None:
        raise ConfigurationError("The rows boundary needs a DataFrame.")
    given = _spark.columns(decision.frame, plan.columns)
    from pyspark.sql.types import StructType

    schema = StructType([*_kept_fields(plan, decision), *_new_fields(plan)])
    return given.mapInArrow(functools.partial(run_rows, plan), schema)


def _files_frame(plan: TransformPlan, source: Source, kept: list[Any], spark: SparkSession) -> DataFrame:
    from pyspark.sql.types import StructType

    splits = [pickle.dumps(split) for split in source.splits(tasks=_spark.slots(spark))]
    tasks = max(1, len(splits))
    numbers = spark.range(0, len(splits), 1, tasks)
    schema = StructType([*kept, *_new_fields(plan)])
    return numbers.mapInArrow(functools.partial(run_files, plan, source, splits), schema)


def _kept_fields(plan: TransformPlan, decision: Decision) -> list[Any]:
    """Kept columns keep Spark's own field, so that user-defined types, char lengths and metadata stay."""
    from pyspark.sql.types import StructField

    if decision.frame is not None:
        return [decision.frame.schema[name] for name in plan.keep]
    if decision.source is None:
        return []
    return [StructField(n, _spark.spark_type(decision.source.schema.field(n).type)) for n in plan.keep]


def _new_fields(plan: TransformPlan) -> list[Any]:
    """Return the Spark fields of the columns that the plan adds."""
    from pyspark.sql.types import StringType, StructField

    fields = [StructField(o.column, output_type(o), metadata=with_shape(None, o.spec.shape)) for o in plan.outputs]
    error = plan.on_error.column
    return fields if error is None else [*fields, StructField(error, StringType())]


def output_type(output: Output) -> Any:
    """Return the Spark type of an output column."""
    if output.encoding == "vector":
        from pyspark.ml.linalg import VectorUDT

        return VectorUDT()
    return _spark.spark_type(arrow_type(output.spec, output.encoding))
