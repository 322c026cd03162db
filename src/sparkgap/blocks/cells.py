"""Checks and joins of what programs return. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparkgap._errors import ModelOutputError
from sparkgap.tensors.spec import Block, TensorSpec, dtype_name


def checked(given: Mapping[str, np.ndarray], spec: TensorSpec, *, rows: bool = False) -> np.ndarray:
    """Return an output of a program if it has the rank and the lengths that were planned.

    Args:
        given: what the program returned.
        spec: the planned output; its shape is that of one cell.
        rows: whether the first axis is the row, else it is one cell.

    Raises:
        ModelOutputError: it is not there, or has another shape.
    """
    if spec.name not in given:
        raise ModelOutputError(
            f"The program gave no output `{spec.name}` this time; it gave {', '.join(given) or 'nothing'}. It must return "
            "the same names for every block."
        )
    array = np.asarray(given[spec.name])
    shape = spec.shape or ()
    found = array.shape[1:] if rows else array.shape
    if (
        (rows and not array.ndim)
        or len(found) != len(shape)
        or any(w not in (None, h) for w, h in zip(shape, found, strict=True))
    ):
        want = tuple("?" if d is None else d for d in ((None, *shape) if rows else shape))
        raise ModelOutputError(
            f"Output `{spec.name}` has shape {array.shape}, expected ({', '.join(map(str, want))}), as in the block that was "
            "tried on the driver. A program must return tensors of the same rank, and of the same cell shape where those of "
            "its inputs are known."
        )
    return array


def cell_spec(name: str, array: np.ndarray) -> TensorSpec:
    """Return the spec of one cell."""
    return TensorSpec(name, dtype_name(array), tuple(array.shape))


def stacked(cells: Sequence[Block]) -> Block:
    """Stack cells of equal shapes into a block, a row each."""
    return {name: np.stack([as_cell(c[name]) for c in cells]) for name in cells[0]}


def as_cell(value: Any) -> np.ndarray:
    """Return a cell as an array: of objects, where it is text or bytes."""
    return np.asarray(value, dtype=object) if isinstance(value, str | bytes) else _as_text(np.asarray(value))


def joined(arrays: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Lay tensors of the same cell shape end to end.

    Raises:
        ModelOutputError: their cells have different shapes.
    """
    shapes = {a.shape[1:] for a in arrays}
    if len(shapes) > 1:
        raise ModelOutputError(
            f"`{name}` has cells of different shapes in different blocks: "
            f"{' and '.join(map(str, sorted(shapes)))}. They meet in one reduction, so make them equally long."
        )
    return np.concatenate([_as_text(a) for a in arrays])


def _as_text(array: np.ndarray) -> np.ndarray:
    """Return text of fixed width as objects, which are what columns give."""
    return array.astype(object) if array.dtype.kind in "US" else array
