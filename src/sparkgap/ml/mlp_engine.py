"""Trains a perceptron on shards, in one task or in several that work together. Needs no Spark."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap._errors import DataError
from sparkgap.ml.lbfgs import Point, minimise
from sparkgap.ml.mlp_loss import Loss
from sparkgap.ml.mlp_net import first_weights, parts
from sparkgap.ml.mlp_peers import Alone, Peers
from sparkgap.ml.mlp_rows import blocks
from sparkgap.ml.mlp_setting import FULL, Setting, Trained
from sparkgap.monitor.reporting import report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sparkgap.shards.dataset import Shards

NONE_LEFT = "All rows are held out, so none are left to train on. Hold out fewer."
_STOP, _TRAIN, _LOOK = 0.0, 1.0, 2.0


def trained(setting: Setting, shards: Shards, peers: Peers | None = None) -> Trained | None:
    """Train a net.

    Args:
        setting: what is wanted.
        shards: the rows, all of which each rank sees.
        peers: the ranks that work together; None for one alone.

    Returns:
        What came of it in rank 0, None in others.

    Raises:
        DataError: a feature is NaN or infinite, or no rows are left to train on.
    """
    peers = peers or Alone()
    if setting.solver not in FULL:
        from sparkgap.ml.mlp_mini import train_in_batches

        return train_in_batches(setting, shards, peers)
    return _Full(setting, shards, peers).run()


def beginning(setting: Setting) -> np.ndarray:
    """Return the first weights."""
    if setting.first is not None:
        return np.array(setting.first, np.float64)
    return first_weights(setting.layers, setting.seed, setting.activation)


def checked(loss: float) -> float:
    """Return a loss that is a finite number.

    Raises:
        DataError: it is not.
    """
    if not math.isfinite(loss):
        raise DataError(
            f"The loss is {loss}: features or weights are too large, or the step is. Scale features (StandardScaler), or "
            "lower stepSize."
        )
    return loss


class Best:
    """Keeps what was best by the loss on held-out rows, and says when to end.

    Args:
        patience: rounds without improvement; 0 for any number.
        tol: an improvement is more than this.
    """

    def __init__(self, patience: int, tol: float) -> None:
        self._patience, self._tol = patience, tol
        self._least, self._waited = np.inf, 0
        self.weights: np.ndarray | None = None

    def add(self, loss: float, weights: np.ndarray) -> bool:
        """Take the loss of a round; whether it was one too many."""
        if self.weights is None or loss < self._least:
            self.weights = weights.copy()
        self._waited = 0 if loss < self._least - self._tol else self._waited + 1
        self._least = min(self._least, loss)
        return 0 < self._patience <= self._waited


class _Full:
    """A solver that looks at all rows before each step. Rank 0 takes the steps; all ranks add up loss and gradient.

    Steps are taken by one rank only as two kinds of processor round differently, and so could decide differently.
    """

    def __init__(self, setting: Setting, shards: Shards, peers: Peers) -> None:
        self._setting, self._peers = setting, peers
        self._loss = Loss(setting)
        found = blocks(
            shards, setting.block_rows, held_below=setting.held_below, rank=peers.rank, world=peers.world
        )  # fmt: skip
        self._train, self._held = ([self._loss.targets(rows) for rows in part] for part in found)
        self._decayed = np.zeros(0)

    def run(self) -> Trained | None:
        if self._peers.rank:
            self._serve()
            return None
        weights = beginning(self._setting)
        decays = np.zeros(len(weights))
        for matrix, _ in parts(decays, self._setting.layers):
            matrix[:] = self._setting.weight_decay
        self._decayed = decays
        found = self._steps(weights)
        self._ask(weights, _STOP)
        return found

    def _steps(self, weights: np.ndarray) -> Trained:
        history, held = [], []
        best = Best(self._setting.patience, self._setting.tol)
        point, looks = Point(weights, 0.0, weights), True
        solve = _descend if self._setting.solver == "gd" else _lbfgs
        for point in solve(self._objective, weights, self._setting):
            history.append(checked(point.loss))
            report(len(history) - 1, loss=point.loss)
            if looks:
                loss, count = self._look(point.weights)
                looks = bool(count)
                held += [loss] if looks else []
                if looks and best.add(loss, point.weights):
                    break
            if len(history) > self._setting.max_iter:
                break
        kept = point.weights if best.weights is None else best.weights
        return Trained(np.array(kept), tuple(history), tuple(held), len(history) - 1)

    def _objective(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        sums = self._ask(weights, _TRAIN)
        if not sums[-1]:
            raise DataError(NONE_LEFT)
        decay = self._decayed * weights
        return float(sums[-2] / sums[-1] + 0.5 * weights @ decay), sums[:-2] / sums[-1] + decay

    def _look(self, weights: np.ndarray) -> tuple[float, int]:
        if not self._setting.held_below:
            return 0.0, 0
        loss, count = self._ask(weights, _LOOK)
        return float(loss / max(count, 1.0)), int(count)

    def _ask(self, weights: np.ndarray, what: float) -> np.ndarray:
        """Have all ranks compute something, and return the sum."""
        self._peers.tell(np.append(weights, what))
        return np.zeros(2) if what == _STOP else self._peers.add(self._sums(weights, what))

    def _serve(self) -> None:
        size = len(beginning(self._setting)) + 1
        while (told := self._peers.hear(size))[-1] != _STOP:
            self._peers.add(self._sums(told[:-1].copy(), told[-1]))

    def _sums(self, weights: np.ndarray, what: float) -> np.ndarray:
        return self._loss.sums(weights, self._train if what == _TRAIN else self._held, slope=bool(what == _TRAIN))


def _lbfgs(objective: Callable[[np.ndarray], Any], start: np.ndarray, setting: Setting) -> Iterator[Point]:
    return minimise(objective, start, setting.tol)


def _descend(objective: Callable[[np.ndarray], Any], start: np.ndarray, setting: Setting) -> Iterator[Point]:
    """Go down the gradient; ends, as in MLlib, with a step less than `tol` of the weights' norm."""
    at = Point(start, *objective(start))
    yield at
    while True:
        weights = at.weights - setting.step_size * at.gradient
        change = float(np.linalg.norm(weights - at.weights))
        at = Point(weights, *objective(weights))
        yield at
        if change < setting.tol * max(float(np.linalg.norm(weights)), 1.0):
            return
