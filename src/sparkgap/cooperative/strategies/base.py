"""The seam: a `Strategy` is what the user chooses, a `Run` is what it becomes in each rank."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import DataError

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable

Batch = Mapping[str, np.ndarray]


class Strategy(abc.ABC):
    """Options of a way to train together: a frozen, picklable value, made on the driver and used in each rank."""

    @abc.abstractmethod
    def begin(self, trainable: Trainable, group: Group) -> Run:
        """Start, in a rank. All ranks call it; they go on with the parameters and buffers of rank 0.

        Raises:
            ConfigurationError: the options do not suit this model or this number of ranks.
        """


class Run(abc.ABC):
    """A strategy at work in one rank. All ranks call its methods, in the same order."""

    @abc.abstractmethod
    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step of the gang.

        Args:
            batch: this rank's part of the global batch: rows ``total * rank // world`` to ``total * (rank + 1) // world``.
                A part without rows still has its columns, with length 0.
            rows: of this part, may be 0.
            total: rows of the global batch, over all ranks; from 1 on.

        Returns:
            The mean loss over the global batch where that costs nothing extra, else over this part (0 where it has no rows).

        Raises:
            DataError: `rows` is not what the batch has.
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """Make parameters and buffers equal on all ranks: after the last step, or before a checkpoint. Steps may follow."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the trainable: picklable; equal on all ranks right after `finish`."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, on any number of ranks."""
        del state


def check_rows(batch: Batch, rows: int, total: int) -> None:
    """Refuse a batch that is not what is said of it.

    Raises:
        DataError: it has another number of rows, or the total makes no sense.
    """
    found = {name: len(column) for name, column in batch.items()}
    if any(count != rows for count in found.values()) or not 0 <= rows <= total or total < 1:
        raise DataError(
            f"A step got {rows} rows of {total}, with columns of these lengths: {found}. Every column of a batch must have "
            "the rows of this rank's part, without padding."
        )
