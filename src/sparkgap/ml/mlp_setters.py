"""Setters of the perceptron estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from sparkgap.ml.mlp_params import MlpParams

P = TypeVar("P", bound="MlpSetters")


class MlpSetters(MlpParams):
    """The params of `MlpParams`, to be set one by one."""

    def _with(self: P, **params: Any) -> P:
        self._set(**params)
        return self

    def setLayers(self: P, value: Sequence[int]) -> P:
        """Set the sizes of the layers, from inputs to outputs."""
        return self._with(layers=value)

    def setBlockSize(self: P, value: int) -> P:
        """Set the rows that go through the net at a time, at least."""
        return self._with(blockSize=value)

    def setInitialWeights(self: P, value: Any) -> P:
        """Set the weights to begin with: a vector, array or list in MLlib's layout."""
        return self._with(initialWeights=value)

    def setMaxIter(self: P, value: int) -> P:
        """Set the most iterations, or passes over the rows."""
        return self._with(maxIter=value)

    def setSeed(self: P, value: int) -> P:
        """Set the seed."""
        return self._with(seed=value)

    def setTol(self: P, value: float) -> P:
        """Set the relative change of the loss at which to end."""
        return self._with(tol=value)

    def setStepSize(self: P, value: float) -> P:
        """Set the step of the solvers that have one."""
        return self._with(stepSize=value)

    def setSolver(self: P, value: str) -> P:
        """Set the optimizer: l-bfgs, gd, adam, adamw or sgd."""
        return self._with(solver=value)

    def setHiddenActivation(self: P, value: str) -> P:
        """Set the function of the hidden layers: sigmoid, relu or tanh."""
        return self._with(hiddenActivation=value)

    def setDropout(self: P, value: float) -> P:
        """Set the share of hidden activations that are left out in training."""
        return self._with(dropout=value)

    def setWeightDecay(self: P, value: float) -> P:
        """Set the weight decay."""
        return self._with(weightDecay=value)

    def setBatchSize(self: P, value: int) -> P:
        """Set the rows of a batch."""
        return self._with(batchSize=value)

    def setValidationFraction(self: P, value: float) -> P:
        """Set the share of rows that are held out."""
        return self._with(validationFraction=value)

    def setValidationIndicatorCol(self: P, value: str) -> P:
        """Set the column that is true in rows that are held out."""
        return self._with(validationIndicatorCol=value)

    def setPatience(self: P, value: int) -> P:
        """Set the iterations without improvement after which to end."""
        return self._with(patience=value)

    def setNumWorkers(self: P, value: int) -> P:
        """Set the number of tasks that train together."""
        return self._with(numWorkers=value)
