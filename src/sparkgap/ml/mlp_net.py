"""A multilayer perceptron in NumPy: layout of its weights, and what it gives for rows. Pure; runs in any process.

Weights are one flat array of float64 in MLlib's layout: for each layer the matrix (outputs, inputs) by columns, then the bias.
By columns, that is the matrix (inputs, outputs) by rows, which rows are multiplied by.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.ml.mlp_draws import uniform

ACTIVATIONS = ("sigmoid", "relu", "tanh")
_GAIN = {"sigmoid": 2.4, "relu": 6**0.5, "tanh": 3**0.5}
"""First weights lie in ±gain / sqrt(inputs), which keeps the activations of deep layers apart; MLlib's for sigmoid."""


def count_weights(layers: Sequence[int]) -> int:
    """Return how many weights a net has."""
    return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(layers))


def parts(flat: Any, layers: Sequence[int]) -> list[tuple[Any, Any]]:
    """Return (matrix (inputs, outputs), bias) of each layer, as views: of an array, or of a torch tensor."""
    found, at = [], 0
    for n_in, n_out in itertools.pairwise(layers):
        end = at + n_in * n_out
        found.append((flat[at:end].reshape(n_in, n_out), flat[end : end + n_out]))
        at = end + n_out
    return found


def first_weights(layers: Sequence[int], seed: int, activation: str = "sigmoid") -> np.ndarray:
    """Draw the weights to begin with; for sigmoid they are MLlib's for the same seed."""
    flat = uniform(seed, count_weights(layers)) * 2.0 - 1.0
    for (matrix, bias), n_in in zip(parts(flat, layers), layers, strict=False):
        matrix *= _GAIN[activation] / n_in**0.5
        bias *= _GAIN[activation] / n_in**0.5
    return flat


def activated(x: np.ndarray, activation: str) -> np.ndarray:
    """Return the activations of a hidden layer."""
    if activation == "relu":
        return np.asarray(np.maximum(x, 0.0))
    if activation == "tanh":
        return np.asarray(np.tanh(x))
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0))  # a sigmoid that cannot overflow


def softmax(raw: np.ndarray) -> np.ndarray:
    """Return probabilities (rows, classes) of raw predictions."""
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def predicted(raw: np.ndarray, probability: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return the class of each row: the largest raw prediction, or the largest probability by its threshold.

    As in MLlib, a class with threshold 0 wins wherever its probability is above 0.
    """
    if thresholds is None:
        return np.asarray(raw.argmax(axis=1), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = probability / np.asarray(thresholds)
    return np.asarray(np.where(np.isnan(scaled), -np.inf, scaled).argmax(axis=1), np.float64)


def check_thresholds(thresholds: Sequence[float] | None, classes: int) -> None:
    """Refuse thresholds that do not fit.

    Raises:
        ConfigurationError: there are not as many as classes, one is below 0, or several are 0.
    """
    if thresholds is None:
        return
    if len(thresholds) != classes:
        raise ConfigurationError(
            f"thresholds has {len(thresholds)} values, and there are {classes} classes. Give one for each."
        )
    if any(not t >= 0 for t in thresholds) or sum(t == 0 for t in thresholds) > 1:
        raise ConfigurationError(f"thresholds is {list(thresholds)}: none may be below 0, and one at most may be 0.")


@dataclass(frozen=True)
class Net:
    """A trained net as a function of rows.

    Args:
        layers: sizes, from the inputs to the outputs.
        weights: flat, float64.
        activation: of the hidden layers.
    """

    layers: tuple[int, ...]
    weights: np.ndarray
    activation: str = "sigmoid"

    def raw(self, features: np.ndarray) -> np.ndarray:
        """Return the last layer's values (rows, outputs), in float64."""
        x = np.asarray(features, np.float64)
        last = len(self.layers) - 2
        for number, (matrix, bias) in enumerate(parts(self.weights, self.layers)):
            x = x @ matrix + bias
            if number < last:
                x = activated(x, self.activation)
        return x


@dataclass(frozen=True)
class Classify:
    """What `gap.transform` runs for a classifier.

    Args:
        net: the net.
        thresholds: of the classes, or None.
    """

    net: Net
    thresholds: tuple[float, ...] | None

    def __call__(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return raw prediction, probability and prediction of a block of rows."""
        raw = self.net.raw(features)
        probability = softmax(raw)
        prediction = predicted(raw, probability, self.thresholds)
        return {"rawPrediction": raw, "probability": probability, "prediction": prediction}


@dataclass(frozen=True)
class Regress:
    """What `gap.transform` runs for a regressor.

    Args:
        net: the net, of one output.
    """

    net: Net

    def __call__(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return the prediction of a block of rows."""
        return {"prediction": self.net.raw(features)[:, 0]}
