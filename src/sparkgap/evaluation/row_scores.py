"""How well each row of a classification is predicted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import DataError
from sparkgap.evaluation.plan import CLIP, Plan
from sparkgap.evaluation.reading import Examples


@dataclass(frozen=True)
class RowScores:
    """Scores of n rows.

    Args:
        names: what class numbers mean: of an open classification all that occur, of a binary one the negative class where
            it occurs; empty where the plan says it.
        count: number of classes; 0 where no row tells it.
        truth: (n,) int64 class numbers; of a binary evaluation 1 is the positive class.
        predicted: (n,) likewise.
        loss: (n,) log-loss, or None without probabilities.
        clipped: (n,) whether the loss is that of the least probability taken.
        rank: (n,) int64 place of the true class among the likeliest, from 1 on; None without probabilities of classes.
        confidence: (n,) probability of the predicted class; None without probabilities.
    """

    names: np.ndarray
    count: int
    truth: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray | None = None
    clipped: np.ndarray | None = None
    rank: np.ndarray | None = None
    confidence: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether each row is predicted right."""
        found: np.ndarray = self.truth == self.predicted
        return found


def row_scores(plan: Plan, rows: Examples) -> RowScores:
    """Score rows.

    Raises:
        DataError: a label or a prediction is none of the classes.
    """
    if plan.kind == "vector":
        return _vector(plan, rows)
    return _binary(plan, rows) if plan.kind == "binary" else _open(plan, rows)


def _vector(plan: Plan, rows: Examples) -> RowScores:
    given = rows.probability
    assert given is not None
    none = np.empty(0, object)
    if not len(given):
        empty = np.empty(0, np.int64)
        return RowScores(none, 0, empty, empty, np.empty(0), np.empty(0, bool), empty, np.empty(0))
    count = given.shape[1]
    _check_count(plan, count)
    truth = _indices(plan, plan.label, rows.label, count)
    if rows.prediction is None:
        predicted = given.argmax(axis=1)
    else:
        predicted = _indices(plan, plan.prediction or "", rows.prediction, count)
    each = np.arange(len(given))
    own = given[each, truth]
    before = (given == own[:, None]) & (np.arange(count) < truth[:, None])
    rank = 1 + (given > own[:, None]).sum(axis=1) + before.sum(axis=1)
    return RowScores(none, count, truth, predicted, _loss(own), own < CLIP, rank, given[each, predicted])


def _binary(plan: Plan, rows: Examples) -> RowScores:
    truth, negative = _is_positive(plan, plan.label, rows.label)
    found = [negative]
    if rows.prediction is not None:
        predicted, negative = _is_positive(plan, plan.prediction or "", rows.prediction)
        found.append(negative)
    else:
        assert rows.probability is not None
        predicted = (rows.probability > 0.5).astype(np.int64)
    names = only_negative(plan, np.unique(np.concatenate(found)))
    if rows.probability is None:
        return RowScores(names, 2, truth, predicted)
    own = np.where(truth == 1, rows.probability, 1 - rows.probability)
    sure = np.where(predicted == 1, rows.probability, 1 - rows.probability)
    return RowScores(names, 2, truth, predicted, _loss(own), own < CLIP, None, sure)


def _open(plan: Plan, rows: Examples) -> RowScores:
    assert rows.prediction is not None
    names, codes = np.unique(np.concatenate([rows.label, rows.prediction]), return_inverse=True)
    codes = codes.astype(np.int64)
    return RowScores(names, len(names), codes[: len(rows.label)], codes[len(rows.label) :])


def only_negative(plan: Plan, others: np.ndarray) -> np.ndarray:
    """Return the classes that are not the positive one, if they are one at most.

    Raises:
        DataError: there are several.
    """
    if len(others) > 1:
        raise DataError(
            f"A binary evaluation has one class beside the positive one, {plan.positive!r}; `{plan.label}` has "
            f"{plain_value(others[0])!r} and {plain_value(others[1])!r}. Say which is positive=, or give a probability for "
            "each class."
        )
    return others


def plain_value(value: Any) -> Any:
    """Return a class as a plain Python value."""
    return value.item() if isinstance(value, np.generic) else value


def _loss(own: np.ndarray) -> np.ndarray:
    return np.asarray(-np.log(np.maximum(own, CLIP)) + 0.0)  # no -0.0


def _is_positive(plan: Plan, column: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.asarray(values == plan.positive, dtype=bool)
    return found.astype(np.int64), values[~found]


def _check_count(plan: Plan, count: int) -> None:
    if plan.classes is not None and len(plan.classes) != count:
        raise DataError(
            f"`{plan.probability}` has {count} probabilities a row, but classes= names {len(plan.classes)}. "
            "They must be as many."
        )


def _indices(plan: Plan, column: str, values: np.ndarray, count: int) -> np.ndarray:
    """Return the numbers of classes."""
    different, inverse = np.unique(values, return_inverse=True)
    known = {name: i for i, name in enumerate(range(count) if plan.classes is None else plan.classes)}
    numbers = np.array([known.get(v, -1) for v in different.tolist()], np.int64)
    if (numbers < 0).any():
        bad = plain_value(different[np.flatnonzero(numbers < 0)[0]])
        names = f"0 to {count - 1}" if plan.classes is None else ", ".join(map(repr, plan.classes[:10]))
        raise DataError(
            f"Column `{column}` has {bad!r}, which is no class: `{plan.probability}` has {count} probabilities a row, of the "
            f"classes {names}. Filter such rows, or tell the classes in the order of the probabilities: classes=[...]."
        )
    found: np.ndarray = numbers[inverse]
    return found
