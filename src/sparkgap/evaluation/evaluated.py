"""`Evaluation`: what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError
from sparkgap.evaluation.curves import Calibration, PrecisionRecallCurve, RocCurve

_NO_NUMBERS: Mapping[Any, Any] = {}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Mapping[str, float]):
    """Metrics by name, as a mapping: ``evaluation["accuracy"]``.

    Args:
        task: ``"binary"``, ``"classification"`` or ``"regression"``.
        rows: how many rows count.
        skipped: why rows do not count -> how many.
        metrics: name -> number; NaN where it has no value.
        reasons: name -> why it has no value, or is not quite what its name says.
        errors: name -> how far off a metric may be at most; those that are not named are exact to rounding.
        classes: names of the classes, in the order of what has an entry for each.
        confusion: (classes, classes) float64: rows, or their weight, by true class and predicted class; or None.
        per_class: name -> (classes,) array: precision, recall, f1, support, and roc_auc, pr_auc where there are curves.
        roc: class -> curve; of a binary evaluation the positive class alone.
        precision_recall: likewise.
        calibration: or None where there are no probabilities. Of two classes it is about the probability of the positive
            one, of more about that of the predicted one.
        quantiles: of the error of a regression, prediction - label.
        by: one row a key: keys, rows, skipped, metrics; or None.
    """

    task: str
    rows: int
    skipped: Mapping[str, int]
    metrics: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[Any, ...] = ()
    confusion: np.ndarray | None = None
    per_class: Mapping[str, np.ndarray] = field(default_factory=dict)
    roc: Mapping[Any, RocCurve] = field(default_factory=dict)
    precision_recall: Mapping[Any, PrecisionRecallCurve] = field(default_factory=dict)
    calibration: Calibration | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)
    by: pa.Table | None = None

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics:
            raise KeyError(f"{name}; there are {', '.join(self.metrics)}")
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        lost = "".join(f"; {count} left out: {reason}" for reason, count in self.skipped.items())
        lines = [f"Evaluation: {self.task}, {self.rows} rows{lost}"]
        width = max((len(n) for n in self.metrics), default=0)
        for name, value in self.metrics.items():
            bound = f" ± {self.errors[name]:.2g}" if self.errors.get(name) else ""
            why = f"  ({self.reasons[name]})" if name in self.reasons else ""
            lines.append(f"  {name:<{width}}  {value:.6g}{bound}{why}")
        lines += [f"  {'error at ' + format(q, 'g'):<{width}}  {value:.6g}" for q, value in self.quantiles.items()]
        if self.by is not None:
            lines.append(f"  by key: {self.by.num_rows} keys, see .table()")
        return "\n".join(lines)

    @property
    def auc_error(self) -> float:
        """How far off the area under the ROC curve may be at most; 0.0 where it is exact."""
        return self.errors.get("roc_auc", 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but the curves as plain values, fit for JSON but for NaN."""
        return {
            "task": self.task,
            "rows": self.rows,
            "skipped": dict(self.skipped),
            "metrics": dict(self.metrics),
            "reasons": dict(self.reasons),
            "errors": dict(self.errors),
            "classes": list(self.classes),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "per_class": {name: values.tolist() for name, values in self.per_class.items()},
            "quantiles": {str(q): value for q, value in self.quantiles.items()},
            "by": None if self.by is None else self.by.to_pylist(),
        }

    def table(self) -> pa.Table:
        """Return an Arrow table: of an evaluation by key one row a key, in no certain order; else of one a class.

        Raises:
            ConfigurationError: it is a regression without keys, which has one row of numbers only: `metrics`.
        """
        if self.by is not None:
            return self.by
        if not self.per_class:
            raise ConfigurationError(
                "A table is of keys or of classes; this has neither. Read .metrics, or evaluate with by=."
            )
        return pa.table({"class": pa.array(self.classes), **{n: pa.array(a) for n, a in self.per_class.items()}})

    def plot(self, to: Any) -> Any:
        """Draw the confusion matrix, the ROC curves and the calibration; of a regression the quantiles of its error.

        Args:
            to: a path of a picture, its suffix says of which kind; or axes of matplotlib, one or several: as many of the
                parts are drawn.

        Returns:
            The figure of matplotlib.

        Raises:
            MissingDependencyError: there is no matplotlib.
            ConfigurationError: there is nothing to draw.
        """
        from sparkgap.evaluation.drawing import draw

        return draw(self, to)
