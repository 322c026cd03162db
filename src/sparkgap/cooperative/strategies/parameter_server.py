"""A parameter server: workers read parameters, compute, and send changes, each at its own pace.

Downpour SGD: Dean et al., "Large scale distributed deep networks", NIPS 2012. Stale synchronous parallel: Ho et al., "More
effective distributed ML via a stale synchronous parallel parameter server", NIPS 2013. Sharded key ranges and sparse rows:
Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.

The servers are threads in the ranks: each holds a part of all parameters. They live from the first step to `finish`. A rank
that dies ends the run for all: the gang goes on from its last checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.strategies.base import Batch, Run, Strategy, check_rows
from sparkgap.cooperative.strategies.flat import Flat, average_buffers, equalise, wide
from sparkgap.cooperative.strategies.server_parts import Parts
from sparkgap.cooperative.strategies.server_shard import ServerOptimizer

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable


@dataclass(frozen=True)
class Adagrad(ServerOptimizer):
    """Adagrad (Duchi, Hazan, Singer, JMLR 2011), with which Downpour SGD was published.

    Args:
        lr: learning rate.
        epsilon: keeps the first division finite.

    Raises:
        ConfigurationError: a number is not above 0.
    """

    lr: float = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.epsilon > 0:
            raise ConfigurationError(f"Adagrad: lr={self.lr}, epsilon={self.epsilon}: both are above 0, e.g. 0.01 and 1e-10.")

    def change(self, gradient: np.ndarray, memory: np.ndarray) -> np.ndarray:
        """See `ServerOptimizer.change`."""
        memory += gradient * gradient
        kind = gradient.dtype.type
        found: np.ndarray = kind(self.lr) * gradient / (np.sqrt(memory) + kind(self.epsilon))
        return found


@dataclass(frozen=True)
class ParameterServer(Strategy):
    """Every rank works at its own pace on parameters that may be some steps old.

    What a rank sends is weighted by its share of the rows, so a learning rate means the same as with `AllReduce`.

    Args:
        staleness: how many steps a rank may be ahead of the slowest one: 0: all go in step, and with plain SGD it equals
            `AllReduce`; ``math.inf``: no rank ever waits.
        server_optimizer: None: each rank uses the trainable's optimizer and sends the change. Otherwise ranks send gradients,
            and this one takes the steps, one for each push (one for each step of the gang with ``staleness=0``): an
            `OuterSGD` or `Adagrad`. The trainable's optimizer, clipping and schedule are not used then.
        sharded: every rank serves a part; False: rank 0 serves all.
        sparse: pairs of (number of a 2-D parameter among the trainable's, column with numbers of its rows): of these
            parameters only the rows in the batch travel. They must be all that the batch reaches. Momentum and weight decay
            touch other rows too, and are lost there.

    Raises:
        ConfigurationError: an option makes no sense.
    """

    staleness: float = 0
    server_optimizer: ServerOptimizer | None = None
    sharded: bool = True
    sparse: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.staleness >= 0 or (self.staleness != math.inf and self.staleness != int(self.staleness)):
            raise ConfigurationError(f"ParameterServer: staleness is {self.staleness}: steps from 0 on, or math.inf.")
        if self.server_optimizer is not None and not isinstance(self.server_optimizer, ServerOptimizer):
            raise ConfigurationError(
                f"ParameterServer: server_optimizer is {self.server_optimizer!r}: None, OuterSGD(lr, momentum, nesterov) or "
                "Adagrad(lr)."
            )

    def begin(self, trainable: Trainable, group: Group) -> Run:
        """Start in a rank; see `Strategy.begin`."""
        shapes = [p.shape for p in trainable.parameters()]
        for number, column in self.sparse:
            if not 0 <= number < len(shapes) or len(shapes[number]) != 2:
                raise ConfigurationError(
                    f"ParameterServer: sparse=(({number}, {column!r}),) names no 2-D parameter; their shapes are "
                    f"{dict(enumerate(shapes))}."
                )
        return ServerRun(self, trainable, group)


class ServerRun(Run):
    """One rank: a worker, and a server of a part of the parameters."""

    def __init__(self, strategy: ParameterServer, trainable: Trainable, group: Group) -> None:
        self._strategy, self._trainable, self._group = strategy, trainable, group
        equalise(trainable, group)
        self._sparse = dict(strategy.sparse)
        like = self._split(trainable.parameters())
        self._memory = [np.zeros_like(a) for a in like] if strategy.server_optimizer else []
        self._local: list[np.ndarray] = []  # this rank's copy of the parameters: vectors, then tables
        self._parts: Parts | None = None

    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step; returns the mean loss over this rank's rows."""
        check_rows(batch, rows, total)
        if self._group.world == 1 and self._strategy.server_optimizer is None:
            loss, gradients = self._trainable.gradients(batch)
            self._trainable.apply(gradients)
            return loss
        parts = self._parts or self._open()
        touched = self._touched(batch)
        parts.pull(touched, self._local)
        if not rows:
            parts.push([np.zeros_like(a) for a in self._reached(self._local, touched)], touched)
            return 0.0
        self._trainable.load_parameters(self._joined(self._local))
        loss, gradients = self._trainable.gradients(batch)
        if self._strategy.server_optimizer is None:
            self._trainable.apply(gradients)
            before = self._reached(self._local, touched)
            after = self._reached(self._split(self._trainable.parameters()), touched)
            change = [a - b for a, b in zip(after, before, strict=True)]
        else:
            change = self._reached(self._split(gradients), touched)
        for array in change:
            array *= array.dtype.type(rows / total)
        parts.push(change, touched)
        return loss

    def finish(self) -> None:
        """Wait for all, read everything, and let the servers go; the next step starts them again."""
        if self._parts is not None:
            found, self._memory = self._parts.settle()
            self._trainable.load_parameters(self._joined(found))
            self._parts = None
        average_buffers(self._trainable, self._group)

    def state(self) -> dict[str, Any]:
        """Return the server optimizer's memory, as of the last `finish`."""
        return {"memory": [m.copy() for m in self._memory]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, on any number of ranks."""
        self._memory = [np.array(m) for m in state["memory"]]

    def _open(self) -> Parts:
        """Start the servers, with the parameters as they are; these are equal on all ranks."""
        self._local = self._split(self._trainable.parameters())
        self._parts = Parts(
            self._local,
            self._memory,
            tables=len(self._sparse),
            servers=self._group.world if self._strategy.sharded else 1,
            staleness=self._strategy.staleness,
            optimizer=self._strategy.server_optimizer,
            group=self._group,
        )
        return self._parts

    def _split(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return copies: what travels whole as vectors, then the tables."""
        whole = [a for i, a in enumerate(arrays) if i not in self._sparse]
        flat = Flat(whole)
        flat.fill(whole)
        return [*flat.vectors, *(np.array(arrays[i], wide(arrays[i])) for i in self._sparse)]

    def _joined(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the parameters in the trainable's order: the inverse of `_split`."""
        like = self._trainable.parameters()
        flat = Flat([a for i, a in enumerate(like) if i not in self._sparse])
        for mine, vector in zip(flat.vectors, arrays, strict=False):
            mine[...] = vector
        whole, tables = iter(flat.arrays), dict(zip(self._sparse, arrays[len(flat.vectors) :], strict=True))
        return [tables[i] if i in tables else next(whole) for i in range(len(like))]

    def _reached(self, arrays: Sequence[np.ndarray], touched: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the vectors, and the touched rows of the tables."""
        first = len(arrays) - len(touched)
        return [*arrays[:first], *(t[rows] for t, rows in zip(arrays[first:], touched, strict=True))]

    def _touched(self, batch: Batch) -> list[np.ndarray]:
        """Return the rows of each table that a batch reaches, each once.

        Raises:
            DataError: a column does not have numbers of rows.
        """
        found = []
        tables = self._local[len(self._local) - len(self._sparse) :]
        for table, column in zip(tables, self._sparse.values(), strict=True):
            rows = np.unique(batch[column]) if column in batch else None
            if rows is None or rows.dtype.kind not in "iu" or (len(rows) and not 0 <= rows[0] <= rows[-1] < len(table)):
                raise DataError(
                    f"ParameterServer(sparse=...): column {column!r} must have whole numbers from 0 to {len(table) - 1}, the "
                    f"rows of its parameter. The batch has the columns {', '.join(batch)}."
                )
            found.append(rows.astype(np.int64))
        return found
