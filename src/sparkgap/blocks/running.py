"""Running plans: lazily on Spark, or here and now on a table of this process."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkgap import _spark
from sparkgap.blocks.job import Job
from sparkgap.blocks.local import Local
from sparkgap.embedded.api import output_type, shipped
from sparkgap.embedded.metadata import with_shape
from sparkgap.embedded.options import Batching, OnError
from sparkgap.embedded.plan import Output, TransformPlan
from sparkgap.embedded.worker import Work, run_rows
from sparkgap.models.model import Model
from sparkgap.monitor import driver
from sparkgap.monitor.summary import watch
from sparkgap.tensors.encode import arrow_type
from sparkgap.tensors.spec import Signature, TensorSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ROW = "sparkgap.row"


def plan_of(
    job: Job,
    outputs: Sequence[TensorSpec],
    keep: tuple[str, ...] = (),
    batching: Batching | None = None,
    policy: OnError | None = None,
) -> TransformPlan:
    """Return the plan of a job, with the columns of its outputs named as they are."""
    model = complete(job, outputs)
    return TransformPlan(
        run="",
        model=model.ref,
        inputs=job.inputs,
        outputs=tuple(Output(spec, spec.name) for spec in outputs),
        keep=keep,
        keys=(),
        batching=batching or Batching(),
        on_error=policy or OnError(),
        device="auto",
        channel=None,
    )


def complete(job: Job, outputs: Sequence[TensorSpec]) -> Model:
    """Return a job's model with the signature that was found."""
    signature = Signature(tuple(i.spec for i in job.inputs), tuple(outputs), job.model.signature.batch)
    return job.model.with_signature(signature)


def run_only(job: Job, outputs: tuple[TensorSpec, ...], batching: Batching, policy: OnError, work: Work) -> Any:
    """Return a table of the outputs alone."""
    plan = plan_of(job, outputs, (), batching, policy)
    if job.subject.local is not None:
        return job.subject.local.answer(here(plan, job.subject.local, work))
    assert job.subject.frame is not None
    return on_spark(plan, job.subject.frame, work, "map_blocks", job, fields(plan))


def run_beside(job: Job, outputs: tuple[TensorSpec, ...], batching: Batching, policy: OnError, work: Work) -> Any:
    """Return the table with the outputs as columns."""
    if job.subject.local is None:
        assert job.subject.frame is not None
        plan = plan_of(job, outputs, job.columns, batching, policy)
        kept = [job.subject.frame.schema[name] for name in plan.keep]
        return on_spark(plan, job.subject.frame, work, "map_rows", job, [*kept, *fields(plan)])
    local = job.subject.local
    numbers = pa.chunked_array([pa.array(np.arange(local.rows))])
    numbered = Local(local.given, local.kind, {**local.columns, _ROW: numbers}, local.rows)
    done = here(plan_of(job, outputs, (_ROW,), batching, policy), numbered, work)
    return local.beside(done.column(_ROW).to_numpy(), done.drop_columns([_ROW]))


def here(plan: TransformPlan, local: Local, work: Work, schema: pa.Schema | None = None) -> pa.Table:
    """Run a plan in this process; its work gives tables of a schema, by default that of the plan."""
    if schema is None:
        schema = plan.output_schema([pa.field(n, local.types[n]) for n in plan.keep])
    done = run_rows(plan, iter(local.batches(plan.columns)), work=work)
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in done], schema)


def fields(plan: TransformPlan, names: Mapping[str, str] | None = None) -> list[Any]:
    """Return the Spark fields of a plan's outputs, with their shapes."""
    from pyspark.sql.types import StringType, StructField

    made = [
        StructField((names or {}).get(o.column, o.column), output_type(o), metadata=with_shape(None, o.spec.shape))
        for o in plan.outputs
    ]
    error = plan.on_error.column
    return made if error is None else [*made, StructField(error, StringType())]


def on_spark(plan: TransformPlan, frame: DataFrame, work: Work, verb: str, job: Job, schema: list[Any]) -> DataFrame:
    """Return the lazy DataFrame that runs a plan, watched as a run."""
    from pyspark.sql.types import StructType

    spark = frame.sparkSession
    opened = driver.monitor().open(spark, verb, job.name, {"boundary": "rows", "batch": str(plan.batching.size or "auto")})
    model = shipped(Model(plan.model, plan.signature), spark)
    plan = replace(plan, model=model, run=opened.run, channel=opened.address)
    given = _spark.columns(frame, plan.columns)
    result = given.mapInArrow(functools.partial(run_rows, plan, work=work), StructType(schema))
    watch(result, opened)
    return result


def encoded(plan: TransformPlan) -> list[pa.Field]:
    """Return the Arrow fields of a plan's outputs."""
    return [pa.field(o.column, arrow_type(o.spec, o.encoding)) for o in plan.outputs]
