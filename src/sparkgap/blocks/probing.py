"""Which tensors a program gives: found by running it on the driver, on a small block of made or real values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, ModelFormatError, ModelOutputError
from sparkgap.embedded.plan import Input
from sparkgap.models import cache
from sparkgap.models.base import Runtime
from sparkgap.models.model import Model
from sparkgap.tensors.casts import numpy_dtype
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.spec import Block, TensorSpec

ROWS = 5
"""Rows of the block that is tried: unlikely to be the length of anything else."""
_GUESS = 2  # an unknown length, where there is no row that tells it
_VALUES: Mapping[str, Any] = {"str": "a", "bytes": b"a"}

Trial = Callable[[Block], Block]


def run_here(model: Model) -> Trial:
    """Return a model as a function on arrays in this process."""
    predictor = cache.open_model(model.ref, Runtime("cpu", 1))
    return predictor.predict


def made_block(inputs: Iterable[Input], rows: int = ROWS) -> Block:
    """Return a block of ones of the shapes and dtypes of the inputs."""
    return {i.spec.name: _ones(i.spec, rows) for i in inputs}


def _ones(spec: TensorSpec, rows: int) -> np.ndarray:
    shape = (rows, *(_GUESS if d is None else d for d in spec.shape or ()))
    dtype = spec.dtype or "float32"
    return np.full(shape, _VALUES.get(dtype, 1), numpy_dtype(dtype))


def try_out(run: Trial, inputs: tuple[Input, ...], sample: Callable[[], pa.RecordBatch]) -> tuple[Block, Block]:
    """Run a program on a small block: of ones where all lengths are known and it can do with them, else of real values.

    Args:
        run: the program.
        inputs: its inputs.
        sample: gives a few rows of the data; called only where it is needed.

    Returns:
        The block and what the program made of it.

    Raises:
        ConfigurationError: the program fails on real values; or on made ones, and there is no row.
        ModelOutputError: it gives no dict of named tensors.
    """
    first: Exception | None = None
    if all(i.spec.fixed for i in inputs):
        try:
            return _tried(run, made_block(inputs))
        except (ModelOutputError, ModelFormatError):
            raise
        except Exception as error:  # the program may want other values than ones
            first = error
    real = _real_block(inputs, sample())
    block = made_block(inputs) if real is None else real
    try:
        return _tried(run, block)
    except (ModelOutputError, ModelFormatError):
        raise
    except Exception as error:
        given = ", ".join(f"{k}: {TensorSpec.of(k, v).describe()}" for k, v in block.items())
        what = "the first row of the data" if real is not None else "a block of ones, as there is no row"
        raise ConfigurationError(
            f"The program failed on {what}, on which it was tried on the driver to find its outputs ({type(error).__name__}: "
            f"{error}). It was given {given}. Correct it, or, if it is right, tell its outputs: "
            'schema=[gap.TensorSpec("z", "float64", ())].'
        ) from (error if first is None or real is not None else first)


def _tried(run: Trial, block: Block) -> tuple[Block, Block]:
    with np.errstate(all="ignore"):  # these values are ours
        return block, run({name: array.copy() for name, array in block.items()})


def _real_block(inputs: tuple[Input, ...], rows: pa.RecordBatch) -> Block | None:
    """Return the first row that can be decoded, several times over."""
    for number in range(rows.num_rows):
        one = rows.slice(number, 1)
        try:
            row = {i.spec.name: i.decoder.decode(one, i.spec) for i in inputs}
        except BadRows:
            continue
        return {name: np.repeat(array, ROWS, axis=0) for name, array in row.items()}
    return None


def free(spec: TensorSpec, inputs: Iterable[Input]) -> TensorSpec:
    """Forget the lengths that were tried, where those of the inputs differ from row to row."""
    return spec if all(i.spec.fixed for i in inputs) else open_lengths(spec)


def open_lengths(spec: TensorSpec) -> TensorSpec:
    """Return a spec that says nothing of lengths."""
    return TensorSpec(spec.name, spec.dtype, (None,) * len(spec.shape or ()))
