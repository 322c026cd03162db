"""`MultilayerPerceptronClassifier`, in place of MLlib's, and `MultilayerPerceptronRegressor`, which MLlib has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark import keyword_only
from pyspark.ml.base import Predictor
from pyspark.ml.classification import ProbabilisticClassifier

from sparkgap._errors import ConfigurationError
from sparkgap.ml.mlp_fit import FitIterator, Job, Table, check_setting, train_all
from sparkgap.ml.mlp_model import MultilayerPerceptronClassificationModel, MultilayerPerceptronRegressionModel
from sparkgap.ml.mlp_net import Net, check_thresholds, count_weights
from sparkgap.ml.mlp_params import step_size
from sparkgap.ml.mlp_setters import MlpSetters
from sparkgap.ml.mlp_setting import Setting, Trained
from sparkgap.ml.mlp_summary import (
    MultilayerPerceptronClassificationTrainingSummary,
    MultilayerPerceptronRegressionTrainingSummary,
)
from sparkgap.ml.storing import Stored

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class _Mlp(MlpSetters, Stored):
    """What both estimators share."""

    _task: Any = ""
    _model: Any = None
    _summary: Any = None

    def fitMultiple(self, dataset: DataFrame, paramMaps: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Fit a model for each param map. The rows are written once; nets of one worker are independent tasks of one run.

        A model does not depend on how many are fitted at the same time.

        Returns:
            An iterator of (number of the param map, model), in the order in which they end; threads may share it.
        """
        return FitIterator(self._models(dataset, [self.copy(one) for one in paramMaps]))

    def _fit(self, dataset: DataFrame) -> Any:
        ((_, model),) = self._models(dataset, [self])
        return model

    def _models(self, dataset: DataFrame, stages: Sequence[_Mlp]) -> Iterator[tuple[int, Any]]:
        jobs = [stage._job() for stage in stages]  # what is wrong with params is said before rows are written
        for number, found in train_all(dataset, jobs):
            yield number, stages[number]._made(dataset, found)

    def _job(self) -> Job:
        if not self.isSet(self.layers):
            raise ConfigurationError("layers is not set: the sizes of the layers, from the features to the outputs.")
        layers = tuple(self.getLayers())
        indicator = self.getValidationIndicatorCol() if self.isDefined(self.validationIndicatorCol) else None
        share = self.getValidationFraction()
        if indicator and share:
            raise ConfigurationError("Both validationIndicatorCol and validationFraction are set. Rows are held out by one.")
        setting = Setting(
            self._task, layers, self.getHiddenActivation(), self.getSolver(), self.getMaxIter(), self.getTol(),
            step_size(self), self.getBlockSize(), self.getBatchSize(), self.getDropout(), self.getWeightDecay(),
            self.getSeed(), self.getPatience(), 1.0 if indicator else share,
            np.array(self.getOrDefault(self.initialWeights)) if self.isSet(self.initialWeights) else None,
        )  # fmt: skip
        check_setting(setting, count_weights(layers))
        features, label = self.getOrDefault("featuresCol"), self.getOrDefault("labelCol")
        table = Table(features, label, indicator or None, self.getSeed() if share else None)
        return Job(table, setting, self.getNumWorkers() if self.isSet(self.numWorkers) else None)

    def _made(self, dataset: DataFrame, found: Trained) -> Any:
        net = Net(tuple(self.getLayers()), found.weights, self.getHiddenActivation())
        model = self._copyValues(self._model(net))
        model._resetUid(self.uid)
        model._summary = told = self._summary(*model._scored(dataset))
        told.objectiveHistory, told.validationHistory = list(found.history), list(found.held)
        told.totalIterations = found.iterations
        return model


