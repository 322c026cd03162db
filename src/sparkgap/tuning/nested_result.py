"""What `gap.nested_cv` found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class FoldResult:
    """One outer fold.

    Attributes:
        fold: its number, from 0.
        params: the best parameters of its study.
        inner_score: the mean score of these over the inner folds: what the search has seen, too good by its choice.
        score: of these on the rows held out.
        study: its study.
        train_rows: rows to train on.
        test_rows: rows held out.
    """

    fold: int
    params: Mapping[str, Any]
    inner_score: float
    score: float
    study: optuna.Study = field(repr=False)
    train_rows: int
    test_rows: int


@dataclass(frozen=True)
class NestedCV:
    """All outer folds.

    Attributes:
        folds: them, in their order.
    """

    folds: tuple[FoldResult, ...]

    @property
    def scores(self) -> np.ndarray:
        """The scores on the rows held out, float64 of shape (folds,)."""
        return np.array([fold.score for fold in self.folds])

    @property
    def mean(self) -> float:
        """The mean of the scores: the estimate."""
        return float(self.scores.mean())

    @property
    def std(self) -> float:
        """The sample standard deviation of the scores between folds (n - 1); nan of a single fold."""
        return float(self.scores.std(ddof=1)) if len(self.folds) > 1 else math.nan

    def to_arrow(self) -> pa.Table:
        """Return a row an outer fold; parameters that a study did not have are null."""
        names = list(dict.fromkeys(name for fold in self.folds for name in fold.params))
        facts = ("fold", "score", "inner_score", "train_rows", "test_rows")
        columns = {fact: [getattr(fold, fact) for fold in self.folds] for fact in facts}
        return pa.table(
            columns | {f"params_{name}": _column([fold.params.get(name) for fold in self.folds]) for name in names}
        )

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g} over {len(self.folds)} folds"


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # numbers and words for the same parameter
        return pa.array([None if value is None else str(value) for value in values])
