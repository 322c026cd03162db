"""Trained perceptrons as Spark ML models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.ml.base import PredictionModel
from pyspark.ml.classification import ProbabilisticClassificationModel
from pyspark.ml.linalg import DenseVector, Vector, Vectors

from sparkgap._errors import ConfigurationError, ModelError
from sparkgap.embedded.api import transform
from sparkgap.embedded.metadata import with_shape
from sparkgap.ml.mlp_net import Classify, Net, Regress, check_thresholds, softmax
from sparkgap.ml.mlp_params import MlpParams
from sparkgap.ml.mlp_summary import (
    MultilayerPerceptronClassificationSummary,
    MultilayerPerceptronClassificationTrainingSummary,
    MultilayerPerceptronRegressionSummary,
    MultilayerPerceptronRegressionTrainingSummary,
)
from sparkgap.ml.storing import Stored
from sparkgap.models.model import Model, load
from sparkgap.tensors.spec import Signature, TensorSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_log = logging.getLogger("sparkgap.ml")


class _MlpModel(MlpParams, Stored):
    """What both models share.

    Args:
        net: the trained net; None for a model that is about to be loaded.
    """

    def __init__(self, net: Net | None = None) -> None:
        super().__init__()
        self._net = net
        self._summary: Any = None

    @property
    def net(self) -> Net:
        """The net, as a function of ndarrays.

        Raises:
            ModelError: there is none: fit an estimator, or load a model.
        """
        if self._net is None:
            raise ModelError(f"This {type(self).__name__} has no weights: it is what fit and load return, not to be made.")
        return self._net

    @property
    def weights(self) -> DenseVector:
        """The weights, flat, in MLlib's layout: of each layer the matrix (outputs, inputs) by columns, then the bias."""
        return Vectors.dense(self.net.weights)

    @property
    def numFeatures(self) -> int:
        """Number of features."""
        return self.net.layers[0]

    @property
    def hasSummary(self) -> bool:
        """Whether there is a summary of the training: not in a model that was loaded."""
        return self._summary is not None

    def _training_summary(self) -> Any:
        if self._summary is None:
            raise RuntimeError(f"No training summary available for this {type(self).__name__}")
        return self._summary

    def _raw(self, value: Vector | np.ndarray | list[float]) -> np.ndarray:
        given = value.toArray() if isinstance(value, Vector) else np.asarray(value, np.float64)
        if given.shape != (self.numFeatures,):
            raise ConfigurationError(
                f"A row of shape {given.shape} was given, and the model takes {self.numFeatures} features."
            )
        found: np.ndarray = self.net.raw(given[None])[0]
        return found

    def _applied(
        self, dataset: DataFrame, function: Any, outputs: Mapping[str, Any], specs: Any, attributes: Any
    ) -> DataFrame:
        signature = Signature((TensorSpec("features", "float64", (self.numFeatures,)),), specs)
        model: Model = load(function, adapter="function", signature=signature)
        column = self.getOrDefault("featuresCol")
        frame = transform(dataset, model, inputs={"features": column}, outputs=outputs, boundary="rows")
        for name, told in attributes.items():
            shape = next(spec.shape for spec in specs if _name(outputs.get(spec.name)) == name)
            frame = frame.withMetadata(name, with_shape({"ml_attr": told}, shape))
        return frame

    def _stored_arrays(self) -> Mapping[str, np.ndarray]:
        return {"weights": self.net.weights}

    def _stored_facts(self) -> Mapping[str, Any]:
        return {"layers": list(self.net.layers), "activation": self.net.activation}

    def _restore(self, models: Mapping[str, Model], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._net = Net(tuple(facts["layers"]), np.asarray(arrays["weights"], np.float64), facts["activation"])


class MultilayerPerceptronClassificationModel(_MlpModel, ProbabilisticClassificationModel):  # type: ignore[misc]  # PySpark is not typed here
    """A trained classifier. Made by `MultilayerPerceptronClassifier.fit`, and by `load`.

    Each row gets columns as MLlib's model gives them: raw prediction (vector of the last layer's values), probability
    (vector), prediction (double). A column whose param is "" is left out.
    """

    @property
    def numClasses(self) -> int:
        """Number of classes."""
        return self.net.layers[-1]

    def predict(self, value: Any) -> float:
        """Return the class of one row: a vector, array or list."""
        return float(self._predicted(value)["prediction"][0])

    def predictRaw(self, value: Any) -> DenseVector:
        """Return the last layer's values for one row."""
        return Vectors.dense(self._raw(value))

    def predictProbability(self, value: Any) -> DenseVector:
        """Return the probability of each class for one row."""
        return Vectors.dense(softmax(self._raw(value)[None])[0])

    def summary(self) -> MultilayerPerceptronClassificationTrainingSummary:
        """Return what is known of the training, and how good the model is on the rows that it was trained on.

        Raises:
            RuntimeError: the model was loaded.
        """
        found: MultilayerPerceptronClassificationTrainingSummary = self._training_summary()
        return found

    def evaluate(self, dataset: DataFrame) -> MultilayerPerceptronClassificationSummary:
        """Return how good the model is on a table with labels."""
        return MultilayerPerceptronClassificationSummary(*self._scored(dataset))

    def _predicted(self, value: Any) -> dict[str, np.ndarray]:
        self._raw(value)  # for its checks
        given = value.toArray() if isinstance(value, Vector) else np.asarray(value, np.float64)
        return Classify(self.net, self._thresholds())(given[None])

    def _thresholds(self) -> tuple[float, ...] | None:
        if not self.isDefined(self.thresholds):
            return None
        found = tuple(self.getOrDefault(self.thresholds))
        check_thresholds(found, self.numClasses)
        return found

    def _scored(self, dataset: DataFrame) -> tuple[Callable[[], DataFrame], str, str]:
        column = self.getPredictionCol() or "prediction"
        model = self if self.getPredictionCol() else self.copy({self.predictionCol: column})
        return partial(model.transform, dataset), column, self.getLabelCol()

    def _transform(self, dataset: DataFrame) -> DataFrame:
        function = Classify(self.net, self._thresholds())
        named = {
            "rawPrediction": (self.getRawPredictionCol(), "vector"), "probability": (self.getProbabilityCol(), "vector"),
            "prediction": self.getPredictionCol(),
        }  # fmt: skip
        outputs = {tensor: column for tensor, column in named.items() if _name(column)}
        if not outputs:
            _log.warning("%s.transform adds nothing, as the names of all of its columns are empty.", self.uid)
            return dataset
        classes = self.numClasses
        shapes: dict[str, tuple[int, ...]] = {"rawPrediction": (classes,), "probability": (classes,), "prediction": ()}
        specs = tuple(TensorSpec(name, "float64", shape) for name, shape in shapes.items())
        attributes = {
            _name(column): {"type": "nominal", "num_vals": classes} if tensor == "prediction" else {"num_attrs": classes}
            for tensor, column in outputs.items()
        }
        return self._applied(dataset, function, outputs, specs, attributes)

    def __repr__(self) -> str:
        return _told(self) + (f", numClasses={self.numClasses}, numFeatures={self.numFeatures}" if self._net else "")


class MultilayerPerceptronRegressionModel(_MlpModel, PredictionModel[Any]):  # type: ignore[misc]
    """A trained regressor. Made by `MultilayerPerceptronRegressor.fit`, and by `load`."""

    def predict(self, value: Any) -> float:
        """Return the prediction for one row: a vector, array or list."""
        return float(self._raw(value)[0])

    def summary(self) -> MultilayerPerceptronRegressionTrainingSummary:
        """Return what is known of the training, and how good the model is on the rows that it was trained on.

        Raises:
            RuntimeError: the model was loaded.
        """
        found: MultilayerPerceptronRegressionTrainingSummary = self._training_summary()
        return found

    def evaluate(self, dataset: DataFrame) -> MultilayerPerceptronRegressionSummary:
        """Return how good the model is on a table with labels."""
        return MultilayerPerceptronRegressionSummary(*self._scored(dataset))

    def _scored(self, dataset: DataFrame) -> tuple[Callable[[], DataFrame], str, str]:
        return partial(self.transform, dataset), self.getPredictionCol(), self.getLabelCol()

    def _transform(self, dataset: DataFrame) -> DataFrame:
        specs = (TensorSpec("prediction", "float64", ()),)
        return self._applied(dataset, Regress(self.net), {"prediction": self.getPredictionCol()}, specs, {})

    def __repr__(self) -> str:
        return _told(self) + (f", numFeatures={self.numFeatures}" if self._net else "")


def _told(model: _MlpModel) -> str:
    layers = f", numLayers={len(model.net.layers)}" if model._net else ""
    return f"{type(model).__name__}: uid={model.uid}{layers}"


def _name(column: Any) -> str:
    return str(column[0] if isinstance(column, tuple) else column)
