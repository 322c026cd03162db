"""What a classification leaves of rows: sums that merge, whatever the split. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparkgap._errors import DataError
from sparkgap.evaluation.float_counts import FloatCounts, codes_of_scores, grouped
from sparkgap.evaluation.plan import MOST_CLASSES, MOST_CURVES, Plan
from sparkgap.evaluation.reading import Examples
from sparkgap.evaluation.row_scores import RowScores, only_negative, row_scores
from sparkgap.evaluation.sums import Totals

LOSS, BRIER, CLIPPED, FIRST_TOP = range(4)
"""Places of the totals; after them the hits of each top_k, then weight, confidence and hits of each calibration bin."""
_WIDE = 1 << 31
_LEAST_LIMIT = 1 << 13


@dataclass(frozen=True)
class ClassState:
    """A classification of some rows.

    Args:
        seen: rows that were looked at.
        used: rows that count.
        skipped: reason -> rows left out.
        names: as in `RowScores`.
        count: number of classes; 0 where no row tells it.
        pairs: (m,) int64, ascending: true class * 2**31 + predicted class.
        weights: (m, 1) float64 of each pair.
        totals: see `LOSS` and what follows it.
        scores: weights of negative and positive rows by score: of the positive class, or of each.
    """

    seen: int
    used: int
    skipped: dict[str, int]
    names: np.ndarray
    count: int
    pairs: np.ndarray
    weights: np.ndarray
    totals: Totals
    scores: tuple[FloatCounts, ...]

    @staticmethod
    def of(plan: Plan, rows: Examples) -> ClassState:
        """Look at rows.

        Raises:
            DataError: a label or a prediction is none of the classes.
        """
        found = row_scores(plan, rows)
        pairs, weights = grouped(found.truth * _WIDE + found.predicted, rows.weight[:, None])
        totals = np.concatenate([_means(plan, rows, found), _top(plan, rows, found), _calibration(plan, rows, found)])
        scores = _scores(plan, rows, found)
        return ClassState(
            rows.seen, len(rows.label), dict(rows.skipped), found.names, found.count, pairs, weights, Totals.of(totals), scores
        )

    @staticmethod
    def merged(plan: Plan, parts: Sequence[ClassState]) -> ClassState:
        """Lay rows together.

        Raises:
            DataError: they do not have the same classes, or too many.
        """
        names, pairs = _renamed(plan, parts)
        codes, weights = grouped(np.concatenate(pairs), np.concatenate([p.weights for p in parts]))
        skipped: dict[str, int] = {}
        for part in parts:
            for reason, count in part.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + count
        told = [p for p in parts if p.scores]
        return ClassState(
            sum(p.seen for p in parts),
            sum(p.used for p in parts),
            skipped,
            names,
            len(names) if plan.kind == "open" else _one_count(plan, parts),
            codes,
            weights,
            Totals.merged([p.totals for p in parts]),
            tuple(FloatCounts.merged(same) for same in zip(*(p.scores for p in told), strict=True)),
        )

    def truth_and_predicted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs that occur, (m,) each: true class, predicted class, weight."""
        return self.pairs // _WIDE, self.pairs % _WIDE, self.weights[:, 0]


def _one_count(plan: Plan, parts: Sequence[ClassState]) -> int:
    counts = sorted({p.count for p in parts if p.count})
    if len(counts) > 1:
        raise DataError(
            f"Rows of `{plan.probability}` have {counts[0]} and {counts[1]} probabilities. Each row needs one a class."
        )
    return counts[0] if counts else 0


def _renamed(plan: Plan, parts: Sequence[ClassState]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the classes of all parts, and their pairs in these classes' numbers."""
    there = [p.names for p in parts if len(p.names)]
    names = np.unique(np.concatenate(there)) if there else parts[0].names
    if plan.kind == "binary":
        only_negative(plan, names)
    if plan.kind != "open":
        return names, [p.pairs for p in parts]
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"`{plan.label}` and `{plan.prediction}` have more than {MOST_CLASSES} different values, so they are no classes. "
            "Say task='regression'."
        )
    pairs = []
    for part in parts:
        places = np.searchsorted(names, part.names).astype(np.int64)
        truth, predicted, _ = part.truth_and_predicted()
        pairs.append(places[truth] * _WIDE + places[predicted] if len(truth) else part.pairs)
    return names, pairs


def _means(plan: Plan, rows: Examples, found: RowScores) -> np.ndarray:
    if found.loss is None or rows.probability is None:
        return np.zeros(FIRST_TOP)
    given, truth = rows.probability, found.truth
    if given.ndim == 1:
        brier = (given - truth) ** 2
    elif not len(given):
        brier = np.empty(0)
    else:
        # (p - 1)^2 - p^2 = 1 - 2 p would lose digits for a good model.
        own = given[np.arange(len(given)), truth]
        others = given.copy()
        others[np.arange(len(given)), truth] = 0.0
        brier = (1 - own) ** 2 + (others * others).sum(axis=1)
        brier = brier / 2 if given.shape[1] == 2 else brier  # that of the positive class alone, as is usual for two
    clipped = found.clipped.sum() if found.clipped is not None else 0
    return np.array([(found.loss * rows.weight).sum(), (brier * rows.weight).sum(), clipped])


def _top(plan: Plan, rows: Examples, found: RowScores) -> np.ndarray:
    if found.rank is None:
        return np.zeros(len(plan.top_k))
    return np.array([rows.weight[found.rank <= k].sum() for k in plan.top_k])


def _calibration(plan: Plan, rows: Examples, found: RowScores) -> np.ndarray:
    """Return (3 * bins,): weight, and weighted confidence and hits, of each bin of confidence."""
    positive = _positive_scores(plan, rows, found)
    confidence, hit = positive if positive is not None else (found.confidence, found.correct)
    if confidence is None:
        return np.zeros(3 * plan.bins)
    place = np.minimum((confidence * plan.bins).astype(np.int64), plan.bins - 1)
    return np.concatenate(
        [np.bincount(place, rows.weight * part, plan.bins) for part in (np.ones(len(place)), confidence, hit.astype(float))]
    )


def _positive_scores(plan: Plan, rows: Examples, found: RowScores) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the probability of the positive class and whether it is the true one, where there are two classes."""
    if rows.probability is None or found.count != 2:
        return None
    if plan.kind == "binary":
        return rows.probability, found.truth == 1
    index = plan.positive_index(2)
    if index < 0:
        raise DataError(f"positive={plan.positive!r} is none of the two classes of `{plan.probability}`. Name one of them.")
    return rows.probability[:, index], found.truth == index


def _scores(plan: Plan, rows: Examples, found: RowScores) -> tuple[FloatCounts, ...]:
    positive = _positive_scores(plan, rows, found)
    if positive is not None:
        return (_by_score(*positive, rows.weight, plan.limit),)
    given = rows.probability
    if given is None or not 0 < found.count <= MOST_CURVES:
        return ()
    limit = min(plan.limit, max(plan.limit // found.count, _LEAST_LIMIT))
    return tuple(_by_score(given[:, k], found.truth == k, rows.weight, limit) for k in range(found.count))


def _by_score(score: np.ndarray, true: np.ndarray, weight: np.ndarray, limit: int) -> FloatCounts:
    return FloatCounts.of(codes_of_scores(score), np.stack([weight * ~true, weight * true], axis=1), limit)
