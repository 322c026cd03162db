"""Local SGD: ranks train by themselves for some steps, then meet. For slow networks: H steps cost one message.

Averaging: Zinkevich et al., NIPS 2010; SparkNet (Moritz et al., ICLR 2016); Stich, "Local SGD converges fast and communicates
little", ICLR 2019. Outer optimizer: Douillard et al., "DiLoCo", 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.strategies.base import Batch, Run, Strategy, check_rows
from sparkgap.cooperative.strategies.compression import Compression, compression_of
from sparkgap.cooperative.strategies.flat import Flat, average_buffers, equalise
from sparkgap.cooperative.strategies.optimizer_state import average_state
from sparkgap.cooperative.strategies.server_shard import ServerOptimizer

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group
    from sparkgap.cooperative.trainables.base import Trainable


@dataclass(frozen=True)
class OuterSGD(ServerOptimizer):
    """SGD on the mean change of the parameters between two meetings, as if it were a gradient; PyTorch's definition.

    Args:
        lr: learning rate; 1 without momentum is plain averaging.
        momentum: 0 for none.
        nesterov: look ahead.

    Raises:
        ConfigurationError: a number makes no sense.
    """

    lr: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.momentum < 1:
            raise ConfigurationError(
                f"OuterSGD: lr={self.lr}, momentum={self.momentum}. lr is above 0; momentum is from 0 to "
                "below 1; e.g. 0.7 and 0.9."
            )

    def change(self, gradient: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return what to take from the parameters, and bring `velocity` up to date. Pure otherwise."""
        velocity *= velocity.dtype.type(self.momentum)
        velocity += gradient
        step = gradient + velocity.dtype.type(self.momentum) * velocity if self.nesterov else velocity
        found: np.ndarray = velocity.dtype.type(self.lr) * step
        return found


@dataclass(frozen=True)
class LocalSGD(Strategy):
    """Each rank takes its own optimizer steps; every `period` steps the parameters are averaged, weighted by rows.

    Args:
        period: steps from one meeting to the next; with 1 and plain SGD it equals `AllReduce`.
        outer: what becomes of the mean change; None: it is applied as it is.
        compression: of changes: None, ``"fp16"``, `TopK` or `Threshold`; what a message leaves out goes into the next one.
        average_optimizer: average the optimizer's state (momenta) too. It is left out of meetings before which some rank
            has not stepped yet.

    Raises:
        ConfigurationError: an option makes no sense.
    """

    period: int = 8
    outer: OuterSGD | None = None
    compression: Compression | Literal["fp16"] | None = None
    average_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ConfigurationError(f"LocalSGD: period is {self.period}: a number of steps from 1 on.")
        compression_of(self.compression)

    def begin(self, trainable: Trainable, group: Group) -> Run:
        """Start in a rank; see `Strategy.begin`."""
        return LocalRun(self, trainable, group)


class LocalRun(Run):
    """One rank that trains by itself and meets the others now and then."""

    def __init__(self, strategy: LocalSGD, trainable: Trainable, group: Group) -> None:
        self._strategy, self._trainable, self._group = strategy, trainable, group
        self._compression = compression_of(strategy.compression)
        self._steps = self._rows = self._total = 0
        self._kept_back = False
        equalise(trainable, group)
        self._meets = group.world > 1 or strategy.outer is not None
        parameters = trainable.parameters() if self._meets else []
        self._anchor, self._change = Flat(parameters), Flat(parameters)
        self._anchor.fill(parameters)
        self._residual = [np.zeros_like(v) for v in self._anchor.vectors] if self._compression else []
        self._velocity = [np.zeros_like(v) for v in self._anchor.vectors] if strategy.outer else []

    def step(self, batch: Batch, rows: int, total: int) -> float:
        """Take one step; returns the mean loss over this rank's rows."""
        check_rows(batch, rows, total)
        loss = 0.0
        if rows:
            loss, gradients = self._trainable.gradients(batch)
            self._trainable.apply(gradients)
        self._steps += 1
        self._rows += rows
        self._total += total
        if self._steps % self._strategy.period == 0:
            self._meet(self._compression)
        return loss

    def finish(self) -> None:
        """Meet, whatever the number of steps, and send all that compression has kept back."""
        if self._total:
            self._meet(None)
        elif self._kept_back:
            self._flush()
        average_buffers(self._trainable, self._group)

    def _meet(self, compression: Compression | None) -> None:
        if not self._meets or not self._total:
            return
        world = self._group.world
        self._change.fill(self._trainable.parameters())
        share = self._rows / self._total
        for number, (change, anchor) in enumerate(zip(self._change.vectors, self._anchor.vectors, strict=True)):
            np.subtract(anchor, change, out=change)
            change *= change.dtype.type(share * world)
            mean = self._sum_over_ranks(change, number, compression)
            mean /= world
            anchor -= mean if self._strategy.outer is None else self._strategy.outer.change(mean, self._velocity[number])
        self._trainable.load_parameters(self._anchor.arrays)
        if self._strategy.average_optimizer:
            average_state(self._trainable, self._group)
        self._rows = self._total = 0
        self._kept_back = compression is not None

    def _flush(self) -> None:
        """Send what compression has kept back, without another turn of the outer optimizer's momentum."""
        rate = 1.0 if self._strategy.outer is None else self._strategy.outer.lr
        for anchor, residual in zip(self._anchor.vectors, self._residual, strict=True):
            self._group.all_reduce_sum_(residual)
            anchor -= residual * residual.dtype.type(rate / self._group.world)
            residual.fill(0)
        self._trainable.load_parameters(self._anchor.arrays)
        self._kept_back = False

    def _sum_over_ranks(self, change: np.ndarray, number: int, compression: Compression | None) -> np.ndarray:
        """Return the sum of the changes; what is not sent is kept for the next time."""
        if self._residual:
            change += self._residual[number]
        if compression is None:
            self._group.all_reduce_sum_(change)
            if self._residual:
                self._residual[number].fill(0)
            return change
        total = compression.sum_(change, self._group)
        self._residual[number][...] = change
        return total

    def state(self) -> dict[str, Any]:
        """Return counters, the outer optimizer's velocity and what compression keeps back (zero right after `finish`)."""
        return {
            "steps": self._steps,
            "kept_back": self._kept_back,
            "velocity": [v.copy() for v in self._velocity],
            "residual": [r.copy() for r in self._residual],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, after the trainable has got its parameters back."""
        self._steps, self._kept_back = int(state["steps"]), bool(state["kept_back"])
        self._anchor.fill(self._trainable.parameters() if self._meets else [])
        for mine, kept in ((self._velocity, state["velocity"]), (self._residual, state["residual"])):
            for vector, value in zip(mine, kept, strict=True):
                vector[...] = value
