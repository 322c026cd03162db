"""A part of the parameters, and the rules by which many workers read and change it. NumPy and a lock; no network."""

from __future__ import annotations

import abc
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparkgap._errors import RunError


class ServerOptimizer(abc.ABC):
    """Turns gradients into changes, with one number of memory for each parameter."""

    @abc.abstractmethod
    def change(self, gradient: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """Return what to take from the parameters, and bring `memory`, zero at first, up to date. Elementwise."""


@dataclass(frozen=True)
class Push:
    """What a worker sends: changes to add, or gradients where the server has an optimizer.

    Attributes:
        dense: one array for each vector.
        rows: of each table, which of its rows; each once.
        values: of each table, an array of those rows.
    """

    dense: Sequence[np.ndarray]
    rows: Sequence[np.ndarray]
    values: Sequence[np.ndarray]


class Shard:
    """Parameters with the clock of each worker. Thread-safe.

    A worker's clock is the number of steps that it has pushed. With ``staleness=0`` the pushes of a step are applied together
    when all have come, in the order of ranks; otherwise each as it comes.

    Args:
        vectors: parameters that every step changes; they are copied, as all others.
        tables: 2-D parameters of which a step changes some rows.
        memory: of the optimizer, for vectors and then tables; empty without one.
        world: number of workers.
        staleness: how many steps a worker may be ahead of the slowest one; may be infinite.
        optimizer: None: pushes are added.
    """

    def __init__(
        self,
        vectors: Sequence[np.ndarray],
        tables: Sequence[np.ndarray],
        memory: Sequence[np.ndarray],
        *,
        world: int,
        staleness: float,
        optimizer: ServerOptimizer | None,
    ) -> None:
        self._vectors, self._tables = [v.copy() for v in vectors], [t.copy() for t in tables]
        self._memory = [m.copy() for m in memory]
        self._staleness, self._optimizer = staleness, optimizer
        self._clocks = [0] * world
        self._waiting: dict[int, Push] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def pull(self, clock: int, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the vectors and rows of the tables, once the slowest worker is near enough to a worker's clock.

        Raises:
            RunError: a worker was lost.
        """
        with self._changed:
            self._wait_for(clock - self._staleness)
            return [*(v.copy() for v in self._vectors), *(t[r] for t, r in zip(self._tables, rows, strict=True))]

    def settled(self, clock: int) -> list[np.ndarray]:
        """Return all vectors and tables, then their memory, once all workers have pushed so many steps.

        Raises:
            RunError: a worker was lost.
        """
        with self._changed:
            self._wait_for(clock)
            return [a.copy() for a in (*self._vectors, *self._tables, *self._memory)]

    def push(self, rank: int, push: Push) -> None:
        """Take a worker's part of its next step."""
        with self._changed:
            self._clocks[rank] += 1
            if self._staleness > 0:
                self._apply([push])
            else:
                self._waiting[rank] = push
                if len(self._waiting) == len(self._clocks):
                    self._apply([self._waiting[r] for r in range(len(self._clocks))])
                    self._waiting.clear()
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let all who wait know that a worker was lost."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _wait_for(self, clock: float) -> None:
        self._changed.wait_for(lambda: self._error is not None or min(self._clocks) >= clock)
        if self._error is not None:
            raise RunError(f"The parameter server lost a worker: {self._error}") from self._error

    def _apply(self, pushes: Sequence[Push]) -> None:
        for number, vector in enumerate(self._vectors):
            total = pushes[0].dense[number]
            for push in pushes[1:]:
                total = total + push.dense[number]
            if self._optimizer is None:
                vector += total
            else:
                vector -= self._optimizer.change(total, self._memory[number])
        for number, table in enumerate(self._tables):
            rows, total = sum_rows([p.rows[number] for p in pushes], [p.values[number] for p in pushes])
            if self._optimizer is None:
                table[rows] += total
            else:
                memory = self._memory[len(self._vectors) + number]
                mine = memory[rows]
                table[rows] -= self._optimizer.change(total, mine)
                memory[rows] = mine


def sum_rows(rows: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return each row once, sorted, with the sum of what was given for it. Pure."""
    if len(rows) == 1:
        return rows[0], values[0]
    found, places = np.unique(np.concatenate(rows), return_inverse=True)
    total = np.zeros((len(found), *values[0].shape[1:]), values[0].dtype)
    np.add.at(total, places, np.concatenate(values))
    return found, total
