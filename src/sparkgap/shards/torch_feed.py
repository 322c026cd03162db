"""Shards as PyTorch data sets. What needs the framework's classes is in `_torch_classes`, imported at first use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.shards.feeds import NumpyFeed, Plan
from sparkgap.tensors.spec import TensorSpec

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards


def iterable(
    shards: Shards, batch_size: int, *, epoch: int = 0, start: int = 0, prefetch: int = 2, columns: Any = None, **order: Any
) -> Any:
    """Return an ``IterableDataset`` of batches; see `Shards.to_torch`."""
    need("torch", extra="torch", why="to feed PyTorch")
    from sparkgap.shards._torch_classes import BatchDataset

    # A feed that is not iterated reads nothing: it checks all options here, on the driver of the training.
    feed = shards.to_numpy(batch_size, epoch=epoch, start=start, prefetch=prefetch, columns=columns, **order)
    check(feed.specs)
    names = tuple(columns or shards.names)
    return BatchDataset(shards, Plan(batch_size, names, **order), epoch, start, prefetch)


def rows(shards: Shards, *, columns: Sequence[str] | None = None) -> Any:
    """Return a map-style ``Dataset`` of rows; see `Shards.to_torch`."""
    need("torch", extra="torch", why="to feed PyTorch")
    from sparkgap.shards._torch_classes import RowDataset

    names = tuple(columns or shards.names)
    check([shards.columns[n] for n in shards._numbers(names)])
    return RowDataset(shards, names)


def check(specs: Sequence[TensorSpec]) -> None:
    """Refuse columns that PyTorch has no place for: dates and the like."""
    for spec in specs:
        if spec.dtype is None:
            raise ConfigurationError(
                f"Column `{spec.name}` is neither numbers nor text, which PyTorch has no tensor for. Leave it out with "
                "columns=, cast it before the shards are written, or use to_numpy()."
            )


def tensors(block: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return a batch as tensors over the same memory, as far as it may be written; columns of objects as lists."""
    import torch

    def of(array: np.ndarray) -> Any:
        return torch.from_numpy(array if array.flags.writeable else array.copy())  # a write to a mapped file is a crash

    return {n: of(a) if a.dtype != object else _list(a) for n, a in block.items()}


def _list(array: np.ndarray) -> list[Any]:
    """Return text as it is, and rows of different shapes as tensors."""
    import torch

    numbers = (isinstance(v, np.ndarray) and v.dtype != object for v in array)
    return [torch.from_numpy(v.copy()) if number else v for number, v in zip(numbers, array, strict=True)]


def feed_of_worker(shards: Shards, plan: Plan, epoch: int, start: int, prefetch: int) -> NumpyFeed:
    """Return the feed of this process: in a worker of a ``DataLoader`` every n-th step, as the loader asks them in turn."""
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    every = (0, 1) if info is None else (info.id, info.num_workers)
    return NumpyFeed(shards, plan, epoch, start, prefetch, every=every)


def row_of(block: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one row of a batch."""
    return {name: column[number] for name, column in block.items()}
