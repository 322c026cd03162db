"""Params of the perceptron estimators and models: MLlib's, with its defaults, and those that MLlib has not."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

from pyspark.ml.linalg import DenseVector, Vector, Vectors
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasBlockSize,
    HasMaxIter,
    HasSeed,
    HasStepSize,
    HasTol,
    HasValidationIndicatorCol,
)

from sparkgap._errors import ConfigurationError
from sparkgap.ml.mlp_net import ACTIVATIONS
from sparkgap.ml.mlp_setting import MINI, SOLVERS


def _param(name: str, doc: str, convert: Callable[[Any], Any], good: Callable[[Any], bool], wanted: str) -> Param[Any]:
    """Return a param that refuses a wrong value when it is set, as MLlib's do."""

    def checked(value: Any) -> Any:
        found = convert(value)
        if not good(found):
            raise ConfigurationError(f"{name}={value!r}: {wanted}.")
        return found

    return Param(Params._dummy(), name, doc, typeConverter=checked)


def _flat(value: Any) -> list[float]:
    """Return weights as a list, which Spark's writers of params take."""
    if isinstance(value, Vector):
        value = value.toArray()
    found: list[float] = TypeConverters.toListFloat(list(value))
    return found


class MlpParams(HasSeed, HasMaxIter, HasTol, HasStepSize, HasBlockSize, HasValidationIndicatorCol):  # type: ignore[misc]  # PySpark is not typed here
    """Params of a perceptron."""

    layers: Param[list[int]] = _param(
        "layers",
        "Sizes of the layers, from inputs to outputs: [780, 100, 10] is 780 inputs, one hidden layer of 100, 10 outputs.",
        TypeConverters.toListInt,
        lambda sizes: len(sizes) > 1 and min(sizes) > 0,
        "two or more sizes above 0, from the inputs to the outputs",
    )
    solver: Param[str] = _param(
        "solver",
        "The optimizer: l-bfgs and gd see all rows before each step; adam, adamw and sgd (momentum 0.9) see batches.",
        TypeConverters.toString,
        SOLVERS.__contains__,
        f"one of {', '.join(SOLVERS)}",
    )
    initialWeights: Param[list[float]] = Param(
        Params._dummy(), "initialWeights", "The weights to begin with, in MLlib's layout.", typeConverter=_flat
    )
    maxIter: Param[int] = _param(
        "maxIter",
        "Iterations at most; with adam, adamw and sgd, passes over the rows.",
        TypeConverters.toInt,
        lambda n: n >= 0,
        "0 or more",
    )
    tol: Param[float] = _param(
        "tol", "The relative change of the loss at which to end.", TypeConverters.toFloat, lambda t: t >= 0, "0 or more"
    )
    stepSize: Param[float] = _param(
        "stepSize",
        "The step of gd, adam, adamw and sgd: 0.03, and 0.001 for adam and adamw, unless it is set.",
        TypeConverters.toFloat,
        lambda s: s > 0,
        "above 0",
    )
    blockSize: Param[int] = _param(
        "blockSize",
        "Rows that go through the net at a time, at least; it changes no result.",
        TypeConverters.toInt,
        lambda n: n > 0,
        "above 0",
    )
    hiddenActivation: Param[str] = _param(
        "hiddenActivation",
        "The function of the hidden layers: sigmoid, relu or tanh.",
        TypeConverters.toString,
        ACTIVATIONS.__contains__,
        f"one of {', '.join(ACTIVATIONS)}",
    )
    dropout: Param[float] = _param(
        "dropout",
        "The share of hidden activations that are left out in training, with adam, adamw and sgd.",
        TypeConverters.toFloat,
        lambda share: 0 <= share < 1,
        "from 0 to below 1",
    )
    weightDecay: Param[float] = _param(
        "weightDecay",
        "Half of it times the sum of the squared weights, without biases, is added to the loss; adamw shrinks them instead.",
        TypeConverters.toFloat,
        lambda decay: 0 <= decay < math.inf,
        "0 or more",
    )
    batchSize: Param[int] = _param(
        "batchSize", "Rows of a batch of adam, adamw and sgd.", TypeConverters.toInt, lambda n: n > 0, "above 0"
    )
    validationFraction: Param[float] = _param(
        "validationFraction",
        "The share of rows that are held out, to end where the loss on them becomes no less and keep the best weights.",
        TypeConverters.toFloat,
        lambda share: 0 <= share < 1,
        "from 0 to below 1",
    )
    patience: Param[int] = _param(
        "patience",
        "Iterations without a loss that is less by more than tol, after which to end; 0 for never.",
        TypeConverters.toInt,
        lambda n: n >= 0,
        "0 or more",
    )
    numWorkers: Param[int] = _param(
        "numWorkers",
        "Tasks that train one net together; by default one for small tables, else as many as run at the same time.",
        TypeConverters.toInt,
        lambda n: n > 0,
        "above 0",
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            maxIter=100, tol=1e-6, blockSize=128, stepSize=0.03, solver="l-bfgs", hiddenActivation="sigmoid", dropout=0.0,
            weightDecay=0.0, batchSize=128, validationFraction=0.0, patience=10,
            seed=zlib.crc32(type(self).__name__.encode()),  # the same in each process, unlike hash()
        )  # fmt: skip

    def getLayers(self) -> list[int]:
        """Return the sizes of the layers."""
        return list(self.getOrDefault(self.layers))

    def getSolver(self) -> str:
        """Return the optimizer."""
        return str(self.getOrDefault(self.solver))

    def getInitialWeights(self) -> DenseVector:
        """Return the weights to begin with."""
        return Vectors.dense(self.getOrDefault(self.initialWeights))

    def getHiddenActivation(self) -> str:
        """Return the function of the hidden layers."""
        return str(self.getOrDefault(self.hiddenActivation))

    def getDropout(self) -> float:
        """Return the share of hidden activations that are left out in training."""
        return float(self.getOrDefault(self.dropout))

    def getWeightDecay(self) -> float:
        """Return the weight decay."""
        return float(self.getOrDefault(self.weightDecay))

    def getBatchSize(self) -> int:
        """Return the rows of a batch."""
        return int(self.getOrDefault(self.batchSize))

    def getValidationFraction(self) -> float:
        """Return the share of rows that are held out."""
        return float(self.getOrDefault(self.validationFraction))

    def getPatience(self) -> int:
        """Return the iterations without improvement after which to end."""
        return int(self.getOrDefault(self.patience))

    def getNumWorkers(self) -> int:
        """Return the number of tasks that train together.

        Raises:
            KeyError: it is not set, so it is chosen by the size of the table.
        """
        return int(self.getOrDefault(self.numWorkers))


def step_size(stage: MlpParams) -> float:
    """Return the step: what is set, else what suits the solver."""
    if stage.isSet(stage.stepSize) or stage.getSolver() not in MINI[:2]:
        return float(stage.getStepSize())
    return 0.001
