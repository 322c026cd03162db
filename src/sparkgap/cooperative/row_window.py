"""The rows that a rank has got and not given yet: drawn at random, or first come, first served. Not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sparkgap._errors import DataError
from sparkgap.tensors.spec import Block

Shapes = dict[str, list[Any]]
"""Dtype and shape of a row of each column, as JSON."""


class RowBuffer(Protocol):
    """Takes blocks of rows, and gives rows."""

    rows: int

    def add(self, block: Block) -> None:
        """Take rows."""
        ...

    def take(self, count: int) -> Block:
        """Give so many of them, as new arrays, or views of what was added."""
        ...

    def shapes(self) -> Shapes:
        """Tell what rows are; nothing where none has come yet."""
        ...

    def expect(self, shapes: Shapes) -> None:
        """Be told what rows are, by somebody who has some: also no rows at all have columns."""
        ...


class _Known:
    """What rows are."""

    def __init__(self) -> None:
        self._like: Block = {}

    def shapes(self) -> Shapes:
        """Tell what rows are; nothing where none has come yet."""
        return {name: [array.dtype.str, *array.shape[1:]] for name, array in self._like.items()}

    def expect(self, shapes: Shapes) -> None:
        """Be told what rows are, by somebody who has some: also no rows at all have columns."""
        self._like = self._like or {name: np.empty((0, *shape), dtype) for name, (dtype, *shape) in shapes.items()}


class Line(_Known):
    """First come, first served.

    Attributes:
        rows: how many there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blocks: deque[Block] = deque()
        self.rows = 0

    def add(self, block: Block) -> None:
        """Take rows.

        Raises:
            DataError: they have another shape than those before.
        """
        _check(self._like, block)
        self._like = self._like or {name: array[:0] for name, array in block.items()}
        self._blocks.append(block)
        self.rows += rows_of(block)

    def take(self, count: int) -> Block:
        """Give the first ones."""
        found: list[Block] = []
        while count > 0:
            block = self._blocks.popleft()
            size = rows_of(block)
            if size > count:
                self._blocks.appendleft({name: array[count:] for name, array in block.items()})
                block, size = {name: array[:count] for name, array in block.items()}, count
            found.append(block)
            count -= size
            self.rows -= size
        return _joined(found, self._like)


class Window(_Known):
    """Drawn at random, each row with the same chance.

    Args:
        seed: of what is drawn: two numbers of 64 bits, of which the key of a Philox generator is made, and a third one.

    Attributes:
        rows: how many there are.
    """

    def __init__(self, seed: tuple[int, int, int]) -> None:
        super().__init__()
        self._draw = np.random.Generator(np.random.Philox(key=seed[0] | seed[1] << 64, counter=seed[2] << 192))
        self._kept: dict[str, np.ndarray] = {}
        self.rows = 0

    def add(self, block: Block) -> None:
        """Take rows.

        Raises:
            DataError: they have another shape than those before.
        """
        _check(self._like, block)
        self._like = self._like or {name: array[:0].copy() for name, array in block.items()}
        count = rows_of(block)
        self._grow(self.rows + count)
        for name, array in block.items():
            self._kept[name][self.rows : self.rows + count] = array
        self.rows += count

    def take(self, count: int) -> Block:
        """Give some, and close the gaps with those at the end."""
        if not count:
            return dict(self._like)
        chosen = self._draw.choice(self.rows, count, replace=False)
        found = {name: array[chosen] for name, array in self._kept.items()}
        left = self.rows - count
        moved = np.ones(count, bool)
        moved[chosen[chosen >= left] - left] = False
        gaps, last = chosen[chosen < left], left + np.flatnonzero(moved)
        for array in self._kept.values():
            array[gaps] = array[last]
            if array.dtype == object:
                array[left : self.rows] = None  # else they would stay in memory
        self.rows = left
        return found

    def _grow(self, rows: int) -> None:
        if self._kept and rows <= len(next(iter(self._kept.values()))):
            return
        for name, like in self._like.items():
            larger = np.empty((rows + rows // 4, *like.shape[1:]), like.dtype)
            if self.rows:
                larger[: self.rows] = self._kept[name][: self.rows]
            self._kept[name] = larger


def rows_of(block: Mapping[str, np.ndarray]) -> int:
    """Return the number of rows of a block."""
    return len(next(iter(block.values()))) if block else 0


def _joined(blocks: list[Block], like: Block) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return {name: np.concatenate([b[name] for b in blocks]) for name in like} if blocks else dict(like)


def _check(like: Block, block: Block) -> None:
    for name, array in like.items():
        if block[name].shape[1:] != array.shape[1:]:
            raise DataError(
                f"Column `{name}` has rows of shape {array.shape[1:]} and of shape {block[name].shape[1:]}, and with "
                'feed="stream" all rows must have one shape. Give them one, or use feed="shards".'
            )
