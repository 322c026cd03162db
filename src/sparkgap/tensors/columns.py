"""Decoders over columns: one column (`Column`), several scalar columns (`Stack`), raw binary (`Raw`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.tensors import fit
from sparkgap.tensors.arrow import name_all, raw, tensor, with_nan_rows
from sparkgap.tensors.casts import cast, kind, numpy_dtype
from sparkgap.tensors.decoder import BadRows, Decoder
from sparkgap.tensors.kinds import dtype_of, is_binary, plain, row_shape
from sparkgap.tensors.spec import NUMERIC, OBJECTS, TensorSpec
from sparkgap.tensors.vectors import is_vector, vectors

Nulls = Literal["error", "nan"]


@dataclass(frozen=True)
class Column(Decoder):
    """One column becomes one tensor.

    Takes numbers and bools, lists of them nested to any depth (all rows of one length, or of the lengths that
    the model leaves open), Spark ML vectors, strings, and binary: as bytes, or as little-endian numbers where
    the model's input is numeric and fixed in shape. A column of flat lists is reshaped to an input of higher
    rank with as many elements, e.g. 784 values to (1, 28, 28).

    Args:
        name: the column.
        null: ``"error"``: rows that are or hold nulls are bad rows; ``"nan"``: nulls become NaN, for float
            tensors only.

    Raises:
        ConfigurationError: `null` is neither.
    """

    name: str
    null: Nulls = "error"

    def __post_init__(self) -> None:
        _check_null(self.null)

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.name,)

    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Return the tensor that the column gives; see `Decoder.resolve`."""
        arrow = fit.column_type(self.name, types, spec)
        if is_binary(arrow) and spec.dtype in NUMERIC:
            if not spec.fixed:
                fact = "binary values become numbers only where the row shape is fixed"
                raise fit.refusal(self.name, arrow, spec, fact, "Say it: Raw(column, dtype, shape).")
            return _check_nan(self.null, spec)
        found = fit.natural(self.name, arrow, spec)
        found = _with_nan(self.null, found)
        fit.fit_dtype(self.name, arrow, found, spec)
        return _check_nan(self.null, fit.fit_shape(self.name, arrow, found, spec))

    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the column's tensor; see `Decoder.decode`."""
        return name_all(plain(batch.column(self.name)), lambda array: self._tensor(array, spec))

    def _tensor(self, array: pa.Array, spec: TensorSpec) -> np.ndarray:
        if is_vector(array.type):
            want = fit.reshaped((None,), spec) or (None,)
            return _shape(vectors(array, want[0], spec.dtype or "float64", nulls=self.null), spec)
        if is_binary(array.type) and spec.dtype in NUMERIC:
            return self._raw(array, spec)
        dtype = spec.dtype or dtype_of(array.type)
        shape = fit.reshaped(row_shape(array.type), spec)
        if dtype is None or shape is None:
            raise SignatureError(
                f"Column `{self.name}` of Arrow type {array.type} is not what tensor `{spec.name}` "
                f"({spec.describe()}) was resolved with. Call resolve() with the types of these batches."
            )
        return _shape(tensor(array, shape, dtype, nulls=self.null), spec)

    def _raw(self, array: pa.Array, spec: TensorSpec) -> np.ndarray:
        assert spec.dtype is not None
        dtype, shape = spec.dtype, tuple(d or 0 for d in spec.shape or ())
        if array.null_count and self.null == "nan":
            return with_nan_rows(array, shape, dtype, lambda part: raw(part, numpy_dtype(dtype), shape))
        return raw(array, numpy_dtype(dtype), shape)


@dataclass(frozen=True)
class Stack(Decoder):
    """Several scalar columns become one tensor of rank 1 a row, in the order given.

    Args:
        names: the columns; a sequence is kept as a tuple.
        null: as for `Column`.

    Raises:
        ConfigurationError: there is no name, one comes twice, or `null` is unknown.
    """

    names: Sequence[str]
    null: Nulls = "error"

    def __post_init__(self) -> None:
        _check_null(self.null)
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        object.__setattr__(self, "names", names)
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"Stack needs one or more different column names; got {list(names)!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self.names)

    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Return the tensor that the columns give; see `Decoder.resolve`."""
        dtypes = []
        for name in self.names:
            arrow = fit.column_type(name, types, spec)
            found = _with_nan(self.null, fit.natural(name, arrow, spec))
            if found.shape != ():
                fact = "only scalar columns are stacked into one tensor"
                remedy = f'Pass "{name}" alone, or concat() the arrays first.'
                raise fit.refusal(name, arrow, spec, fact, remedy)
            fit.fit_dtype(name, arrow, found, spec)
            dtypes.append(found.dtype or "")
        count = len(self.names)
        found = TensorSpec(spec.name, spec.dtype or _common(self.names, dtypes), (count,))
        if fit.reshaped((count,), spec) not in ((count,), (None,)):
            raise SignatureError(
                f"{count} columns ({', '.join(self.names)}) cannot feed tensor `{spec.name}` "
                f"({spec.describe()}): a row has {count} values. Pass as many columns as the tensor takes."
            )
        return _check_nan(self.null, spec.merge(found))

    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the columns' tensor; see `Decoder.decode`."""
        arrays = [plain(batch.column(name)) for name in self.names]
        dtype = spec.dtype or _common(self.names, [dtype_of(a.type) or "" for a in arrays])
        out = np.empty((batch.num_rows, len(arrays)), numpy_dtype(dtype))
        reasons: dict[int, str] = {}
        for position, (name, array) in enumerate(zip(self.names, arrays, strict=True)):
            try:
                _fill(out[:, position], array, dtype, self.null)
            except BadRows as bad:
                for row, why in bad.reasons.items():
                    reasons.setdefault(row, f"(column `{name}`) {why}")
        if reasons:
            raise BadRows(dict(sorted(reasons.items())))
        return _shape(out, spec)


