"""Sums that lose nothing on the way: compensated totals, and means with squared deviations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Totals:
    """Several sums, each with the rounding error of its additions beside it.

    Args:
        high: (n,) float64.
        low: (n,) what `high` lost.
    """

    high: np.ndarray
    low: np.ndarray

    @staticmethod
    def of(values: np.ndarray) -> Totals:
        """Take sums as they are; (n,)."""
        values = np.asarray(values, np.float64)
        return Totals(values, np.zeros_like(values))

    @staticmethod
    def merged(parts: Sequence[Totals]) -> Totals:
        """Add, keeping what each addition rounds off."""
        high, low = parts[0].high, parts[0].low
        for part in parts[1:]:
            total = high + part.high
            with np.errstate(invalid="ignore"):  # of sums that are infinite there is nothing to keep
                back = total - high
                lost = (high - (total - back)) + (part.high - back)
            high, low = total, low + part.low + np.where(np.isfinite(lost), lost, 0.0)
        return Totals(high, low)

    def values(self) -> np.ndarray:
        """Return the sums."""
        return np.asarray(self.high + self.low)


@dataclass(frozen=True)
class Moments:
    """Weight, mean and sum of squared deviations of several quantities (Welford; merged as Chan et al. do).

    Args:
        weight: of all rows together.
        mean: (n,) float64.
        squares: (n,) weighted sum of squared deviations from the mean.
    """

    weight: float
    mean: np.ndarray
    squares: np.ndarray

    @staticmethod
    def of(values: np.ndarray, weight: np.ndarray) -> Moments:
        """Look at rows.

        Args:
            values: (rows, n).
            weight: (rows,), none negative.
        """
        total = float(weight.sum())
        if not total:
            return Moments(0.0, np.zeros(values.shape[1]), np.zeros(values.shape[1]))
        mean = weight @ values / total
        off = values - mean
        mean = mean + weight @ off / total  # the second pass takes the rounding of the first away
        off = values - mean
        return Moments(total, mean, weight @ (off * off))

    @staticmethod
    def merged(parts: Sequence[Moments]) -> Moments:
        """Lay rows together."""
        found = parts[0]
        for part in parts[1:]:
            total = found.weight + part.weight
            if not part.weight:
                continue
            off = part.mean - found.mean
            mean = found.mean + off * (part.weight / total)
            squares = found.squares + part.squares + off * off * (found.weight * part.weight / total)
            found = Moments(total, mean, squares)
        return found
