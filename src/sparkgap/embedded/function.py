"""`udf`: a model as a column expression, for `select` and for SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.embedded import planning
from sparkgap.embedded.api import check_batch, fixed, label, output_type, sample_rows, shipped
from sparkgap.embedded.boundary import Decision
from sparkgap.embedded.options import Batching, OnError
from sparkgap.embedded.plan import Input, Output, TransformPlan
from sparkgap.embedded.worker import run_columns
from sparkgap.models.model import Model, load
from sparkgap.monitor import driver
from sparkgap.monitor.summary import watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparkgap.monitor.driver import Opened


def udf(
    model: Any,
    *,
    inputs: Any = None,
    outputs: Any = None,
    like: DataFrame | None = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    device: str = "auto",
) -> Any:
    """Return a model as a function of columns, which can also be registered for SQL.

    The function takes one column an input tensor, in the model's order (or the columns that `inputs` names, in that
    order), whatever the names of the columns it is called with. One output gives its column; several give a struct.
    The other columns of the query stay in the JVM. To send whole tables through a model, `transform` is faster.

    Args:
        model: a `Model`, or anything that `load` takes.
        inputs: as in `transform`; the names only tell the order of the arguments, e.g. ``["a", "b", "c"]`` for three
            scalar columns that are stacked into one tensor.
        outputs: as in `transform`.
        like: a DataFrame with the columns that `inputs` names: one of its rows is run on the driver to find the outputs
            of a model that does not tell them.
        batch_size: as in `transform`.
        on_error: ``"raise"`` or ``"null"``; a column expression cannot leave rows out.
        device: as in `transform`.

    Returns:
        A Spark user-defined function: call it with columns, or ``spark.udf.register("score", f)``.

    Raises:
        ConfigurationError: the model does not tell its outputs and there is no `like`; or `on_error="skip"`.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(3).selectExpr("float(id) AS x")
        >>> double = gap.udf(lambda x: {"y": 2 * x}, like=df)
        >>> [r[0] for r in df.select(double("x")).collect()]
        [0.0, 2.0, 4.0]
    """
    plan, opened = column_plan(
        model, inputs=inputs, outputs=outputs, like=like, batch_size=batch_size, on_error=on_error, device=device
    )
    function = _spark.column_function(body_of(plan), return_type(plan.outputs))
    watch(function, opened)
    return function


def column_plan(
    model: Any,
    *,
    inputs: Any,
    outputs: Any,
    like: DataFrame | None,
    batch_size: int | Batching | None,
    on_error: str | OnError,
    device: str,
) -> tuple[TransformPlan, Opened]:
    """Plan a model over the arguments of a column function, and open its run; see `udf` for what is taken."""
    policy = OnError.of(on_error)
    if policy.policy == "skip" or policy.column is not None:
        raise ConfigurationError(
            f"A column expression gives one value a row, so on_error cannot be {policy!r}. Use 'raise' or 'null', or "
            "gap.transform."
        )
    spark = _spark.active_session()
    loaded = load(model)
    batching = Batching.of(batch_size)
    check_batch(batching, loaded)
    loaded, planned = _inputs(loaded, inputs, like)
    results = planning.plan_outputs(outputs, loaded.signature)
    details = {"boundary": "rows", "batch": str(batching.size or "by the bytes of a row"), "device": device}
    opened = driver.monitor().open(spark, "udf", label(model, loaded), details)
    plan = TransformPlan(
        run=opened.run,
        model=shipped(loaded, spark),
        inputs=planned,
        outputs=results,
        keep=(),
        keys=(),
        batching=fixed(batching, loaded),
        on_error=policy,
        device=device,
        channel=opened.address,
    )
    return plan, opened


def _inputs(model: Model, inputs: Any, like: DataFrame | None) -> tuple[Model, tuple[Input, ...]]:
    if like is not None:
        planned = planning.plan_inputs(inputs, model.signature, _spark.arrow_types(like.schema))
        decision = Decision("rows", "", frame=like)
        return planning.complete(model, planned, lambda: sample_rows(decision, planned))
    if not model.signature.outputs or not all(s.complete for s in model.signature.outputs):
        raise ConfigurationError(
            "This model does not tell its outputs. Pass like=df, a DataFrame with its input columns, of which one row is "
            "tried on the driver; or gap.load(model, signature=gap.Signature(inputs=…, outputs=…))."
        )
    return model, planning.unresolved_inputs(inputs, model.signature)


def return_type(outputs: tuple[Output, ...]) -> Any:
    """Return the Spark type of what a column function gives."""
    from pyspark.sql.types import StructField, StructType

    if len(outputs) == 1:
        return output_type(outputs[0])
    return StructType([StructField(o.column, output_type(o)) for o in outputs])


def body_of(plan: TransformPlan) -> Callable[[Iterator[Any]], Iterator[pa.Array]]:
    """Return the function that runs a plan on an executor."""

    def score(columns: Iterator[Any]) -> Iterator[pa.Array]:
        yield from run_columns(plan, columns)

    return score
