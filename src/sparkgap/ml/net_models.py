"""Trained networks as Spark ML models."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.base import PredictionModel
from pyspark.ml.classification import ProbabilisticClassificationModel
from pyspark.ml.linalg import DenseVector, Vector, Vectors

from sparkgap._errors import ConfigurationError, ModelError
from sparkgap.embedded.api import transform
from sparkgap.ml.mlp_net import check_thresholds
from sparkgap.ml.net_params import NetworkColumns
from sparkgap.ml.net_scores import Scores
from sparkgap.ml.storing import Stored

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparkgap.ml.net_fit import Learned
    from sparkgap.models.model import Model

_log = logging.getLogger("sparkgap.ml")
_NETWORK = "network"


class _NetworkModel(NetworkColumns, Stored):
    """What both models share.

    Args:
        learned: what came of the training; None for a model that is about to be loaded.
    """

    def __init__(self, learned: Learned | None = None) -> None:
        super().__init__()
        self._network: Model | None = None
        self._output, self._width = "", 0
        self._history: list[dict[str, float]] = []
        self._best = 0
        if learned is not None:
            self._network, self._output, self._width = learned.model, learned.probe.output, learned.probe.width
            self._history, self._best = [dict(one) for one in learned.model.history], learned.model.best

    @property
    def network(self) -> Model:
        """The trained network, for `gap.transform` and others. After `fit`, its ``trained`` is that of the framework.

        Raises:
            ModelError: there is none: fit an estimator, or load a model.
        """
        if self._network is None:
            raise ModelError(f"This {type(self).__name__} has no network: it is what fit and load return, not to be made.")
        return self._network

    @property
    def history(self) -> list[dict[str, float]]:
        """A dict an epoch: ``epoch``, ``loss``, ``val_loss`` where rows were held out, ``seconds``, ``rows_per_second``."""
        return self._history

    @property
    def bestEpoch(self) -> int:
        """The epoch whose weights these are, from 0."""
        return self._best

    @property
    def numFeatures(self) -> int:
        """Number of features of a row; -1 where the network has several inputs, or one of more dimensions."""
        shapes = [spec.shape for spec in self.network.signature.inputs]
        return int(shapes[0][0] or -1) if len(shapes) == 1 and shapes[0] is not None and len(shapes[0]) == 1 else -1

    def _columns(self) -> list[str]:
        return list(self.getInputCols()) if self.isSet(self.inputCols) else [str(self.getOrDefault("featuresCol"))]

    def _scored(self, dataset: DataFrame, names: Sequence[str]) -> tuple[DataFrame, str]:
        """Return a table with the network's output, and the name of that column."""
        for number, name in enumerate(names):
            if name in dataset.columns or name in names[:number]:
                raise ConfigurationError(f"There would be more than one column named `{name}`. Name another one.")
        column = f"{self.uid}__output"
        return transform(dataset, self.network, inputs=self._columns(), outputs={self._output: column}), column

    def _one(self, value: Any) -> np.ndarray:
        """Return the network's output for one row."""
        specs = self.network.signature.inputs
        if len(specs) > 1:
            raise ConfigurationError(
                f"The network has {len(specs)} inputs ({', '.join(spec.name for spec in specs)}), and predict takes one row "
                "of one. Use transform, or model.network.predict({input: array})."
            )
        row = value.toArray() if isinstance(value, Vector) else np.asarray(value)
        if row.shape != specs[0].shape:
            raise ConfigurationError(f"A row of shape {row.shape} was given, and the model takes {specs[0].shape}.")
        found: np.ndarray = self.network.predict({specs[0].name: row[None].astype(specs[0].dtype or row.dtype)})[self._output]
        return found

    def _stored_models(self) -> Mapping[str, Model]:
        return {_NETWORK: self.network}

    def _stored_facts(self) -> Mapping[str, Any]:
        return {"output": self._output, "width": self._width, "history": self._history, "best": self._best}

    def _restore(self, models: Mapping[str, Model], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._network = models.get(_NETWORK)
        self._output, self._width = facts["output"], facts["width"]
        self._history, self._best = list(facts["history"]), facts["best"]


class NetworkClassificationModel(_NetworkModel, ProbabilisticClassificationModel):  # type: ignore[misc]  # PySpark is not typed here
    """A trained classifier. Made by `TorchClassifier.fit` and `KerasClassifier.fit`, and by `load`.

    Each row gets a raw prediction (vector: what the network gives), a probability (vector: the softmax of logits, or the raw
    prediction where `fromLogits` is False) and a prediction (double: the class). A column whose param is "" is left out.
    A network with one output tells two classes: its logit z gives the raw prediction (-z, z).
    """

    @property
    def numClasses(self) -> int:
        """Number of classes."""
        return self._scores().classes

    def predict(self, value: Any) -> float:
        """Return the class of one row: a vector, array or list."""
        return float(self._scores().of(self._one(value))["prediction"][0])

    def predictRaw(self, value: Any) -> DenseVector:
        """Return what the network gives for one row."""
        return Vectors.dense(self._scores().of(self._one(value))["rawPrediction"][0])

    def predictProbability(self, value: Any) -> DenseVector:
        """Return the probability of each class for one row."""
        return Vectors.dense(self._scores().of(self._one(value))["probability"][0])

    def _scores(self) -> Scores:
        thresholds = tuple(self.getOrDefault(self.thresholds)) if self.isDefined(self.thresholds) else None
        found = Scores(self._width, self.getFromLogits() is not False, thresholds)
        check_thresholds(thresholds, found.classes)
        return found

    def _transform(self, dataset: DataFrame) -> DataFrame:
        named = {
            "rawPrediction": self.getRawPredictionCol(), "probability": self.getProbabilityCol(),
            "prediction": self.getPredictionCol(),
        }  # fmt: skip
        names = {kind: name for kind, name in named.items() if name}
        if not names:
            _log.warning("%s.transform adds nothing, as the names of all of its columns are empty.", self.uid)
            return dataset
        scores = self._scores()
        return scores.added(*self._scored(dataset, list(names.values())), names)


class NetworkRegressionModel(_NetworkModel, PredictionModel[Any]):  # type: ignore[misc]
    """A trained regressor. Made by `TorchRegressor.fit` and `KerasRegressor.fit`, and by `load`."""

    def predict(self, value: Any) -> float:
        """Return the prediction for one row: a vector, array or list."""
        return float(self._one(value).reshape(-1)[0])

    def _transform(self, dataset: DataFrame) -> DataFrame:
        from pyspark.sql import functions as F

        if not (name := self.getPredictionCol()):
            _log.warning("%s.transform adds nothing, as predictionCol is empty.", self.uid)
            return dataset
        frame, column = self._scored(dataset, [name])
        output = F.col(f"`{column}`")
        return frame.withColumn(name, (output[0] if self._width else output).cast("double")).drop(column)
