"""`map_blocks` and `map_rows`: a program adds columns to a table, or makes another table of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, ModelOutputError
from sparkgap.blocks import worker
from sparkgap.blocks.job import Job
from sparkgap.blocks.probing import ROWS, Trial, free, open_lengths
from sparkgap.blocks.running import run_beside, run_only
from sparkgap.embedded.api import transform
from sparkgap.embedded.options import Batching, OnError
from sparkgap.embedded.worker import score_rows
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_row_work = functools.partial(score_rows, scorer_type=worker.RowScorer)


def map_blocks(
    program: Any,
    data: Any,
    *,
    trim: bool = False,
    feed: Mapping[str, Any] | None = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    framework: str | None = None,
    schema: Sequence[TensorSpec] | None = None,
) -> Any:
    """Apply a program to blocks of rows, and add what it returns as columns.

    A block is a bounded number of rows of one partition, in order: never a whole partition, so memory stays bounded.
    On Spark it is lazy; what the program captures is frozen now. It is tried on a small block on the driver, to find
    its outputs; where the shapes of its input columns are not known (`analyze`, `append_shape`), on a row of the data.

    Args:
        program: a function whose parameters name columns and which returns a dict of named tensors with one entry a row;
            or a `Model`. It gets ndarrays; or tensors of PyTorch, JAX or TensorFlow where its parameters are annotated
            with them (``def f(x: torch.Tensor)``) or `framework` says so.
        data: a Spark DataFrame (classic or Connect), ``gap.files(...)``, or a table of pandas, Arrow or polars, which is
            worked on here and now, left unchanged, and answered by a table of its kind.
        trim: keep only the outputs, which may have any number of rows a block.
        feed: ``{parameter: column}`` where they have different names. A list of scalar columns is stacked;
            ``gap.Column("x", null="nan")`` makes NaN of nulls.
        batch_size: rows of a block: exactly so many, but for the last one of a partition. Default: by the bytes of a row.
        on_error: for rows with nulls or of wrong shape, and such that the program fails on: ``"raise"``, ``"null"`` or
            ``"skip"``; see `OnError`. With `trim` not ``"null"``.
        framework: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"tensorflow"``.
        schema: the outputs, so that the program is not tried: one spec each, of one row.

    Returns:
        The table with the outputs as columns, after its own; with `trim` the outputs only.

    Raises:
        SignatureError: a parameter names no column, or its column holds no tensors.
        ConfigurationError: an output has the name of a column, or an option is wrong.
        ModelOutputError: the program returns no dict of tensors, or not one entry a row.
        DataError: while it runs: the cells of a block have different shapes.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(3).selectExpr("double(id) AS x")
        >>> gap.map_blocks(lambda x: {"z": x + 3.0}, df).collect()
        [Row(x=0.0, z=3.0), Row(x=1.0, z=4.0), Row(x=2.0, z=5.0)]
    """
    policy = OnError.of(on_error)
    if trim and policy.policy == "null":
        raise ConfigurationError(
            "With trim=True the rows of the table do not stay, so on_error is 'raise' or 'skip'; got 'null'."
        )
    job = Job.of(program, data, feed, framework, block=True)
    if job.takes_nothing and not trim:
        raise ConfigurationError(
            f"The program `{job.name}` takes no parameter, so its number of rows has nothing to do with that of "
            "the table. Give it a parameter that names a column, or pass trim=True."
        )
    outputs = _outputs(job, schema, by_row=False, trim=trim)
    if trim:
        return run_only(job, outputs, Batching.of(batch_size), policy, worker.trimmed_rows)
    return _mapped(job, data, outputs, batch_size, policy)


def map_rows(
    program: Any,
    data: Any,
    *,
    feed: Mapping[str, Any] | None = None,
    batch_size: int | Batching | None = None,
    on_error: str | OnError = "raise",
    framework: str | None = None,
    schema: Sequence[TensorSpec] | None = None,
) -> Any:
    """Apply a program to each row, and add what it returns as columns. Cells may differ in shape from row to row.

    A parameter gets one cell: a number, an array, a `str` or `bytes`; each output is one cell. Python is called once a
    row, so `map_blocks` is faster wherever a program can work on many rows at a time. A `Model` is given rows of equal
    shape together.

    Args:
        program: as for `map_blocks`, but on one row.
        data: as for `map_blocks`.
        feed: as for `map_blocks`.
        batch_size: rows that are decoded together.
        on_error: as for `map_blocks`.
        framework: as for `map_blocks`.
        schema: as for `map_blocks`.

    Returns:
        The table with the outputs as columns, after its own.

    Raises:
        SignatureError: a parameter names no column, or its column holds no tensors.
        ConfigurationError: an output has the name of a column, or an option is wrong.
        ModelOutputError: the program returns no dict of tensors.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session("local[2]")
        >>> df = spark.sql("SELECT array(1.0D) AS x UNION ALL SELECT array(2.0D, 2.5D)")
        >>> sorted(r.n for r in gap.map_rows(lambda x: {"n": len(x)}, df).collect())
        [1, 2]
    """
    job = Job.of(program, data, feed, framework, block=False)
    policy = OnError.of(on_error)
    if job.is_model:
        return _mapped(job, data, _outputs(job, schema, by_row=False), batch_size, policy)
    outputs = _outputs(job, schema, by_row=True)
    job.refuse_names(outputs)
    return run_beside(job, outputs, Batching.of(batch_size), policy, _row_work)


def _mapped(job: Job, data: Any, outputs: tuple[TensorSpec, ...], batch_size: Any, policy: OnError) -> Any:
    """Run a program that gives one entry a row of each block: as `transform` runs models."""
    job.refuse_names(outputs)
    if job.subject.frame is None:
        return run_beside(job, outputs, Batching.of(batch_size), policy, score_rows)
    model = job.model.with_signature(Signature(tuple(i.spec for i in job.inputs), outputs, job.model.signature.batch))
    inputs = {i.spec.name: i.decoder for i in job.inputs}
    return transform(data, model, inputs=inputs, keep=list(job.subject.types), batch_size=batch_size, on_error=policy)


def _outputs(job: Job, schema: Sequence[TensorSpec] | None, *, by_row: bool, trim: bool = False) -> tuple[TensorSpec, ...]:
    """Return the specs of the outputs: those given, those that the model tells, or found by trying."""
    if schema is not None:
        return job.declared(schema)
    told = job.model.signature.outputs
    if told and all(s.complete for s in told):
        return told
    _, given = job.tried(lambda run: _row_by_row(run) if by_row else run)
    if not trim:
        _check_rows(job, given)
    elif any(array.ndim == 0 for array in given.values()):
        scalar = next(name for name, array in given.items() if array.ndim == 0)
        raise ModelOutputError(
            f"Output `{scalar}` of the program `{job.name}` is a scalar, and with trim=True its first axis counts the rows. "
            "Return an array, e.g. np.array([total])."
        )
    else:
        worker.same_rows(given)
    found = (TensorSpec.of(name, array) for name, array in given.items())
    # The shape of a row's result may hang on its values, that of a block's on its columns' shapes alone.
    return tuple(open_lengths(s) if by_row else free(s, job.inputs) for s in found)


def _row_by_row(run: Trial) -> Trial:
    """Return a program on cells as one on blocks."""

    def block(arrays: Block) -> Block:
        cells = run({name: array[0] for name, array in arrays.items()})
        return {name: np.repeat(cell[None], ROWS, axis=0) for name, cell in cells.items()}

    return block


def _check_rows(job: Job, given: Block) -> None:
    for name, array in given.items():
        if array.ndim == 0 or len(array) != ROWS:
            raise ModelOutputError(
                f"Output `{name}` of the program `{job.name}` has shape {array.shape} for a block of {ROWS} "
                "rows; its first axis must be the row. Pass trim=True for another number of rows, or use "
                "gap.map_rows for a program on one row."
            )