@dataclass(frozen=True)
class Raw(Decoder):
    """A binary column holds the little-endian bytes of numbers, row-major; viewed without copying.

    Args:
        name: the column.
        dtype: dtype of the numbers, e.g. ``"float32"``.
        shape: row shape.

    Raises:
        ConfigurationError: the dtype is no numeric one, or the shape is not fixed.
    """

    name: str
    dtype: str
    shape: Sequence[int]

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        if self.dtype not in NUMERIC:
            raise ConfigurationError(f"Raw needs one of {', '.join(NUMERIC)}; got dtype {self.dtype!r}.")
        if not all(isinstance(d, int) and d >= 0 for d in shape):
            raise ConfigurationError(f"Raw needs a row shape of ints >= 0, e.g. (3, 224, 224); got {shape!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.name,)

    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Return the tensor that the column gives; see `Decoder.resolve`."""
        arrow = fit.column_type(self.name, types, spec)
        if not is_binary(arrow):
            fact = "Raw reads binary columns"
            raise fit.refusal(self.name, arrow, spec, fact, "Pass the column by its name.")
        found = TensorSpec(spec.name, self.dtype, tuple(self.shape))
        fit.fit_dtype(self.name, arrow, found, spec)
        return fit.fit_shape(self.name, arrow, found, spec)

    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the column's tensor; see `Decoder.decode`."""
        return name_all(plain(batch.column(self.name)), lambda array: self._tensor(array, spec))

    def _tensor(self, array: pa.Array, spec: TensorSpec) -> np.ndarray:
        numbers = raw(array, numpy_dtype(self.dtype), tuple(self.shape))
        return _shape(cast(numbers, spec.dtype or self.dtype), spec)


def as_decoder(source: Any) -> Decoder:
    """Promote what users write for an input: a column name, a sequence of column names, or a decoder.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(source, Decoder):
        return source
    if isinstance(source, str):
        return Column(source)
    if isinstance(source, list | tuple) and source and all(isinstance(name, str) for name in source):
        return Stack(tuple(source))
    raise ConfigurationError(
        f"An input is fed by a column name, a list of column names, or a decoder such as image(column); got {source!r}."
    )


def _fill(out: np.ndarray, array: pa.Array, dtype: str, null: Nulls) -> None:
    """Write a scalar column into its place, cast on the way."""
    if dtype in OBJECTS:
        out[...] = tensor(array, (), dtype)
    else:
        tensor(array, (), dtype, nulls=null, out=out)


def _shape(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """Reshape rows to a spec of higher rank; `fit.reshaped` has seen to it that the sizes agree."""
    if spec.shape is None or array.ndim == len(spec.shape) + 1:
        return array
    return array.reshape(len(array), *(d or 0 for d in spec.shape))


def _common(names: Sequence[str], dtypes: Sequence[str]) -> str:
    """Return the dtype that holds all columns: numpy's common one."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    text = [name for name, dtype in zip(names, dtypes, strict=True) if dtype in OBJECTS]
    if text:
        raise SignatureError(
            f"Columns {', '.join(names)} hold text and numbers ({', '.join(dtypes)}), which no tensor does. "
            f"Feed {', '.join(text)} to an input of their own, or cast them to numbers."
        )
    return str(np.result_type(*dtypes))


def _check_null(null: str) -> None:
    if null not in ("error", "nan"):
        raise ConfigurationError(f'null is "error" or "nan"; got {null!r}.')


def _with_nan(null: Nulls, found: TensorSpec) -> TensorSpec:
    """Where nulls become NaN, integers and bools are doubles by nature, as NaN has no place among them."""
    if null == "nan" and found.dtype is not None and kind(found.dtype) in ("bool", "int"):
        return replace(found, dtype="float64")
    return found


def _check_nan(null: Nulls, spec: TensorSpec) -> TensorSpec:
    if null == "nan" and kind(spec.dtype or "float32") != "float":
        raise SignatureError(
            f'null="nan" makes NaN of nulls, which tensor `{spec.name}` ({spec.describe()}) cannot hold. '
            'Use null="error", or fill the nulls before: COALESCE(column, value).'
        )
    return spec
