"""What a model takes and gives: tensor specs and signatures, as values that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparkgap._errors import SignatureError

Block = dict[str, np.ndarray]
"""Named tensors over the same rows: the first axis of each array is the row."""

Dim = int | None

NUMERIC = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
OBJECTS = ("str", "bytes")


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and row shape of one tensor.

    Args:
        name: the tensor's name in the model.
        dtype: a numpy dtype name, ``"bfloat16"``, ``"str"`` or ``"bytes"``; None where it is not known.
        shape: the shape of one row, without the batch axis: ``()`` for a scalar, ``(3, 224, 224)`` for an
            image; an unknown length is None. None where not even the rank is known.

    Raises:
        SignatureError: the dtype or the shape is not of that form.
    """

    name: str
    dtype: str | None = None
    shape: tuple[Dim, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in NUMERIC + OBJECTS:
            raise SignatureError(
                f"Tensor `{self.name}` has dtype {self.dtype!r}, which is none of {', '.join(NUMERIC + OBJECTS)}."
            )
        if self.shape is None:
            return
        object.__setattr__(self, "shape", tuple(self.shape))
        if any(d is not None and (not isinstance(d, int) or d < 0) for d in self.shape):
            raise SignatureError(
                f"Tensor `{self.name}` has row shape {self.shape!r}; each length must be an int >= 0 or None "
                "(unknown). Leave the batch axis out."
            )

    @property
    def complete(self) -> bool:
        """Whether dtype and rank are known (single lengths may not be)."""
        return self.dtype is not None and self.shape is not None

    @property
    def fixed(self) -> bool:
        """Whether every length of the row shape is known."""
        return self.shape is not None and None not in self.shape

    def merge(self, other: TensorSpec) -> TensorSpec:
        """Fill what this spec leaves open from `other`."""
        shape = self.shape
        if shape is None:
            shape = other.shape
        elif other.shape is not None and len(other.shape) == len(shape):
            shape = tuple(b if a is None else a for a, b in zip(shape, other.shape, strict=True))
        return replace(self, dtype=self.dtype or other.dtype, shape=shape)

    def describe(self) -> str:
        """Text for messages: ``float32 (batch, 3, 224, 224)``."""
        if self.shape is None:
            return f"{self.dtype or 'any dtype'} of any shape"
        dims = ", ".join(["batch", *("?" if d is None else str(d) for d in self.shape)])
        return f"{self.dtype or 'any dtype'} ({dims})"

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> TensorSpec:
        """Return the spec of `array`, whose first axis is the row."""
        return cls(name, dtype_name(array), tuple(array.shape[1:]))


def dtype_name(array: np.ndarray) -> str:
    """Name an array's dtype as specs do; object and string arrays are told by their first element."""
    kind = array.dtype.kind
    if kind in "US":
        return "str" if kind == "U" else "bytes"
    if kind == "O":
        first = next((v for v in array.flat if v is not None), "")
        return "bytes" if isinstance(first, bytes | bytearray | memoryview) else "str"
    return array.dtype.name


@dataclass(frozen=True)
class Signature:
    """The tensors that a model takes and gives, in the model's order.

    Args:
        inputs: specs of the inputs.
        outputs: specs of the outputs; empty where they are not known yet.
        batch: the number of rows that every call must have, for models with a fixed batch axis; None for
            any number.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batch: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [s.name for s in specs]
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise SignatureError(f"Signature has {kind} of the same name: {', '.join(twice)}.")

    @property
    def complete(self) -> bool:
        """Whether every input and output is known in dtype and rank."""
        return bool(self.inputs and self.outputs) and all(s.complete for s in self.inputs + self.outputs)

    def to_json(self) -> str:
        """Return the signature as JSON text."""
        return json.dumps({"inputs": _to_list(self.inputs), "outputs": _to_list(self.outputs), "batch": self.batch})

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Read what `to_json` wrote.

        Raises:
            SignatureError: the text is not such JSON.
        """
        try:
            raw = json.loads(text)
            return cls(_from_list(raw["inputs"]), _from_list(raw["outputs"]), raw.get("batch"))
        except (ValueError, KeyError, TypeError) as error:
            raise SignatureError(
                f"This is not the JSON of a signature ({error!r}): {text[:200]!r}. Write it with Signature.to_json()."
            ) from error


def _to_list(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
    return [{"name": s.name, "dtype": s.dtype, "shape": None if s.shape is None else list(s.shape)} for s in specs]


def _from_list(raw: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(r["name"], r["dtype"], None if r["shape"] is None else tuple(r["shape"])) for r in raw)
