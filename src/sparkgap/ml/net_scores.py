"""From what a network gives to raw prediction, probability and prediction: as expressions of Spark, and for single rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparkgap.ml.columns import as_vector
from sparkgap.ml.mlp_net import predicted, softmax

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Scores:
    """How the output of a classifier's network is read.

    Args:
        width: length of a row of it; 0 where a row is one number.
        logits: whether it is logits, and not probabilities.
        thresholds: of the classes, or None.
    """

    width: int
    logits: bool
    thresholds: Sequence[float] | None = None

    @property
    def classes(self) -> int:
        """Number of classes; one output tells two."""
        return max(self.width, 2)

    def of(self, output: np.ndarray) -> dict[str, np.ndarray]:
        """Return raw prediction, probability and prediction of a block of rows."""
        given = np.asarray(output, np.float64)
        if self.width < 2:
            one = given.reshape(len(given))
            raw = np.stack([-one if self.logits else 1 - one, one], axis=1)
            # Two classes by one logit z: the odds are exp(z), so each class has half of it.
            probability = softmax(raw / 2) if self.logits else raw
        else:
            raw = given
            probability = softmax(raw) if self.logits else raw
        prediction = predicted(raw, probability, self.thresholds)
        return {"rawPrediction": raw, "probability": probability, "prediction": prediction}

    def added(self, frame: DataFrame, column: str, names: Mapping[str, str]) -> DataFrame:
        """Return a table with the columns that are named, in place of the output's.

        Args:
            frame: with the output of the network.
            column: its name.
            names: of ``"rawPrediction"``, ``"probability"`` and ``"prediction"``; what is not named is left out.
        """
        from pyspark.sql import functions as F

        kept = [_named(name) for name in frame.columns if name != column]
        raw, probability, powers = f"{column}_raw", f"{column}_probability", f"{column}_powers"
        # One step after the other: an expression that others use several times is computed once.
        frame = frame.withColumn(raw, self._raw(F.col(_quoted(column))))
        if "probability" in names or self.thresholds is not None:
            frame = frame.withColumn(powers, self._powers(F.col(_quoted(raw))))
            frame = frame.withColumn(probability, self._shares(F.col(_quoted(powers))))
        made = {
            "rawPrediction": lambda: as_vector(_quoted(raw)),
            "probability": lambda: as_vector(_quoted(probability)),
            "prediction": lambda: self._prediction(_quoted(raw), _quoted(probability)),
        }
        facts: dict[str, Any] = {"prediction": {"type": "nominal", "num_vals": self.classes}}
        told = {"num_attrs": self.classes}
        added = [made[kind]().alias(name, metadata={"ml_attr": facts.get(kind, told)}) for kind, name in names.items()]
        return frame.select(*kept, *added)

    def _raw(self, output: Column) -> Column:
        from pyspark.sql import functions as F

        if self.width > 1:
            return output.cast("array<double>")
        one = (output if self.width == 0 else output[0]).cast("double")
        return F.array(-one if self.logits else 1 - one, one)

    def _powers(self, raw: Column) -> Column:
        """Return numbers in the ratio of the probabilities."""
        from pyspark.sql import functions as F

        if not self.logits:
            return raw
        share = 1.0 if self.width > 1 else 0.5
        largest = F.array_repeat(F.array_max(raw), self.classes)
        return F.zip_with(raw, largest, lambda value, most: F.exp((value - most) * F.lit(share)))

    def _shares(self, powers: Column) -> Column:
        from pyspark.sql import functions as F

        if not self.logits:
            return powers
        total = F.aggregate(powers, F.lit(0.0), lambda sum_, value: sum_ + value)
        return F.zip_with(powers, F.array_repeat(total, self.classes), lambda value, whole: value / whole)

    def _prediction(self, raw: str, probability: str) -> Column:
        from pyspark.sql import functions as F

        scores = F.col(raw)
        if self.thresholds is not None:
            limits = F.array(*[F.lit(float(limit)) for limit in self.thresholds])
            scores = F.zip_with(F.col(probability), limits, _by_threshold)
        return (F.array_position(scores, F.array_max(scores)) - 1).cast("double")


def _by_threshold(probability: Column, limit: Column) -> Column:
    from pyspark.sql import functions as F

    certain = F.when(probability > 0, F.lit(float("inf"))).otherwise(F.lit(float("-inf")))
    return F.when(limit > 0, probability / limit).otherwise(certain)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _named(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col(_quoted(name))
