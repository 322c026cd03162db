"""`TorchClassifier`, `TorchRegressor`, `KerasClassifier`, `KerasRegressor`: a network of one's own as a Spark ML estimator."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pyspark.ml.base import Predictor
from pyspark.ml.classification import ProbabilisticClassifier

from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.trainables.recipe import Recipe
from sparkgap.ml.mlp_fit import FitIterator
from sparkgap.ml.net_fit import Job, Learned, train_all
from sparkgap.ml.net_models import NetworkClassificationModel, NetworkRegressionModel
from sparkgap.ml.net_params import AUTO, NetworkParams
from sparkgap.ml.net_probe import check_network, is_function
from sparkgap.ml.net_rows import Table
from sparkgap.ml.stage import given
from sparkgap.ml.storing import Stored
from sparkgap.models import pickling
from sparkgap.models.model import Model, load

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

E = TypeVar("E", bound="_NetworkEstimator")
_NETWORK = "network"
_TRAINING = ("loss", "optimizer", "learningRate")


class _NetworkEstimator(NetworkParams, Stored):
    """What the four estimators share."""

    _framework = ""
    _classes = False
    _model: Any = None

    def __init__(self, *, network: Any = None, **params: Any) -> None:
        super().__init__()
        self._setDefault(loss="cross_entropy" if self._classes else "mse")
        self._network: Any = None
        if network is not None:
            self.setNetwork(network)
        self._with(**given(params))

    @property
    def network(self) -> Any:
        """The network that trainings begin with, or the function that makes it. No training changes it.

        Raises:
            ConfigurationError: there is none yet.
        """
        if self._network is None:
            raise ConfigurationError(f"{self.uid} has no network. Set one: {type(self).__name__}(network=…) or setNetwork(…).")
        return self._network

    def setNetwork(self: E, value: Any) -> E:
        """Set the network, or a function without arguments that makes it.

        Raises:
            ConfigurationError: it is none of the framework.
        """
        if not is_function(value):
            check_network(value, self._framework)
        self._network = value
        return self

    def setParams(self: E, *, network: Any = None, **params: Any) -> E:
        """Set params by name, as the constructor takes them."""
        return (self if network is None else self.setNetwork(network))._with(**params)

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Fit a model for each param map. The rows are written once; networks of one worker are independent tasks of one run.

        A model does not depend on how many are fitted at the same time.

        Returns:
            An iterator of (number of the param map, model), in the order in which they end; threads may share it.
        """
        return FitIterator(self._models(dataset, [self.copy(one) for one in paramMaps]))

    def _fit(self, dataset: DataFrame) -> Any:
        ((_, model),) = self._models(dataset, [self])
        return model

    def _models(self, dataset: DataFrame, stages: Sequence[_NetworkEstimator]) -> Iterator[tuple[int, Any]]:
        jobs = [stage._job() for stage in stages]  # what is wrong with params is said before rows are written
        for number, found in train_all(dataset, jobs):
            yield number, stages[number]._made(found)

    def _job(self) -> Job:
        return Job(
            self._table(), self.network, self._framework, self._options(), self.getMaxIter(), self.getBatchSize(),
            self.getPatience() or None, self.getSeed(), self.getNumWorkers(), self.getGpus(),
        )  # fmt: skip

    def _table(self) -> Table:
        indicator = self.getValidationIndicatorCol() if self.isDefined(self.validationIndicatorCol) else None
        share = self.getValidationFraction()
        if indicator and share:
            raise ConfigurationError("Both validationIndicatorCol and validationFraction are set. Rows are held out by one.")
        several = self.isSet(self.inputCols)
        inputs = tuple(self.getInputCols()) if several else (str(self.getOrDefault("featuresCol")),)
        label = str(self.getOrDefault("labelCol"))
        return Table(inputs, label, self._classes, several, indicator or None, share, self.getSeed() if share else 0)

    def _options(self) -> dict[str, Any]:
        """Return what the network is trained by; one that is compiled brings it."""
        if getattr(self.network, "compiled", False):
            if said := [name for name in _TRAINING if self.isSet(self.getParam(name))]:
                raise ConfigurationError(
                    f"The network is compiled, so it brings its loss and optimizer; {', '.join(said)} cannot be set, too. "
                    "Clear them, or give a network that is not compiled."
                )
            return {"loss": None, "optimizer": None, "learning_rate": None}
        options = {"loss": self.getLoss(), "optimizer": self.getOptimizer(), "learning_rate": self.getLearningRate()}
        Recipe(inputs="features", label="label", **options)  # what does not fit is said before rows are written
        return options

    def _made(self, found: Learned) -> Any:
        model = self._copyValues(self._model(found))
        model._resetUid(self.uid)
        if self.getFromLogits() == AUTO:
            model._set(fromLogits=found.probe.logits)
        return model

    def _stored_models(self) -> Mapping[str, Model]:
        return {} if self._network is None else {_NETWORK: load(PickledNetwork(pickling.dumps(self._network)))}

    def _stored_facts(self) -> Mapping[str, Any]:
        for name in ("loss", "optimizer"):
            if not isinstance(self.getOrDefault(name), str):
                raise ConfigurationError(
                    f"{name} is a {type(self.getOrDefault(name)).__name__}, and only names are saved. Clear it, and set it "
                    "again after loading; the model that fit returns can be saved as it is."
                )
        return {}

    def _restore(self, models: Mapping[str, Model], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        if _NETWORK in models:  # which was vouched for
            self._network = pickle.loads(models[_NETWORK].predict({"row": np.zeros(1)})["pickled"].tobytes())


class PickledNetwork:
    """A network as a function that returns it pickled: so it is kept as any model is that can run code.

    Args:
        pickled: the network.
    """

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __call__(self, row: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pickle, whatever is given."""
        return {"pickled": np.frombuffer(self._pickled, np.uint8)}


class TorchClassifier(_NetworkEstimator, ProbabilisticClassifier):  # type: ignore[misc]  # PySpark is not typed here
    """A classifier around a `torch.nn.Module`, trained by the loop of `gap.fit`. Classic Spark and Connect.

    The table has a column of features (vectors, dense or sparse, or arrays of numbers, which may be nested) and one of labels:
    whole numbers from 0 to the size of the network's last dimension less 1, of any type of number. Features that are floats
    come in the type of the network's weights; integers stay integers, as embeddings want them.

    Args:
        network: the module, or a function without arguments that makes it. Each `fit` begins with a copy of it.
        featuresCol: column of features.
        inputCols: instead of it: columns of several inputs, in the order of ``forward``, which may be numbers, too; for a
            network with one input, columns of numbers are stacked.
        labelCol: column of labels.
        predictionCol: column of predicted classes, double; "" for none.
        probabilityCol, rawPredictionCol: columns of vectors, likewise.
        thresholds: of the classes: the one with the largest probability by its threshold is predicted.
        fromLogits: whether the network gives logits, and not probabilities. ``"auto"``: it does, unless its last layer is a
            softmax or a sigmoid.
        loss: ``"cross_entropy"`` (default), ``"binary_cross_entropy"`` for a network with one output, or a function of
            (prediction, label), which gets classes as int64.
        optimizer: ``"adam"`` (default), ``"adamw"``, ``"sgd"``, ``"momentum"``, or a function of the parameters.
        learningRate: of a named optimizer; by default 0.01 for sgd and momentum, else 0.001.
        maxIter: epochs: passes over the rows; 10.
        batchSize: rows of a batch over all workers; 32.
        validationFraction: share of the rows that is held out; the weights with the least loss on them are kept.
        validationIndicatorCol: boolean column, true in rows that are held out.
        patience: epochs without a lower loss (on the rows held out, if any), after which to end; 0 (default) for never.
        numWorkers: workers that train the network together; 1. One is a task like any other; more are begun at the same time.
        gpus: GPUs a worker; by default what Spark gives a task.
        seed: of the order of rows, of what is held out, and of what the network draws.

    Example:
        >>> import torch
        >>> import sparkgap as gap
        >>> from sparkgap.ml import TorchClassifier
        >>> spark = gap.session()
        >>> df = spark.range(64).selectExpr("array(id / 32 - 1) AS features", "int(id > 31) AS label")
        >>> model = TorchClassifier(network=torch.nn.Linear(1, 2), learningRate=0.1, maxIter=5).fit(df)
        >>> model.numClasses, model.transform(df).columns
        (2, ['features', 'label', 'rawPrediction', 'probability', 'prediction'])
    """

    _framework = "torch"
    _classes = True
    _model = NetworkClassificationModel


class TorchRegressor(_NetworkEstimator, Predictor[Any]):  # type: ignore[misc]
    """A regressor around a `torch.nn.Module` that gives one number a row, trained by the loop of `gap.fit`.

    Nothing is scaled here: scale features (``StandardScaler``) and label where they are far from 1.

    Args:
        loss: ``"mse"`` (default), ``"mae"``, ``"huber"``, or a function of (prediction, label).
        others: those of `TorchClassifier`, without those of probabilities. Labels are any finite numbers.
    """

    _framework = "torch"
    _model = NetworkRegressionModel


class KerasClassifier(_NetworkEstimator, ProbabilisticClassifier):  # type: ignore[misc]
    """A classifier around a Keras 3 model, on any of its backends; else as `TorchClassifier`.

    Args:
        network: a model that is built, or a function without arguments that makes it. One that is compiled brings its loss and
            optimizer, and loss, optimizer and learningRate are not set. What it is compiled for should fit `fromLogits`.
        others: those of `TorchClassifier`. A named loss takes probabilities where the model ends in a softmax or a sigmoid.
    """

    _framework = "keras"
    _classes = True
    _model = NetworkClassificationModel


class KerasRegressor(_NetworkEstimator, Predictor[Any]):  # type: ignore[misc]
    """A regressor around a Keras 3 model that gives one number a row; see `KerasClassifier` and `TorchRegressor`."""

    _framework = "keras"
    _model = NetworkRegressionModel
