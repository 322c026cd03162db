"""ndarrays to Arrow arrays of types that Spark knows, without copying wherever the bytes allow it."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, ModelOutputError, SignatureError
from sparkgap.tensors.casts import cast
from sparkgap.tensors.decoder import BadRows
from sparkgap.tensors.spec import OBJECTS, TensorSpec, dtype_name
from sparkgap.tensors.vectors import VECTOR

Encoding = Literal["array", "binary", "vector"]

# Spark has neither unsigned integers nor half floats: the next wider type that it has.
_SPARK: Final = {
    "bool": pa.bool_(), "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.int16(), "uint16": pa.int32(), "uint32": pa.int64(), "uint64": pa.int64(),
    "float16": pa.float32(), "bfloat16": pa.float32(), "float32": pa.float32(), "float64": pa.float64(),
    "str": pa.string(), "bytes": pa.binary(),
}  # fmt: skip
_WIDER: Final = {
    "uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "int64",
    "float16": "float32", "bfloat16": "float32",
}  # fmt: skip
_LARGE: Final = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
_MOST: Final = 2**31 - 1


def arrow_type(spec: TensorSpec, encoding: Encoding = "array", large: bool = False) -> pa.DataType:
    """Return the Arrow type of the column that `encode` makes of a tensor.

    Args:
        spec: dtype and rank known.
        encoding: ``"array"``: numbers for rank 0, else nested lists; ``"binary"``: for rank >= 1 one binary
            value a row, little-endian and row-major, of the tensor's own dtype; ``"vector"``: a Spark ML vector,
            for numbers of rank 1.
        large: whether offsets have 64 bits, for batches of more than 2**31 elements or bytes.

    Raises:
        SignatureError: dtype or rank are not known, or the encoding does not go with them.
        ConfigurationError: the encoding is none of these.
    """
    if encoding not in ("array", "binary", "vector"):
        raise ConfigurationError(f'encoding is "array", "binary" or "vector"; got {encoding!r}.')
    if spec.dtype is None or spec.shape is None:
        raise SignatureError(
            f"Output `{spec.name}` is {spec.describe()}: dtype and rank must be known to make a column of it. "
            "Give them in the model's signature."
        )
    if encoding == "vector":
        if len(spec.shape) != 1 or spec.dtype in OBJECTS:
            raise SignatureError(
                f"Output `{spec.name}` is {spec.describe()}; a Spark ML vector holds numbers of rank 1 a row. "
                'Use encoding "array".'
            )
        return VECTOR
    if encoding == "binary" and spec.shape:
        if spec.dtype in OBJECTS:
            raise SignatureError(f'Output `{spec.name}` is {spec.describe()}; encoding "binary" is for numbers. Use "array".')
        return pa.large_binary() if large else pa.binary()
    kind = _SPARK[spec.dtype]
    if large:
        kind = _LARGE.get(kind, kind)
    for _ in spec.shape:
        kind = _list_type(kind, large)
    return kind


def encode(array: np.ndarray, spec: TensorSpec, encoding: Encoding = "array", large: bool = False) -> pa.Array:
    """Return a tensor as an Arrow array of `arrow_type(spec, encoding, large)`.

    Args:
        array: one entry a row; values of numeric tensors are not copied where they are contiguous and Spark
            has their dtype, so the array must not be written to afterwards. None in text is null.
        spec: what the tensor is; the array may be of another dtype only where its values fit.
        encoding: as for `arrow_type`.
        large: as for `arrow_type`.

    Raises:
        SignatureError: the dtype has no place in Spark, e.g. complex numbers.
        ModelOutputError: the array is not what the spec says, or has values that Spark cannot hold.
        DataError: a batch has too many elements or bytes for 32-bit offsets, and `large` is not set.
    """
    arrow_type(spec, encoding, large)  # raises where there is none
    array = _checked(array, spec, large)
    if encoding == "vector":
        return _vectors(_fitting(array, "float64", spec), spec)
    if encoding == "binary" and spec.shape:
        return _bytes(array, spec, large)
    if spec.dtype in OBJECTS:
        flat = _objects(array, pa.string() if spec.dtype == "str" else pa.binary(), spec, large)
    else:
        numbers = _fitting(array, _WIDER.get(spec.dtype or "", spec.dtype or ""), spec)
        flat = pa.array(np.ascontiguousarray(numbers).reshape(-1))
    return _nested(flat, array.shape, spec, large)


def _list_type(kind: pa.DataType, large: bool) -> pa.DataType:
    item = pa.field("element", kind)  # the name that Spark gives it
    return pa.large_list(item) if large else pa.list_(item)


def _checked(array: np.ndarray, spec: TensorSpec, large: bool) -> np.ndarray:
    """Return the array in the spec's dtype, or raise: its shape or values are not what the spec says."""
    if array.dtype.kind not in "biufOUSTV" or (array.dtype.kind == "V" and dtype_name(array) != "bfloat16"):
        raise SignatureError(
            f"Output `{spec.name}` has dtype {array.dtype}, which has no place in a Spark column. Convert it in "
            "the model, e.g. complex numbers to their real and imaginary parts."
        )
    shape = spec.shape or ()
    rows = array.shape[1:]
    if array.ndim != len(shape) + 1 or any(w not in (None, h) for w, h in zip(shape, rows, strict=True)):
        raise ModelOutputError(
            f"Output `{spec.name}` has shape {array.shape}, expected {spec.describe()}. Correct the model's signature."
        )
    if shape and array.size > _MOST and not large:
        raise _too_large(spec, f"{array.size:,} elements")
    if spec.dtype in OBJECTS:
        return array
    return _fitting(array, spec.dtype or "", spec)


