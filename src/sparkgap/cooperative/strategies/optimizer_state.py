"""The mean of optimizers' states over the ranks: floating-point arrays in nested dicts, lists and tuples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap.cooperative.strategies.flat import Flat, is_floating

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable


def average_state(trainable: Trainable, group: Group) -> None:
    """Average the state of the optimizers, except where some rank has none yet (it has not taken a step)."""
    state = trainable.state()
    found: list[np.ndarray] = []

    def note(array: np.ndarray) -> np.ndarray:
        found.append(array)
        return array

    _replaced(state, note)
    sizes = group.gather(np.asarray([sum(a.size for a in found)], np.int64))
    if group.world == 1 or any(int(size[0]) != int(sizes[0][0]) for size in sizes):
        return
    flat = Flat(found)
    flat.fill(found)
    flat.scale(1 / group.world)
    for vector in flat.vectors:
        group.all_reduce_sum_(vector)
    means = iter(flat.arrays)
    trainable.load_state(_replaced(state, lambda array: next(means).astype(array.dtype)))


def _replaced(value: Any, new: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return a copy of a nested value with its floating-point arrays and tensors replaced, in a fixed order."""
    if isinstance(value, Mapping):
        return {key: _replaced(item, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_replaced(item, new) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, np.ndarray):
        return new(value) if is_floating(value) else value
    if hasattr(value, "is_floating_point") and value.is_floating_point():  # a torch tensor
        return value.new_tensor(new(value.detach().cpu().numpy()))
    return value
