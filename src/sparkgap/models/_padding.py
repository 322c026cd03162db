"""Filling a short block up to a size that is compiled already, for frameworks that compile for each batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparkgap.tensors.spec import Block


class Padding:
    """Remembers the batch sizes that were seen and pads smaller blocks up to the next of them.

    Right for models whose rows do not depend on each other, as those of a trained network do not: the added
    rows are copies of the last one, and their results are cut off.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], set[int]] = {}

    def pad(self, block: Block) -> tuple[Block, int, int]:
        """Return the block, its true number of rows and the number of rows that it has now."""
        rows = len(next(iter(block.values())))
        shapes = tuple((name, array.shape[1:], array.dtype.str) for name, array in block.items())
        seen = self._seen.setdefault(shapes, set())
        size = min((n for n in seen if n >= rows), default=rows)
        if rows == 0:
            return block, 0, 0  # there is no last row to repeat
        seen.add(size)
        if size > rows:
            block = {
                name: np.concatenate([array, np.repeat(array[-1:], size - rows, axis=0)]) for name, array in block.items()
            }
        return block, rows, size

    @staticmethod
    def cut(outputs: Mapping[str, np.ndarray], rows: int, size: int) -> Block:
        """Take the rows that were added off the outputs again."""
        if size == rows:
            return dict(outputs)
        return {name: array[:rows] if array.shape[:1] == (size,) else array for name, array in outputs.items()}
