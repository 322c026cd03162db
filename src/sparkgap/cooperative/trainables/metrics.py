"""The named metrics, on NumPy arrays: means over the rows of a batch."""

from __future__ import annotations

import numpy as np

from sparkgap._errors import DataError
from sparkgap.cooperative.trainables.recipe import Metric


def measure(metric: Metric, prediction: np.ndarray, label: np.ndarray, *, axis: int, threshold: float | None) -> float:
    """Return the value of a metric.

    Args:
        metric: a name, or a function of (prediction, label).
        prediction: of shape (batch, …).
        label: of shape (batch, …).
        axis: of the classes in a prediction.
        threshold: above which each number says yes: 0 for logits. None: the largest of the classes counts, and one number
            alone says yes above 0.5.
    """
    if callable(metric):
        return float(metric(prediction, label))
    if metric == "accuracy":
        return _accuracy(prediction, label, axis, threshold)
    return {"mae": _mae, "mse": _mse}[metric](prediction, label)


def _accuracy(prediction: np.ndarray, label: np.ndarray, axis: int, threshold: float | None) -> float:
    if threshold is None and prediction.ndim > 1 and prediction.shape[axis] > 1:
        classes = label.ndim == prediction.ndim and label.shape[axis] > 1
        label = label.argmax(axis) if classes else label
        prediction = prediction.argmax(axis)
        return float(np.mean(prediction == like(label, prediction)))
    return float(np.mean((prediction > (0.5 if threshold is None else threshold)) == (like(label, prediction) > 0.5)))


def _mae(prediction: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean(np.abs(prediction - like(label, prediction))))


def _mse(prediction: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean(np.square(prediction - like(label, prediction))))


def like(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return a label in the shape of a prediction: (batch,) and (batch, 1) would otherwise make (batch, batch).

    Raises:
        DataError: they have different sizes.
    """
    check_sizes(label.shape, prediction.shape)
    return label.reshape(prediction.shape)


def check_sizes(label: tuple[int, ...], prediction: tuple[int, ...]) -> None:
    """Refuse a label that a prediction cannot be compared with.

    Raises:
        DataError: they have different sizes.
    """
    if np.prod(label) != np.prod(prediction):
        raise DataError(
            f"The model predicts the shape {tuple(prediction)} and the label has {tuple(label)}: they cannot be "
            "compared. Change the model's last layer or the label column."
        )
