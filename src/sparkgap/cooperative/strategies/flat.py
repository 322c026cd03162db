"""Many arrays as a few long vectors, so that one message carries them all. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparkgap.cooperative.strategies.group import broadcast_arrays

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable


class Flat:
    """Memory for arrays of given shapes: one vector of float32, and one of float64 for those that are that wide.

    Args:
        like: arrays with the shapes and types; half precision is held as float32.

    Attributes:
        vectors: the memory, one or two vectors.
        arrays: views of it with the shapes of `like`.
    """

    def __init__(self, like: Sequence[np.ndarray]) -> None:
        self.arrays: list[np.ndarray] = [np.empty(0)] * len(like)
        self.vectors: list[np.ndarray] = []
        for kind in (np.float32, np.float64):
            mine = [i for i, array in enumerate(like) if wide(array) is kind]
            vector, place = np.zeros(sum(like[i].size for i in mine), kind), 0
            for i in mine:
                self.arrays[i] = vector[place : place + like[i].size].reshape(like[i].shape)
                place += like[i].size
            if mine:
                self.vectors.append(vector)

    def fill(self, values: Sequence[np.ndarray]) -> None:
        """Copy values in."""
        for mine, value in zip(self.arrays, values, strict=True):
            mine[...] = value

    def add(self, values: Sequence[np.ndarray]) -> None:
        """Add values to what is there."""
        for mine, value in zip(self.arrays, values, strict=True):
            mine += value

    def clear(self) -> None:
        """Set all to zero."""
        for vector in self.vectors:
            vector.fill(0)

    def scale(self, factor: float) -> None:
        """Multiply all by a factor, rounded to each vector's type first."""
        if factor != 1:
            for vector in self.vectors:
                vector *= vector.dtype.type(factor)


def wide(array: np.ndarray) -> type[np.floating]:
    """Return the type in which an array is summed."""
    return np.float64 if array.dtype == np.float64 else np.float32


def is_floating(array: np.ndarray) -> bool:
    """Whether an array has real numbers; true also of the half precisions that NumPy does not know by itself."""
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name.startswith(("bfloat", "float"))


def equalise(trainable: Trainable, group: Group) -> None:
    """Give all ranks the parameters and buffers of rank 0.

    Raises:
        ConfigurationError: the models differ in shape.
    """
    if group.world == 1:
        return
    trainable.load_parameters(broadcast_arrays(trainable.parameters(), group))
    trainable.load_buffers(broadcast_arrays(trainable.buffers(), group))


def average_buffers(trainable: Trainable, group: Group) -> None:
    """Give all ranks the mean of the floating-point buffers, and rank 0's of the others (counters, random keys)."""
    buffers = trainable.buffers()
    if group.world == 1 or not buffers:
        return
    floating = [i for i, array in enumerate(buffers) if is_floating(array)]
    found = broadcast_arrays(buffers, group) if len(floating) < len(buffers) else list(buffers)
    flat = Flat([buffers[i] for i in floating])
    flat.fill([buffers[i] for i in floating])
    flat.scale(1 / group.world)
    for vector in flat.vectors:
        group.all_reduce_sum_(vector)
    for i, mean in zip(floating, flat.arrays, strict=True):
        found[i] = mean.astype(buffers[i].dtype)
    trainable.load_buffers(found)
