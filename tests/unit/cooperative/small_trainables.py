"""Small trainables: linear regression in NumPy, and small PyTorch nets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Batch = Mapping[str, np.ndarray]


class Regression:
    """``y = x @ w + b`` in NumPy, float64, plain SGD."""

    framework = "numpy"

    def __init__(self, features: int = 2, learning_rate: float = 0.1, start: float = 0.0) -> None:
        self.learning_rate = learning_rate
        self._values = [np.full(features, start), np.full(1, start)]
        self._seen = np.zeros(1), np.zeros(1, np.int64)

    def parameters(self) -> list[np.ndarray]:
        return self._values

    def load_parameters(self, values: Sequence[np.ndarray]) -> None:
        self._values = [np.array(v) for v in values]

    def buffers(self) -> list[np.ndarray]:
        return list(self._seen)

    def load_buffers(self, values: Sequence[np.ndarray]) -> None:
        self._seen = np.array(values[0]), np.array(values[1])

    def gradients(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        w, b = self._values
        error = batch["x"] @ w + b - batch["y"]
        self._seen = 0.9 * self._seen[0] + 0.1 * batch["x"].mean(), self._seen[1] + 1
        return float((error**2).mean()), [2 * batch["x"].T @ error / len(error), np.array([2 * error.mean()])]

    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        self._values = [v - self.learning_rate * g for v, g in zip(self._values, gradients, strict=True)]

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass


def torch_net(module: Any, optimizer: Any) -> Any:
    """Make a trainable of a torch module that takes images."""
    from sparkgap.cooperative.trainables.recipe import Recipe
    from sparkgap.cooperative.trainables.torch_trainable import TorchTrainable

    return TorchTrainable(module, Recipe(inputs="x", label="y", loss="cross_entropy", optimizer=optimizer))


def net(kind: str, optimizer: str, seed: int = 0) -> Any:
    """Make a net: ``dense``, ``dropout``, ``cnn`` or ``norm`` (batch normalisation); each takes images of 1 x 8 x 8."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers = {
        "dense": lambda: [nn.Flatten(), nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 5)],
        "dropout": lambda: [nn.Flatten(), nn.Linear(64, 50), nn.Dropout(0.5), nn.Linear(50, 5)],
        "cnn": lambda: [nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5)],
        "norm": lambda: [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)],
    }[kind]()
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    }
    return torch_net(nn.Sequential(*layers), makers[optimizer])


def images(rows: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Make labelled images for `net`."""
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(rows, 1, 8, 8)).astype(np.float32), "y": rng.integers(0, 5, rows)}


def points(rows: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Make ``y = 3.14 x1 + 1.618 x2``, for `Regression`."""
    x = np.random.default_rng(seed).normal(size=(rows, 2))
    return {"x": x, "y": x @ [3.14, 1.618]}


def part(batch: Batch, rank: int, world: int) -> dict[str, np.ndarray]:
    """Return a rank's part of a global batch, as the feeds cut it."""
    total = len(batch["y"])
    return {name: column[total * rank // world : total * (rank + 1) // world] for name, column in batch.items()}


def weights(trainable: Any) -> np.ndarray:
    """Return all parameters as one vector."""
    return np.concatenate([p.ravel() for p in trainable.parameters()])


def digest(trainable: Any) -> str:
    """Return the SHA-256 of parameters and buffers."""
    whole = hashlib.sha256()
    for array in [*trainable.parameters(), *trainable.buffers()]:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def train(run: Any, batches: Sequence[Batch], rank: int = 0, world: int = 1) -> list[float]:
    """Take a step with each global batch; returns the losses."""
    losses = []
    for batch in batches:
        mine = part(batch, rank, world)
        losses.append(run.step(mine, len(mine["y"]), len(batch["y"])))
    run.finish()
    return losses
