"""Shapes in the metadata of columns, where they survive select, rename, persist and Parquet. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparkgap.tensors.spec import Dim

KEY = "sparkgap.shape"
"""Metadata of a column: the lengths of a cell, -1 where one is not known."""


def with_shape(metadata: Mapping[str, Any] | None, shape: Sequence[Dim] | None, *, told: bool = False) -> dict[str, Any]:
    """Return metadata with a cell shape.

    Args:
        metadata: of the column so far.
        shape: of its cells; None takes away what is there.
        told: keep also a shape of which no length is known: somebody has looked.
    """
    rest = {k: v for k, v in (metadata or {}).items() if k != KEY}
    if shape is None or (not told and all(d is None for d in shape)):
        return rest
    return rest | {KEY: [-1 if d is None else int(d) for d in shape]}


def shape_in(metadata: Mapping[str, Any] | None) -> tuple[Dim, ...] | None:
    """Return the cell shape that metadata tell; None where they tell none."""
    found = (metadata or {}).get(KEY)
    return None if found is None else tuple(None if d < 0 else int(d) for d in found)
