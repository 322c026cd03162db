"""Params of the estimators around a network of one's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCols, HasMaxIter, HasSeed, HasValidationIndicatorCol

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables.recipe import LOSSES, OPTIMIZERS
from sparkgap.ml.stage import whole

P = TypeVar("P", bound="NetworkParams")
AUTO = "auto"


def _between(name: str, good: Callable[[float], bool], wanted: str) -> Any:
    """Return a converter for numbers in a range."""

    def convert(value: Any) -> float:
        number = float(TypeConverters.toFloat(value))
        if not good(number):
            raise ConfigurationError(f"{name} must be {wanted}; got {value!r}.")
        return number

    return convert


def _named(name: str, known: Sequence[str], other: str) -> Any:
    """Return a converter for one of a few names, or what a framework has."""

    def convert(value: Any) -> Any:
        if isinstance(value, str) and value not in known:
            raise ConfigurationError(f"{name} must be one of {', '.join(known)}, or {other}; got {value!r}.")
        return value

    return convert


def _logits(value: Any) -> Any:
    if value is not True and value is not False and value != AUTO:
        raise ConfigurationError(f"fromLogits must be True, False or {AUTO!r}; got {value!r}.")
    return value


class NetworkColumns(HasInputCols):  # type: ignore[misc]  # PySpark is not typed here
    """Params that estimators and their models share."""

    fromLogits: Param[Any] = Param(
        Params._dummy(), "fromLogits", "whether the network gives logits: True, False or auto", typeConverter=_logits
    )

    def getFromLogits(self) -> bool | str:
        """Return `fromLogits`: of a model True or False, of an estimator also ``"auto"``."""
        found: bool | str = self.getOrDefault(self.fromLogits)
        return found


class NetworkParams(NetworkColumns, HasSeed, HasMaxIter, HasValidationIndicatorCol):  # type: ignore[misc]
    """Params of a training."""

    loss: Param[Any] = Param(
        Params._dummy(),
        "loss",
        "what is made small",
        typeConverter=_named("loss", LOSSES, "a function of (prediction, label)"),
    )
    optimizer: Param[Any] = Param(
        Params._dummy(),
        "optimizer",
        "what makes it small",
        typeConverter=_named("optimizer", OPTIMIZERS, "an optimizer of the framework, or a function that makes it"),
    )
    learningRate: Param[float] = Param(
        Params._dummy(),
        "learningRate",
        "of a named optimizer; by default 0.01 for sgd and momentum, else 0.001",
        typeConverter=_between("learningRate", lambda rate: 0 < rate < float("inf"), "a number above 0"),
    )
    maxIter: Param[int] = Param(Params._dummy(), "maxIter", "epochs: passes over the rows", whole("maxIter", 1))
    batchSize: Param[int] = Param(Params._dummy(), "batchSize", "rows of a batch over all workers", whole("batchSize", 1))
    validationFraction: Param[float] = Param(
        Params._dummy(),
        "validationFraction",
        "share of the rows that is held out",
        typeConverter=_between("validationFraction", lambda share: 0 <= share < 1, "from 0 to below 1"),
    )
    patience: Param[int] = Param(
        Params._dummy(), "patience", "epochs without a lower loss, after which to end; 0 for never", whole("patience", 0)
    )
    numWorkers: Param[int] = Param(Params._dummy(), "numWorkers", "workers that train one network", whole("numWorkers", 1))
    gpus: Param[float] = Param(
        Params._dummy(),
        "gpus",
        "GPUs a worker; by default what Spark gives a task",
        typeConverter=_between("gpus", lambda number: number >= 0, "0 or more"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            optimizer="adam", maxIter=10, batchSize=32, validationFraction=0.0, patience=0, numWorkers=1, fromLogits=AUTO,
            seed=zlib.crc32(type(self).__name__.encode()),  # the same in each process, unlike hash()
        )  # fmt: skip

    def _with(self: P, **params: Any) -> P:
        unknown = [name for name in params if not self.hasParam(name)]
        if unknown:
            known = ", ".join(param.name for param in self.params)
            raise ConfigurationError(f"{type(self).__name__} has no param {', '.join(unknown)}. Its params are: {known}.")
        self._set(**params)
        return self

    def setInputCols(self: P, value: Sequence[str]) -> P:
        """Set the columns of several inputs, in the network's order."""
        return self._with(inputCols=list(value))

    def setFromLogits(self: P, value: bool | str) -> P:
        """Set whether the network gives logits: True, False or ``"auto"``."""
        return self._with(fromLogits=value)

    def setLoss(self: P, value: Any) -> P:
        """Set the loss: a name, or a function of (prediction, label)."""
        return self._with(loss=value)

    def getLoss(self) -> Any:
        """Return the loss."""
        return self.getOrDefault(self.loss)

    def setOptimizer(self: P, value: Any) -> P:
        """Set the optimizer: a name, or what the framework has."""
        return self._with(optimizer=value)

    def getOptimizer(self) -> Any:
        """Return the optimizer."""
        return self.getOrDefault(self.optimizer)

    def setLearningRate(self: P, value: float) -> P:
        """Set the learning rate of a named optimizer."""
        return self._with(learningRate=value)

    def getLearningRate(self) -> float | None:
        """Return the learning rate; None where it is that of the optimizer."""
        return float(self.getOrDefault(self.learningRate)) if self.isSet(self.learningRate) else None

    def setMaxIter(self: P, value: int) -> P:
        """Set the epochs."""
        return self._with(maxIter=value)

    def setBatchSize(self: P, value: int) -> P:
        """Set the rows of a batch over all workers."""
        return self._with(batchSize=value)

    def getBatchSize(self) -> int:
        """Return the rows of a batch over all workers."""
        return int(self.getOrDefault(self.batchSize))

    def setValidationFraction(self: P, value: float) -> P:
        """Set the share of the rows that is held out."""
        return self._with(validationFraction=value)

    def getValidationFraction(self) -> float:
        """Return the share of the rows that is held out."""
        return float(self.getOrDefault(self.validationFraction))

    def setValidationIndicatorCol(self: P, value: str) -> P:
        """Set the column that is true in rows that are held out."""
        return self._with(validationIndicatorCol=value)

    def setPatience(self: P, value: int) -> P:
        """Set the epochs without a lower loss, after which to end; 0 for never."""
        return self._with(patience=value)

    def getPatience(self) -> int:
        """Return the epochs without a lower loss, after which to end."""
        return int(self.getOrDefault(self.patience))

    def setNumWorkers(self: P, value: int) -> P:
        """Set the number of workers that train one network."""
        return self._with(numWorkers=value)

    def getNumWorkers(self) -> int:
        """Return the number of workers that train one network."""
        return int(self.getOrDefault(self.numWorkers))

    def setGpus(self: P, value: float) -> P:
        """Set the GPUs a worker."""
        return self._with(gpus=value)

    def getGpus(self) -> float | None:
        """Return the GPUs a worker; None where Spark's configuration tells."""
        return float(self.getOrDefault(self.gpus)) if self.isSet(self.gpus) else None

    def setSeed(self: P, value: int) -> P:
        """Set the seed."""
        return self._with(seed=value)
