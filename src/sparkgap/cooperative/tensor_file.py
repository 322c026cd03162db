"""Nested values <-> one file in the format of safetensors: raw arrays, and the rest as JSON. Nothing is pickled.

Others can open such a file with the ``safetensors`` package and find each array under its path in the value; the shape
of the value itself is the entry ``tree`` of the metadata. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ALIGNMENT = 8
_Arrays = dict[str, tuple[str, np.ndarray]]  # path -> dtype as numpy names it, contiguous array


def encode(value: Any, facts: Mapping[str, Any]) -> list[memoryview]:
    """Return the parts of the file, in order. Contiguous arrays on the CPU are not copied.

    Args:
        value: nested dicts, lists and tuples of arrays (NumPy, torch, JAX), numbers, strings, bytes, bools and None.
        facts: JSON values.

    Raises:
        ConfigurationError: there is something else in it; says where.
    """
    arrays: _Arrays = {}
    tree = _encode(value, "", arrays)
    # The widest first: each then begins at a multiple of its own width, and can be used where it lies.
    order = sorted(arrays, key=lambda name: -arrays[name][1].itemsize)
    header: dict[str, Any] = {"__metadata__": {"tree": _json(tree, "state"), "facts": _json(facts, "facts")}}
    end = 0
    for name in order:
        dtype, array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    parts = [memoryview(len(text).to_bytes(8, "little") + text)]
    return parts + [arrays[name][1].reshape(-1).view(np.uint8).data for name in order if arrays[name][1].nbytes]


def decode(content: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Return the value and the facts. Arrays are views of the content.

    Args:
        content: the whole file, as bytes; writable, so that the arrays are.

    Raises:
        ValueError: it is no such file.
    """
    try:
        size = int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8 : 8 + size].tobytes())
        metadata = header.pop("__metadata__")
        arrays = {name: _array(content[8 + size :], entry) for name, entry in header.items()}
        return _decode(json.loads(metadata["tree"]), arrays), json.loads(metadata["facts"])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"the header makes no sense ({error!r})") from error


def _array(data: np.ndarray, entry: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    start, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    return dtype, data[start:end].view("uint16" if dtype == "bfloat16" else dtype).reshape(entry["shape"])


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The {what} of a checkpoint must be plain JSON values: {error}. Got {value!r}.") from error


def _encode(value: Any, path: str, arrays: _Arrays) -> Any:
    """Return the JSON for a value; its arrays are put into `arrays`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        keys = [_key(key, path) for key in value]
        return {"dict": [[k, _encode(v, _below(path, k), arrays)] for k, v in zip(keys, value.values(), strict=True)]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(v, _below(path, i), arrays) for i, v in enumerate(value)]}
    if isinstance(value, bytes):
        return {"bytes": _keep(np.frombuffer(value, np.uint8), path, arrays)}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {"torch": _keep(_of_torch(torch, value, path), path, arrays, str(value.dtype).removeprefix("torch."))}
    if isinstance(value, np.generic):
        return {"scalar": _keep(np.asarray(value), path, arrays)}
    if isinstance(value, np.ndarray) or _of_jax(value):
        return {"array": _keep(np.asarray(value), path, arrays)}
    if isinstance(value, bool | int | float | str):  # subclasses: enumerations and the like
        raise _unknown(value, path, f"Save {type(value).__mro__[1].__name__}(…) of it")
    raise _unknown(value, path, "Save what it can be made from")


def _key(key: Any, path: str) -> Any:
    if key is None or type(key) in (bool, int, float, str):
        return key
    raise _unknown(key, path, "Use strings or numbers as the keys of a dict")


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _keep(array: np.ndarray, path: str, arrays: _Arrays, dtype: str | None = None) -> str:
    dtype = dtype or array.dtype.name
    if dtype not in _NAMES:
        raise _unknown(array, path, f"Its dtype is {dtype}; convert it to one of {', '.join(_NAMES)}")
    if array.dtype.name == "bfloat16":
        array = array.view(np.uint16)
    shape = array.shape
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(shape)  # it makes vectors of scalars
    name, number = path or "value", 1
    while name in arrays or name == "__metadata__":  # {"a": {"b": …}, "a.b": …}
        name, number = f"{path}~{number}", number + 1
    arrays[name] = (dtype, array)
    return name


def _of_torch(torch: Any, tensor: Any, path: str) -> np.ndarray:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise _unknown(tensor, path, "Save it as a dense tensor")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    found: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return found


def _of_jax(value: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, jax.Array) and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _unknown(value: Any, path: str, advice: str) -> ConfigurationError:
    kind = type(value)
    return ConfigurationError(
        f"A checkpoint cannot hold {path or 'the state'!r}, a {kind.__module__}.{kind.__qualname__}: it takes dicts, lists "
        f"and tuples of arrays, tensors, numbers, strings and bytes. {advice}."
    )


def _decode(tree: Any, arrays: Mapping[str, tuple[str, np.ndarray]]) -> Any:
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    if kind == "dict":
        return {key: _decode(value, arrays) for key, value in content}
    if kind in ("list", "tuple"):
        values: Iterator[Any] = (_decode(value, arrays) for value in content)
        return list(values) if kind == "list" else tuple(values)
    dtype, array = arrays[content]
    if kind == "bytes":
        return array.tobytes()
    if kind == "torch":
        import torch

        return torch.from_numpy(array).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(array)
    if dtype == "bfloat16":
        import ml_dtypes  # comes with whatever made the array

        array = array.view(ml_dtypes.bfloat16)
    return array[()] if kind == "scalar" else array
