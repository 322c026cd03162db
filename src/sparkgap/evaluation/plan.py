"""What is evaluated: columns, kind of task, classes; a value that travels to the tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["binary", "vector", "open", "regression"]
MOST_SCORES = 1 << 16
"""Different scores, or errors, up to which curves and quantiles are exact; of several classes together."""
MOST_CURVES = 64
"""Classes up to which each has its curves."""
MOST_CLASSES = 4096
"""Classes up to which there is a confusion matrix."""
CLIP = 2.220446049250313e-16
"""The least probability that a log-loss is taken of: the step of float64 at 1."""


@dataclass(frozen=True)
class Plan:
    """An evaluation.

    Args:
        kind: ``"binary"``: one probability, of the positive class, or none; ``"vector"``: one probability a class;
            ``"open"``: predictions alone, classes are what occurs; ``"regression"``.
        label: column of the truth.
        prediction: column of predictions; None: the likeliest class.
        probability: column of probabilities, or None.
        weight: column of weights, or None.
        by: key columns.
        key_types: their Arrow types.
        text: whether labels are text.
        classes: names of the classes, in the order of the probabilities; None where their numbers name them.
        positive: the class that a binary evaluation is about.
        top_k: how many of the likeliest classes are asked for the true one.
        bins: of the calibration.
        quantiles: of the error, in 0…1.
        refuse: whether rows with nulls or NaN are an error.
        limit: different scores or errors that are kept apart.
    """

    kind: Kind
    label: str
    prediction: str | None = None
    probability: str | None = None
    weight: str | None = None
    by: tuple[str, ...] = ()
    key_types: tuple[pa.DataType, ...] = ()
    text: bool = False
    classes: tuple[Any, ...] | None = None
    positive: Any = 1
    top_k: tuple[int, ...] = (5,)
    bins: int = 10
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    refuse: bool = False
    limit: int = MOST_SCORES

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows are read from, each once."""
        named = (self.label, self.prediction, self.probability, self.weight, *self.by)
        return tuple(dict.fromkeys(c for c in named if c is not None))

    def place(self, column: str) -> str:
        """Return the name under which a column comes."""
        return f"c{self.columns.index(column)}"

    def positive_index(self, count: int) -> int:
        """Return the place of the positive class among `count`; -1 where there is none."""
        names = list(range(count)) if self.classes is None else list(self.classes)
        return names.index(self.positive) if self.positive in names else -1
