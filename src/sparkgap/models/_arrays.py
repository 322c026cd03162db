"""Small conversions of arrays that several adapters need."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sparkgap.tensors.spec import OBJECTS


def cast(array: np.ndarray, dtype: str | None) -> np.ndarray:
    """Return an array with the dtype of a spec; text, bytes and open dtypes stay as they are."""
    if dtype is None or dtype in OBJECTS or array.dtype.name == dtype:
        return array
    if dtype == "bfloat16":
        import ml_dtypes  # numpy has no such type of its own; every framework that has one brings this

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


def decode_text(array: np.ndarray) -> np.ndarray:
    """Turn an object array of UTF-8 bytes into one of text; other arrays stay as they are."""
    if array.dtype.kind != "O":
        return array
    text = np.empty(array.size, object)
    text[:] = [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1)]
    return text.reshape(array.shape)


def finished(array: np.ndarray, inputs: Iterable[np.ndarray]) -> np.ndarray:
    """Return an output as it may leave a predictor: no memory of the inputs in it, and no dtype that Arrow lacks."""
    if array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array.copy() if any(np.may_share_memory(array, i) for i in inputs) else array