class MultilayerPerceptronClassifier(_Mlp, ProbabilisticClassifier):  # type: ignore[misc]  # PySpark is not typed here
    """A classifier: hidden layers with sigmoid, ReLU or tanh, and a softmax.

    It takes the place of ``pyspark.ml.classification.MultilayerPerceptronClassifier``: the same params, defaults, columns,
    weights and first weights for a seed, and the same steps of l-bfgs. Trained in torch, on the executors.

    The table has a column of features (vectors, dense or sparse, or arrays of numbers) and one of labels: whole numbers from 0
    to the size of the last layer less 1, of any type of number.

    Args:
        featuresCol: column of features.
        labelCol: column of labels.
        predictionCol: column of predicted classes, double; "" for none.
        probabilityCol, rawPredictionCol: columns of vectors, likewise.
        maxIter: iterations at most; with adam, adamw and sgd, passes over the rows.
        tol: relative change of the loss at which to end.
        seed: of the first weights, of the order of rows and of what is held out.
        layers: sizes, from the features to the classes.
        blockSize: rows that go through the net at a time, at least. It changes no result.
        stepSize: of gd, adam, adamw and sgd; 0.001 for adam and adamw unless it is set.
        solver: ``"l-bfgs"``, ``"gd"``: all rows before each step, in float64; ``"adam"``, ``"adamw"``, ``"sgd"``: batches.
        initialWeights: to begin with, in the layout of `MultilayerPerceptronClassificationModel.weights`.
        thresholds: of the classes: the one with the largest probability by its threshold is predicted.
        hiddenActivation: ``"sigmoid"``, ``"relu"`` or ``"tanh"``.
        dropout: share of the hidden activations that are left out in training; with adam, adamw and sgd.
        weightDecay: half of it times the squared weights is added to the loss; adamw shrinks weights instead.
        batchSize: rows of a batch.
        validationFraction: share of rows that are held out; the weights with the least loss on them are kept.
        validationIndicatorCol: boolean column, true in rows that are held out.
        patience: iterations without a loss (on the rows held out, if any) that is less by more than `tol`, after which to end;
            l-bfgs and gd look at rows held out only. 0 for never.
        numWorkers: tasks that train together; by default one where the features have 32 MiB at most, else as many as run at
            the same time.

    Example:
        >>> import sparkgap as gap
        >>> from pyspark.ml.linalg import Vectors
        >>> from sparkgap.ml.mlp import MultilayerPerceptronClassifier
        >>> spark = gap.session()
        >>> rows = [(Vectors.dense(a, b), a ^ b) for a in (0, 1) for b in (0, 1)]
        >>> df = spark.createDataFrame(rows, ["features", "label"])
        >>> model = MultilayerPerceptronClassifier(layers=[2, 5, 2], seed=123).fit(df)
        >>> model.transform(df).where("label != prediction").count()
        0
    """

    _task = "classification"
    _model = MultilayerPerceptronClassificationModel
    _summary = MultilayerPerceptronClassificationTrainingSummary
    _input_kwargs: dict[str, Any]

    @keyword_only  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        maxIter: int = 100,
        tol: float = 1e-6,
        seed: int | None = None,
        layers: Sequence[int] | None = None,
        blockSize: int = 128,
        stepSize: float = 0.03,
        solver: str = "l-bfgs",
        initialWeights: Any = None,
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        thresholds: Sequence[float] | None = None,
        hiddenActivation: str = "sigmoid",
        dropout: float = 0.0,
        weightDecay: float = 0.0,
        batchSize: int = 128,
        validationFraction: float = 0.0,
        validationIndicatorCol: str | None = None,
        patience: int = 10,
        numWorkers: int | None = None,
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)

    @keyword_only  # type: ignore[untyped-decorator]
    def setParams(self, **params: Any) -> MultilayerPerceptronClassifier:
        """Set params by name, as the constructor takes them."""
        return self._with(**self._input_kwargs)

    def _job(self) -> Job:
        found = super()._job()
        check_thresholds(self.getThresholds() if self.isDefined(self.thresholds) else None, found.setting.layers[-1])
        return found


class MultilayerPerceptronRegressor(_Mlp, Predictor[Any]):  # type: ignore[misc]
    """A regressor: hidden layers with sigmoid, ReLU or tanh, and one linear output; squared error.

    The table is as for `MultilayerPerceptronClassifier`, with labels that are any finite numbers. Nothing is scaled here:
    scale features (``StandardScaler``) and label where they are far from 1.

    Args:
        featuresCol: column of features.
        labelCol: column of labels.
        predictionCol: column of predictions, double.
        layers: sizes, from the features to 1.
        params: the others are those of `MultilayerPerceptronClassifier`.
    """

    _task = "regression"
    _model = MultilayerPerceptronRegressionModel
    _summary = MultilayerPerceptronRegressionTrainingSummary
    _input_kwargs: dict[str, Any]

    @keyword_only  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        featuresCol: str = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        layers: Sequence[int] | None = None,
        **params: Any,
    ) -> None:
        super().__init__()
        self._set(**self._input_kwargs)

    @keyword_only  # type: ignore[untyped-decorator]
    def setParams(self, **params: Any) -> MultilayerPerceptronRegressor:
        """Set params by name, as the constructor takes them."""
        return self._with(**self._input_kwargs)
