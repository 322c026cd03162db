"""The seam between strategies and frameworks: a model with its loss and its optimizer, seen as lists of NumPy arrays."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError

Batch = Mapping[str, np.ndarray]
"""Columns by name, all with one entry a row."""


class Trainable(abc.ABC):
    """A model that is being trained. Made and used in one process, by one thread; does not travel (its `Recipe` does).

    All lists of arrays that belong to parameters have the same order and shapes for as long as the object lives, and on all
    ranks. Arrays are C-contiguous and can be written to.

    Attributes:
        framework: ``"torch"``, ``"keras"`` or ``"jax"``.
    """

    framework: ClassVar[str]

    @abc.abstractmethod
    def parameters(self) -> list[np.ndarray]:
        """Return the parameters that are trained: views where the framework allows it, else copies. Of floats."""

    @abc.abstractmethod
    def load_parameters(self, values: Sequence[np.ndarray]) -> None:
        """Set the parameters that are trained.

        Raises:
            ConfigurationError: number or shapes are others than those of `parameters`.
        """

    @abc.abstractmethod
    def buffers(self) -> list[np.ndarray]:
        """Return what training changes without gradients, such as the statistics of batch normalisation; of any dtype.

        Parameters that are frozen are not among them.
        """

    @abc.abstractmethod
    def load_buffers(self, values: Sequence[np.ndarray]) -> None:
        """Set the buffers. Raises as `load_parameters`."""

    @abc.abstractmethod
    def gradients(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        """Return the mean loss over the rows of a batch, and its gradients; changes the buffers, not the parameters.

        The gradients of parameters that the batch did not reach are zeros. The arrays are the caller's to change.

        Raises:
            DataError: the batch has no rows, or lacks a column.
        """

    @abc.abstractmethod
    def apply(self, gradients: Sequence[np.ndarray]) -> None:
        """Take one step of the optimizer with these gradients: schedule, clipping and all.

        Raises:
            ConfigurationError: number or shapes are others than those of `parameters`.
        """

    @abc.abstractmethod
    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Return ``loss`` and the metrics, each as the mean over the rows of a batch, in inference mode; changes nothing.

        Raises:
            DataError: the batch has no rows, or lacks a column.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the state of optimizer, schedule and loss scaling, as a checkpoint can hold it."""

    @abc.abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set what `state` has returned."""

    @abc.abstractmethod
    def model(self) -> Any:
        """Return the trained object, for the user."""

    @property
    @abc.abstractmethod
    def learning_rate(self) -> float:
        """That of the next step, the schedule's factor included."""

    @abc.abstractmethod
    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate, which the schedule's factor multiplies.

        Raises:
            ConfigurationError: the optimizer came with a learning rate that cannot be changed.
        """

    def step(self, batch: Batch) -> float:
        """Take one step of training alone, as the plain loop of the framework does. Returns the mean loss."""
        loss, gradients = self.gradients(batch)
        self.apply(gradients)
        return loss


def check_arrays(values: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]], what: str) -> None:
    """Refuse arrays that cannot take the place of others.

    Raises:
        ConfigurationError: number or shapes differ.
    """
    if len(values) != len(shapes):
        raise ConfigurationError(
            f"The model has {len(shapes)} {what}, and got {len(values)}. All ranks, and a checkpoint, must have the "
            "same model."
        )
    for number, (value, shape) in enumerate(zip(values, shapes, strict=True)):
        if tuple(np.shape(value)) != tuple(shape):
            raise ConfigurationError(
                f"Array {number} of {len(shapes)} {what} has the shape {tuple(shape)}, and got {tuple(np.shape(value))}. "
                "All ranks, and a checkpoint, must have the same model."
            )
