"""L-BFGS with a strong Wolfe line search (Nocedal & Wright, algorithms 3.5, 3.6 and 7.5), with MLlib's constants. Pure.

It is here, and not torch's, because a step is then the one that MLlib takes: same first step, same conditions, same end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Objective = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""Weights -> (loss, gradient)."""

MEMORY = 10
"""Pairs of steps and changes of the gradient that are remembered."""
LOOKBACK = 20
"""Iterations over which the loss must become less."""
_DECREASE, _CURVATURE = 1e-4, 0.9
_TRIES = 10


class Point(NamedTuple):
    """Where the search is after an iteration: weights, loss, gradient."""

    weights: np.ndarray
    loss: float
    gradient: np.ndarray


class _Try(NamedTuple):
    """A step length: loss and slope there."""

    length: float
    loss: float
    slope: float
    point: Point


class _NoStep(Exception):
    """The line search found no step."""


def minimise(objective: Objective, start: np.ndarray, tol: float) -> Iterator[Point]:
    """Give the start, and the point after each iteration, until the loss has converged.

    It has where the loss became less by no more than `tol` times the first loss in 20 iterations, where the gradient's norm
    is at most `tol` times the loss, and where no step along the gradient helps.
    """
    at = Point(start, *objective(start))
    losses = deque([at.loss], LOOKBACK)
    first, pairs = at.loss, _Pairs()
    yield at
    while np.linalg.norm(at.gradient) > max(tol * at.loss, 1e-8):
        try:
            found = _along(objective, at, pairs)
        except _NoStep:
            if not pairs:
                return
            pairs = _Pairs()  # what is remembered misleads: go down the gradient
            continue
        pairs.add(found.weights - at.weights, found.gradient - at.gradient)
        at = found
        yield at
        losses.append(at.loss)
        if abs(at.loss - max(losses)) <= tol * abs(first):
            return


def _along(objective: Objective, at: Point, pairs: _Pairs) -> Point:
    direction = pairs.direction(at.gradient)
    length = 1.0 if pairs else 1.0 / float(np.linalg.norm(direction))
    slope = float(direction @ at.gradient)

    def phi(t: float) -> _Try:
        weights = at.weights + t * direction
        loss, gradient = objective(weights)
        return _Try(t, loss, float(gradient @ direction), Point(weights, loss, gradient))

    if not slope < 0:
        raise _NoStep
    return _search(phi, _Try(0.0, at.loss, slope, at), length)


class _Pairs:
    """What the last steps tell of the curvature."""

    def __init__(self) -> None:
        self._kept: deque[tuple[np.ndarray, np.ndarray, float]] = deque(maxlen=MEMORY)

    def __bool__(self) -> bool:
        return bool(self._kept)

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        product = float(step @ change)
        if product > 0:
            self._kept.append((step, change, product))

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        found = -gradient
        if not self._kept:
            return found
        factors = []
        for step, change, product in reversed(self._kept):
            factors.append(float(step @ found) / product)
            found = found - factors[-1] * change
        _, change, product = self._kept[-1]
        found = found * (product / float(change @ change))
        for (step, change, product), factor in zip(self._kept, reversed(factors), strict=True):
            found = found + (factor - float(change @ found) / product) * step
        return found


def _search(phi: Callable[[float], _Try], zero: _Try, length: float) -> Point:
    """Return a point that satisfies the strong Wolfe conditions."""
    low = zero
    for number in range(_TRIES):
        tried = phi(length)
        if not math.isfinite(tried.loss):
            length = 0.5 * (low.length + length)  # between what was good and what was too far
            continue
        if _too_high(tried, zero) or (tried.loss >= low.loss and number > 0):
            return _zoom(phi, zero, low, tried)
        if _is_flat(tried, zero):
            return tried.point
        if tried.slope >= 0:
            return _zoom(phi, zero, tried, low)
        low = tried
        length *= 1.5
    raise _NoStep


def _zoom(phi: Callable[[float], _Try], zero: _Try, low: _Try, high: _Try) -> Point:
    for _ in range(_TRIES):
        tried = phi(_between(*sorted((low, high), key=lambda one: one.length)))
        if _too_high(tried, zero) or tried.loss >= low.loss or not math.isfinite(tried.loss):
            high = tried
            continue
        if _is_flat(tried, zero):
            return tried.point
        if tried.slope * (high.length - low.length) >= 0:
            high = low
        low = tried
    raise _NoStep


def _too_high(tried: _Try, zero: _Try) -> bool:
    return tried.loss > zero.loss + _DECREASE * tried.length * zero.slope


def _is_flat(tried: _Try, zero: _Try) -> bool:
    return abs(tried.slope) <= _CURVATURE * abs(zero.slope)


def _between(left: _Try, right: _Try) -> float:
    """Return the minimum of the cubic through both, away from the ends."""
    width = right.length - left.length
    d1 = left.slope + right.slope - 3.0 * (right.loss - left.loss) / width
    d2 = math.sqrt(max(0.0, d1 * d1 - left.slope * right.slope))
    below = right.slope - left.slope + 2.0 * d2
    found = right.length - width * (right.slope + d2 - d1) / below if below else math.nan
    least, most = left.length + 0.1 * width, left.length + 0.9 * width
    return min(max(found, least), most) if math.isfinite(found) else 0.5 * (least + most)
