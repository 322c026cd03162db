"""How good a perceptron is on a table: summaries as MLlib's models give them, over one aggregation in Spark."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class _Summary:
    """Predictions for a table.

    Args:
        transform: gives the predictions; called when they are first needed.
        prediction: name of the column of predictions.
        label: name of the column of labels.
    """

    def __init__(self, transform: Callable[[], DataFrame], prediction: str, label: str) -> None:
        self._transform = transform
        self.predictionCol = prediction
        self.labelCol = label
        self.weightCol = ""

    @functools.cached_property
    def predictions(self) -> DataFrame:
        """What the model's `transform` gives for the table."""
        return self._transform()


class _Training:
    """What is known of the training.

    Attributes:
        objectiveHistory: loss before the first iteration, and after each.
        validationHistory: likewise, on the rows that were held out; empty where there were none.
        totalIterations: iterations, or passes over the rows.
    """

    objectiveHistory: list[float]
    validationHistory: list[float]
    totalIterations: int


class MultilayerPerceptronClassificationSummary(_Summary):
    """How good a classifier is on a table. All figures are exact, and as MLlib defines them."""

    @functools.cached_property
    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels that there are, in order; and rows by (label, prediction), over all classes of either."""
        from pyspark.sql import functions as F

        names = ["`" + name.replace("`", "``") + "`" for name in (self.labelCol, self.predictionCol)]
        pairs = self.predictions.select(*[F.col(name).cast("double").alias(f"c{n}") for n, name in enumerate(names)])
        rows = pairs.groupBy("c0", "c1").count().collect()
        labels = sorted({float(row[0]) for row in rows})
        classes = labels + sorted({float(row[1]) for row in rows} - set(labels))
        counts = np.zeros((len(classes), len(classes)))
        for row in rows:
            counts[classes.index(float(row[0])), classes.index(float(row[1]))] = row[2]
        return np.array(labels), counts

    @property
    def labels(self) -> list[float]:
        """The labels that there are, in order."""
        return [float(label) for label in self._counts[0]]

    @property
    def truePositiveRateByLabel(self) -> list[float]:
        """Share of the rows of each label that are predicted so."""
        return self.recallByLabel

    @property
    def falsePositiveRateByLabel(self) -> list[float]:
        """Share of the rows of other labels that are predicted as this one."""
        right, of_label, predicted, total = self._sums()
        return _shares(predicted - right, total - of_label)

    @property
    def precisionByLabel(self) -> list[float]:
        """Share of the rows predicted as each label that have it."""
        right, _, predicted, _ = self._sums()
        return _shares(right, predicted)

    @property
    def recallByLabel(self) -> list[float]:
        """Share of the rows of each label that are predicted so."""
        right, of_label, _, _ = self._sums()
        return _shares(right, of_label)

    def fMeasureByLabel(self, beta: float = 1.0) -> list[float]:
        """Return the F-measure of each label."""
        precision, recall = np.array(self.precisionByLabel), np.array(self.recallByLabel)
        return _shares((1 + beta * beta) * precision * recall, beta * beta * precision + recall)

    @property
    def accuracy(self) -> float:
        """Share of all rows that are predicted right."""
        right, _, _, total = self._sums()
        return float(right.sum() / total)

    @property
    def weightedTruePositiveRate(self) -> float:
        """Mean of the true positive rates, by the rows of each label."""
        return self._weighted(self.truePositiveRateByLabel)

    @property
    def weightedFalsePositiveRate(self) -> float:
        """Mean of the false positive rates, by the rows of each label."""
        return self._weighted(self.falsePositiveRateByLabel)

    @property
    def weightedRecall(self) -> float:
        """Mean of the recalls, by the rows of each label."""
        return self._weighted(self.recallByLabel)

    @property
    def weightedPrecision(self) -> float:
        """Mean of the precisions, by the rows of each label."""
        return self._weighted(self.precisionByLabel)

    def weightedFMeasure(self, beta: float = 1.0) -> float:
        """Return the mean of the F-measures, by the rows of each label."""
        return self._weighted(self.fMeasureByLabel(beta))

    def _sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return of each label: rows predicted right, rows that have it, rows predicted so; and all rows."""
        labels, counts = self._counts
        n = len(labels)
        return np.diag(counts)[:n], counts.sum(axis=1)[:n], counts.sum(axis=0)[:n], float(counts.sum())

    def _weighted(self, values: list[float]) -> float:
        _, of_label, _, total = self._sums()
        return float(np.array(values) @ of_label / total)


class MultilayerPerceptronClassificationTrainingSummary(MultilayerPerceptronClassificationSummary, _Training):
    """The same on the rows that the model was trained on, and what is known of the training."""


class MultilayerPerceptronRegressionSummary(_Summary):
    """How good a regressor is on a table."""

    @functools.cached_property
    def _moments(self) -> tuple[float, float, float, float]:
        """Mean squared error, mean absolute error, variance of the label, rows."""
        from pyspark.sql import functions as F

        label, found = (
            F.col("`" + name.replace("`", "``") + "`").cast("double") for name in (self.labelCol, self.predictionCol)
        )
        row = self.predictions.select(label.alias("y"), (label - found).alias("e")).agg(
            F.avg(F.col("e") * F.col("e")), F.avg(F.abs("e")), F.var_pop("y"), F.count("e")
        ).first()  # fmt: skip
        assert row is not None  # an aggregation over all rows gives one
        values = [float("nan") if value is None else float(value) for value in row]
        return values[0], values[1], values[2], values[3]

    @property
    def meanSquaredError(self) -> float:
        """Mean of the squared errors."""
        return self._moments[0]

    @property
    def rootMeanSquaredError(self) -> float:
        """Root of the mean of the squared errors."""
        return float(self._moments[0] ** 0.5)

    @property
    def meanAbsoluteError(self) -> float:
        """Mean of the absolute errors."""
        return self._moments[1]

    @property
    def r2(self) -> float:
        """Share of the label's variance that is explained; NaN where the label is constant."""
        error, _, variance, _ = self._moments
        return 1 - error / variance if variance else float("nan")

    @property
    def numInstances(self) -> int:
        """Number of rows."""
        return int(self._moments[3])


class MultilayerPerceptronRegressionTrainingSummary(MultilayerPerceptronRegressionSummary, _Training):
    """The same on the rows that the model was trained on, and what is known of the training."""


def _shares(some: np.ndarray, all_: np.ndarray) -> list[float]:
    """Divide, with 0 where there is nothing to divide by."""
    return [float(a / b) if b else 0.0 for a, b in zip(some, all_, strict=True)]
