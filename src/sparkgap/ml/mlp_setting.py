"""What one training of a perceptron is told, and what comes of it: values that travel to tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FULL = ("l-bfgs", "gd")
MINI = ("adam", "adamw", "sgd")
SOLVERS = FULL + MINI
BLOCK_VALUES = 1 << 21
"""A block of rows has activations of about so many values at most: large enough for the matrix products, small for memory."""


@dataclass(frozen=True)
class Setting:
    """One training.

    Args:
        task: classes, with a softmax and cross entropy; or numbers, with squared error.
        layers: sizes, from the inputs to the outputs.
        activation: of the hidden layers.
        solver: one of `SOLVERS`.
        max_iter: iterations, or passes over the rows with a mini-batch solver.
        tol: see the params.
        step_size: of the solvers that have one.
        block: rows of a block, at least.
        batch: rows of a mini-batch.
        dropout: share of the hidden activations that are left out in training.
        weight_decay: of the matrices, not of biases.
        seed: of what is drawn.
        patience: iterations without improvement.
        held_below: rows whose number in the column of held-out rows is below this are looked at, and not trained on.
        first: weights to begin with; None: drawn.
    """

    task: Literal["classification", "regression"]
    layers: tuple[int, ...]
    activation: str = "sigmoid"
    solver: str = "l-bfgs"
    max_iter: int = 100
    tol: float = 1e-6
    step_size: float = 0.03
    block: int = 128
    batch: int = 128
    dropout: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    patience: int = 10
    held_below: float = 0.0
    first: np.ndarray | None = field(default=None, compare=False)

    @property
    def block_rows(self) -> int:
        """Rows that go through the net at a time."""
        return max(self.block, BLOCK_VALUES // sum(self.layers), 1)


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Args:
        weights: flat, float64.
        history: loss before the first iteration and after each.
        held: loss on the held-out rows, likewise; empty where there are none.
        iterations: how many there were.
    """

    weights: np.ndarray
    history: tuple[float, ...]
    held: tuple[float, ...]
    iterations: int
