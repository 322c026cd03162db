"""The rows of a training as one task sees them: views of shards, in blocks. Needs no Spark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sparkgap._errors import DataError

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards
    from sparkgap.tensors.spec import Block

FEATURES, LABEL, HELD = "features", "label", "held"
"""Columns of the shards; the last is there where some rows are held out."""


class Rows(NamedTuple):
    """Some rows: features (rows, n), labels (rows,)."""

    features: np.ndarray
    labels: np.ndarray


def blocks(shards: Shards, size: int, *, held_below: float, rank: int = 0, world: int = 1) -> tuple[list[Rows], list[Rows]]:
    """Return the blocks that a rank trains on, and those that it looks at. Views of the files where they lie together.

    Args:
        shards: the rows of all ranks.
        size: rows of a block.
        held_below: see `Setting`.
        rank: which part of the rows.
        world: how many parts.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    trained, looked_at = [], []
    for block in _pieces(shards, shards.rows * rank // world, shards.rows * (rank + 1) // world, size):
        check_finite(block[FEATURES])
        mine, held = split(block, held_below)
        trained += [mine] if len(mine.labels) else []
        looked_at += [held] if len(held.labels) else []
    return trained, looked_at


def split(block: Block, held_below: float) -> tuple[Rows, Rows]:
    """Return the rows to train on, and those to look at."""
    features, labels = block[FEATURES], block[LABEL]
    if HELD not in block or held_below <= 0:
        return Rows(features, labels), Rows(features[:0], labels[:0])
    held = block[HELD] < held_below
    return Rows(features[~held], labels[~held]), Rows(features[held], labels[held])


def check_finite(features: np.ndarray) -> None:
    """Refuse what no net can learn from.

    Raises:
        DataError: a value is NaN or infinite.
    """
    if features.dtype.kind == "f" and not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise DataError(
            f"Feature {column} of a row is {features[row, column]}; features must be finite numbers. Leave such rows out, or "
            "fill them (Imputer)."
        )


def check_labels(shards: Shards, classes: int | None) -> None:
    """Refuse labels that are no classes; where `classes` is None, labels that are no finite numbers.

    Raises:
        DataError: there are no rows, or a label does not fit.
    """
    if not shards.rows:
        raise DataError("There are no rows to train on.")
    for start in range(0, shards.rows, 1 << 20):
        labels = shards.slice(start, start + (1 << 20), [LABEL])[LABEL]
        good = np.isfinite(labels)
        if classes is not None:
            good &= (labels >= 0) & (labels < classes) & (labels == np.floor(labels))
        if not good.all():
            found = labels[~good][0]
            wanted = f"whole numbers from 0 to {classes - 1}, as the last layer has {classes}" if classes else "finite numbers"
            hint = " Use StringIndexer, or a larger last layer." if classes else ""
            raise DataError(f"A label is {found}; labels must be {wanted}.{hint}")


def _pieces(shards: Shards, start: int, stop: int, size: int) -> Iterator[Block]:
    """Give the rows in blocks; across record batches, which takes a copy, only where these are small."""
    columns = [name for name in (FEATURES, LABEL, HELD) if name in shards.names]
    while start < stop:
        end = shards.record_batch(start)[1]
        stride = min(size, end - start) if end - start >= size // 2 else size
        yield shards.slice(start, min(stop, start + stride), columns)
        start += stride
