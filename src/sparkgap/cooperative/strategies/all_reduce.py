"""All-reduce: every step, all ranks take the same optimizer step with the mean gradient over the global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.strategies.base import Batch, Run, Strategy, check_rows
from sparkgap.cooperative.strategies.flat import Flat, average_buffers, equalise, wide

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable

VIRTUAL_WORKERS = 8
"""Of deterministic runs that do not say: 1, 2, 4 and 8 workers give the same weights."""


@dataclass(frozen=True)
class AllReduce(Strategy):
    """Average gradients at every step. Equal to training in one process on the whole batch, but for rounding.

    PyTorch models go through PyTorch's `DistributedDataParallel`, which sends gradients while others are still being
    computed; other models send all gradients in one message.

    Args:
        bucket_mb: PyTorch: MiB of gradients in a message.
        find_unused_parameters: PyTorch: a forward pass may leave parameters out (costs a walk over the graph each step).
        deterministic: the weights are the same bits for any number of workers that divides `virtual_workers`; see
            `sparkgap.cooperative.strategies.deterministic`.
        virtual_workers: parts that a global batch is cut into, a power of two; default 8. Only with `deterministic`.
        seed: of the random numbers of dropout and the like in a deterministic run.
        threads: PyTorch's threads a rank in a deterministic run: their number changes the order of additions inside a
            kernel, and must not depend on the number of ranks.

    Raises:
        ConfigurationError: an option makes no sense.
    """

    bucket_mb: float = 25
    find_unused_parameters: bool = False
    deterministic: bool = False
    virtual_workers: int | None = None
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.bucket_mb <= 0:
            raise ConfigurationError(f"AllReduce: bucket_mb is {self.bucket_mb}: a number of MiB above 0, e.g. 25.")
        if self.virtual_workers is not None and not self.deterministic:
            raise ConfigurationError("AllReduce: virtual_workers= is for deterministic=True only. Add that, or leave it out.")
        virtual = self.virtual
        if virtual < 1 or virtual & (virtual - 1):
            raise ConfigurationError(f"AllReduce: virtual_workers is {virtual}: a power of two, e.g. 8.")
        if self.threads < 1:
            raise ConfigurationError(f"AllReduce: threads is {self.threads}: a number from 1 on.")

    @property
    def virtual(self) -> int:
        """Number of virtual workers of a deterministic run."""
        return VIRTUAL_WORKERS if self.virtual_workers is None else self.virtual_workers

    def begin(self, trainable: Trainable, group: Group) -> Run:
        """Start in a rank; see `Strategy.begin`."""
        if self.deterministic:
            from sparkgap.cooperative.strategies.deterministic import DeterministicRun

            return DeterministicRun(trainable, group, self.virtual, seed=self.seed, threads=self.threads)
        if trainable.framework == "torch" and group.world > 1:
            from sparkgap.cooperative.strategies.ddp import DdpRun

            torch_trainable: Any = trainable
            return DdpRun(torch_trainable, group, bucket_mb=self.bucket_mb, find_unused=self.find_unused_parameters)
        return FlatRun(trainable, group)


class FlatRun(Run):
    """All gradients in one message, and the loss with them; for any framework."""

    def __init__(self, trainable: Trainable, group: Group) -> None:
        self._trainable, self._group = trainable, group
        equalise(trainable, group)
        parameters = trainable.parameters()
        self._flat: Any = Flat([*parameters, np.zeros(1, wide(parameters[0]))]) if group.world > 1 else None

    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step; returns the mean loss over the global batch."""
        check_rows(batch, rows, total)
        if self._group.world == 1:
            loss, gradients = self._trainable.gradients(batch)
            self._trainable.apply(gradients)
            return loss
        if rows:
            loss, gradients = self._trainable.gradients(batch)
            self._flat.fill([*gradients, np.asarray([loss])])
            self._flat.scale(rows / total)
        else:
            self._flat.clear()
        for vector in self._flat.vectors:
            self._group.all_reduce_sum_(vector)
        *gradients, mean = self._flat.arrays
        self._trainable.apply(gradients)
        return float(mean[0])

    def finish(self) -> None:
        """Average the buffers: each rank has seen other rows. The parameters are equal already."""
        average_buffers(self._trainable, self._group)