def _fitting(array: np.ndarray, dtype: str, spec: TensorSpec) -> np.ndarray:
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return cast(array, dtype)
    except BadRows as bad:
        row, why = next(iter(bad.reasons.items()))
        raise ModelOutputError(
            f"Output `{spec.name}` {why}, in row {row} of a batch. Let the model return another dtype."
        ) from bad


def _objects(array: np.ndarray, kind: pa.DataType, spec: TensorSpec, large: bool) -> pa.Array:
    flat = array.reshape(-1)
    if flat.dtype.kind in "UST":
        flat = flat.astype(object)
    try:
        return pa.array(flat, type=_LARGE[kind] if large else kind)
    except pa.ArrowCapacityError as error:
        raise _too_large(spec, str(error)) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ModelOutputError(f"Output `{spec.name}` is not all {spec.dtype} values: {error}.") from error


def _nested(flat: pa.Array, shape: tuple[int, ...], spec: TensorSpec, large: bool) -> pa.Array:
    """Wrap the values of all rows in the lists of a tensor of that whole shape, from the inside out."""
    if isinstance(flat, pa.ChunkedArray):
        raise _too_large(spec, f"{flat.nbytes:,} bytes")
    for depth in range(len(shape) - 1, 0, -1):
        offsets = _offsets(math.prod(shape[:depth]), shape[depth], large)
        builder = pa.LargeListArray if large else pa.ListArray
        flat = builder.from_arrays(pa.array(offsets), flat, type=_list_type(flat.type, large))
    return flat


def _offsets(count: int, size: int, large: bool) -> np.ndarray:
    """Return where `count` lists of `size` start and end; the caller has seen to it that 32 bits are enough."""
    offsets = np.arange(count + 1, dtype=np.int64) * size
    return offsets if large else offsets.astype(np.int32)


def _too_large(spec: TensorSpec, size: str) -> DataError:
    return DataError(
        f"Output `{spec.name}` has {size} in one batch, more than the 2,147,483,647 of a Spark column's batch. "
        "Use a smaller batch_size."
    )


def _bytes(array: np.ndarray, spec: TensorSpec, large: bool) -> pa.Array:
    """Return rows as raw little-endian bytes, over the array's own memory."""
    size = math.prod(array.shape[1:]) * array.dtype.itemsize
    if len(array) * size > _MOST and not large:
        raise _too_large(spec, f"{len(array) * size:,} bytes")
    flat = np.ascontiguousarray(array)
    if flat.dtype.kind != "V":
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
    data = pa.py_buffer(flat.reshape(-1).view(np.uint8))
    kind = pa.large_binary() if large else pa.binary()
    return pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(_offsets(len(array), size, large)), data])


def _vectors(array: np.ndarray, spec: TensorSpec) -> pa.Array:
    """Return rows as dense Spark ML vectors."""
    rows, size = array.shape
    values = pa.ListArray.from_arrays(
        pa.array(_offsets(rows, size, False)),
        pa.array(np.ascontiguousarray(array).reshape(-1)),
        type=VECTOR.field("values").type,
    )
    kinds = pa.array(np.ones(rows, np.int8))
    absent = [pa.nulls(rows, VECTOR.field(name).type) for name in ("size", "indices")]
    return pa.StructArray.from_arrays([kinds, *absent, values], fields=list(VECTOR))
