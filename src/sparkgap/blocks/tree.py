"""A reduction whose order depends on nothing but the number of its items: equal input gives equal bits. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Tree(Generic[T]):
    """Reduces items as they come, `width` at a time, level by level; never holds more than `width` a level.

    The order of the items is kept, so `merge` need be associative only, not commutative.

    Args:
        merge: makes one item of two or more neighbours.
        width: how many items are merged at a time.
    """

    def __init__(self, merge: Callable[[list[T]], T], width: int = 2) -> None:
        self._merge = merge
        self._width = width
        self._levels: list[list[T]] = []

    def add(self, item: T) -> None:
        """Take the next item."""
        for level in self._levels:
            level.append(item)
            if len(level) < self._width:
                return
            item = self._merge(list(level))
            level.clear()
        self._levels.append([item])

    def result(self) -> T | None:
        """Return what all items together give; None where there was none."""
        tail: list[T] = []
        for level in self._levels:  # what lies in a higher level came before
            tail = [*level, *tail]
            if len(tail) > 1:
                tail = [self._merge(tail)]
        return tail[0] if tail else None
