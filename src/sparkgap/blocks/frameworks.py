"""Tensors of the framework that a program is written in: ndarrays in, ndarrays out, the dtype as it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")


def framework_of(function: Callable[..., Any], wanted: str | None) -> str:
    """Return the framework whose tensors a function takes: the one named, else that of its annotations.

    Raises:
        ConfigurationError: it is none of those known, or the annotations name two.
    """
    if wanted is not None:
        if wanted not in FRAMEWORKS:
            raise ConfigurationError(f"framework is {wanted!r}; it must be one of {', '.join(FRAMEWORKS)}.")
        return wanted
    if type(function).__module__.partition(".")[0] in ("jax", "jaxlib"):
        return "jax"
    notes = [p.annotation for p in inspect.signature(function).parameters.values() if p.annotation is not p.empty]
    found = sorted({f for f in map(_of_annotation, notes) if f is not None})
    if len(found) > 1:
        raise ConfigurationError(
            f"The parameters of {function!r} are annotated with tensors of {' and '.join(found)}. All of them get tensors "
            "of one framework: say which with framework=."
        )
    return found[0] if found else "numpy"


def _of_annotation(note: Any) -> str | None:
    text = note if isinstance(note, str) else f"{getattr(note, '__module__', '')}.{getattr(note, '__name__', '')}"
    first = text.partition(".")[0]
    return {"np": "numpy", "tf": "tensorflow", "jnp": "jax", "jaxlib": "jax"}.get(
        first, first if first in FRAMEWORKS else None
    )


def to_tensors(arrays: Mapping[str, Any], framework: str) -> dict[str, Any]:
    """Return arrays as tensors of a framework; text and bytes stay ndarrays but for TensorFlow, which has strings."""
    if framework == "numpy":
        return dict(arrays)
    make = {"torch": _torch, "jax": _jax, "tensorflow": _tensorflow}[framework]
    return {name: make(np.asarray(value)) for name, value in arrays.items()}


@contextmanager
def exact(framework: str) -> Iterator[None]:
    """Let a framework keep dtypes in the block: JAX would make 32 bits of 64."""
    if framework != "jax":
        yield
        return
    jax = need("jax", extra="jax", why="to run programs on JAX arrays")
    if not hasattr(jax, "enable_x64"):  # its place before JAX 0.8
        from jax.experimental import enable_x64
    else:
        enable_x64 = jax.enable_x64
    with enable_x64(True):
        yield


def _torch(array: np.ndarray) -> Any:
    torch = need("torch", extra="torch", why="to run programs on PyTorch tensors")
    if array.dtype.kind in "OUS":
        return array
    # PyTorch has no read-only tensors, and the array may be Arrow's memory.
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy(order="C"))


def _jax(array: np.ndarray) -> Any:
    jax = need("jax", extra="jax", why="to run programs on JAX arrays")
    return array if array.dtype.kind in "OUS" else jax.numpy.asarray(array)


def _tensorflow(array: np.ndarray) -> Any:
    return need("tensorflow", extra="tensorflow", why="to run programs on TensorFlow tensors").convert_to_tensor(array)


def to_array(value: Any) -> np.ndarray:
    """Return what a program gave as an ndarray."""
    if isinstance(value, np.ndarray | np.generic):
        return _known(np.asarray(value))
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        return np.asarray((value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy())
    array = np.asarray(value)
    # Text and bytes of fixed width end at their last character that is not zero.
    return np.asarray(value, dtype=object) if array.dtype.kind in "US" else _known(array)


def _known(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "V" and array.dtype.name == "bfloat16" else array
