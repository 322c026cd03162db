"""Curves and the areas under them, from weights by score; with bounds where scores are in bins. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparkgap.evaluation.float_counts import FloatCounts


@dataclass(frozen=True, eq=False)
class RocCurve:
    """True positives over false positives, as the threshold falls.

    Args:
        fpr: (n,) share of negatives with a score of the threshold or more.
        tpr: (n,) share of positives likewise.
        thresholds: (n,) scores, falling; the first is infinite.
        area: under the curve.
        error: the area is off by no more than this; 0.0 where every different score was kept.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    area: float
    error: float


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision over recall, as the threshold falls.

    Args:
        precision: (n,) share of positives among those with a score of the threshold or more.
        recall: (n,) share of the positives that these are.
        thresholds: (n,) scores, falling.
        area: the average precision: the precision at each threshold, weighted by what it adds to the recall.
        error: the area is off by no more than this; 0.0 where every different score was kept.
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray
    area: float
    error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often what is said with some confidence is right.

    Args:
        edges: (bins + 1,) of the bins of confidence.
        weight: (bins,) rows, or their weight.
        confidence: (bins,) mean of a bin; NaN where it is empty.
        accuracy: (bins,) share that is right; NaN where it is empty.
        error: expected calibration error: the mean of |confidence - accuracy| over all rows.
    """

    edges: np.ndarray
    weight: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def both_curves(scores: FloatCounts) -> tuple[RocCurve, PrecisionRecallCurve] | str:
    """Return the curves of weights (negative, positive) by score; where there are none, the reason."""
    thresholds, counts = scores.scores_ascending()
    thresholds, negative, positive = thresholds[::-1], counts[::-1, 0], counts[::-1, 1]
    false, true = np.cumsum(negative), np.cumsum(positive)
    if not len(true) or not true[-1] or not false[-1]:
        if not len(true) or not (true[-1] or false[-1]):
            return "there are no rows"
        return "every row is of this class" if true[-1] else "no row is of this class"
    exact = scores.shift == 0
    return (
        _roc(thresholds, false, true, float((negative * positive).sum()) * (not exact)),
        _precision_recall(thresholds, false, true, exact),
    )


def _roc(thresholds: np.ndarray, false: np.ndarray, true: np.ndarray, mixed: float) -> RocCurve:
    """Return the curve; `mixed` is the weight of pairs that lie in one bin, of which each counts half, right or wrong."""
    fpr = np.concatenate([[0.0], false / false[-1]])
    tpr = np.concatenate([[0.0], true / true[-1]])
    area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum() / 2)
    return RocCurve(fpr, tpr, np.concatenate([[np.inf], thresholds]), area, mixed / (2 * float(false[-1]) * float(true[-1])))


def _precision_recall(thresholds: np.ndarray, false: np.ndarray, true: np.ndarray, exact: bool) -> PrecisionRecallCurve:
    seen = true + false  # may begin with rows of no weight
    precision = np.divide(true, seen, out=np.ones_like(true), where=seen > 0)
    recall = true / true[-1]
    gained = np.diff(recall, prepend=0.0)
    area = float((gained * precision).sum())
    error = 0.0
    if not exact:
        # Within a bin the positives may all come before the negatives, or after them.
        before_true, before_false = np.concatenate([[0.0], true[:-1]]), np.concatenate([[0.0], false[:-1]])
        most = np.divide(true, true + before_false, out=np.ones_like(true), where=true + before_false > 0)
        least = np.divide(before_true, before_true + false, out=np.zeros_like(true), where=before_true + false > 0)
        error = max(float((gained * most).sum()) - area, area - float((gained * least).sum()))
    return PrecisionRecallCurve(precision, recall, thresholds, area, error)


def calibration(bins: np.ndarray) -> Calibration:
    """Return the calibration from (3, bins) sums: weight, confidence, hits."""
    weight, confidence, hits = bins
    total = weight.sum()
    error = float(np.abs(confidence - hits).sum() / total) if total else float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        return Calibration(np.linspace(0, 1, len(weight) + 1), weight, confidence / weight, hits / weight, error)
