"""`register`: a model, or a chain of models, as a function of SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.embedded import planning
from sparkgap.embedded.function import body_of, column_plan, return_type
from sparkgap.models.model import Model, load
from sparkgap.monitor.summary import watch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.embedded.options import Batching, OnError
    from sparkgap.embedded.plan import TransformPlan

_Body = Callable[[Iterator[Any]], Iterator[pa.Array]]


def register(
    name: str,
    model: Any,
    spark: SparkSession | None = None,
    *,
    inputs: Any = None,
    outputs: Any = None,
    like: DataFrame | None = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    device: str = "auto",
) -> Any:
    """Register a model, or a list of models of which each feeds the next, as one function of SQL.

    The models of a chain run one after the other in the same Python worker: what is between them does not go through the
    JVM. An output of one feeds the input of its name in the next; where not all names are found, outputs and inputs are
    paired in their order.

    Args:
        name: of the function in SQL.
        model: a `Model` or anything that `load` takes, or a list of these.
        spark: the session; default the active one.
        inputs: as in `udf`; of the first model.
        outputs: as in `udf`; of the last model.
        like: as in `udf`: a DataFrame with the columns that the first model takes, where a model does not tell its outputs.
        batch_size: as in `udf`.
        on_error: as in `udf`; of each model of a chain.
        device: as in `udf`.

    Returns:
        The function, for `select` and `withColumn`.

    Raises:
        ConfigurationError: a model does not tell its outputs and there is no `like`; the list is empty; or the outputs of a
            model cannot feed the next.

    Example:
        >>> import sparkgap as gap
        >>> from sparkgap.ml import register
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(3).selectExpr("double(id) AS x")
        >>> chain = register("twice_plus_one", [lambda x: {"y": 2 * x}, lambda y: {"z": y + 1}], like=df)
        >>> [row.z for row in spark.sql("SELECT twice_plus_one(double(id)) AS z FROM range(3)").collect()]
        [1.0, 3.0, 5.0]
    """
    session = _spark.active_session() if spark is None else spark
    models = [load(m) for m in (model if isinstance(model, list | tuple) else [model])]
    if not models:
        raise ConfigurationError("The list of models is empty. Give at least one.")
    settings: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "device": device}
    plans: list[TransformPlan] = []
    for number, link in enumerate(models):
        last = number == len(models) - 1
        feed = inputs if not plans else _feed(plans[-1], link, number)
        plan, opened = column_plan(link, inputs=feed, outputs=outputs if last else None, like=like, **settings)
        plans.append(plan)
        like = None if like is None or last else _after(like, plan)
    function = _spark.column_function(_chained(plans), return_type(plans[-1].outputs))
    watch(function, opened)
    session.udf.register(name, function)
    return function


def _feed(before: TransformPlan, model: Model, number: int) -> dict[str, str]:
    """Pair the inputs of a model with the outputs of the one before it."""
    given, wanted = [o.column for o in before.outputs], [s.name for s in model.signature.inputs]
    if set(wanted) <= set(given):
        return {name: name for name in wanted}
    if len(wanted) == len(given):
        return dict(zip(wanted, given, strict=True))
    raise ConfigurationError(
        f"Model {number} of the chain gives {', '.join(given)}, and model {number + 1} takes {', '.join(wanted)}. Give them "
        "the same names, or as many of them."
    )


def _arguments(plan: TransformPlan) -> list[str]:
    return list(dict.fromkeys(c for i in plan.inputs for c in i.decoder.columns))


def _after(like: DataFrame, plan: TransformPlan) -> DataFrame:
    """Return what a model makes of a few rows, under the names of its outputs."""
    from pyspark.sql import functions as F

    function = _spark.column_function(body_of(plan), return_type(plan.outputs))
    quoted = ["`" + name.replace("`", "``") + "`" for name in _arguments(plan)]
    made = like.limit(planning.SAMPLE_ROWS).select(function(*map(F.col, quoted)).alias("made"))
    return made.toDF(plan.outputs[0].column) if len(plan.outputs) == 1 else made.select("made.*")


def _chained(plans: Sequence[TransformPlan]) -> _Body:
    """Return one body that runs the plans one after the other, batch by batch."""
    first, *rest = plans
    links: list[tuple[_Body, list[int] | None]] = []
    for before, plan in zip(plans, rest, strict=False):
        names = [o.column for o in before.outputs]
        links.append((body_of(plan), [names.index(a) for a in _arguments(plan)] if len(names) > 1 else None))
    start = body_of(first)

    def score(columns: Iterator[Any]) -> Iterator[pa.Array]:
        arrays = start(columns)
        for body, picks in links:
            arrays = body(_as_arguments(arrays, picks))
        yield from arrays

    return score


def _as_arguments(arrays: Iterator[pa.Array], picks: list[int] | None) -> Iterator[tuple[pa.Array, ...]]:
    for array in arrays:
        if picks is None:
            yield (array,)
        else:
            fields = array.flatten()  # with the nulls of the struct
            yield tuple(fields[pick] for pick in picks)
