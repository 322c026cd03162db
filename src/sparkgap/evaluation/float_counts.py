"""Counts by number: exact while there are few different numbers, then by bins of bounded relative width. Pure.

A number is its bits, read as an integer, which keeps the order. Where there would be more than `limit` different ones, low
bits are cut off, as few as will do: neighbours fall together, in bins of equal relative width. How many bits that takes is a
property of the set of all numbers alone, as a part of them has no more different ones than the whole. So the result does
not depend on how the numbers were split, and merging is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_BITS = int(np.array(np.finfo(np.float64).max).view(np.int64))


def codes_of_values(values: np.ndarray) -> np.ndarray:
    """Return codes, int64, that order finite float64 numbers; fine around zero."""
    bits = np.abs(values).view(np.int64)
    return np.asarray(np.where(values < 0, ~bits, bits))


def codes_of_scores(scores: np.ndarray) -> np.ndarray:
    """Return codes, int64, of float64 probabilities, fine around zero and one alike.

    Those up to a half have codes from zero on, those above negative ones, by their distance from one, which is exact.
    """
    upper = scores > 0.5
    bits = np.where(upper, 1.0 - scores, np.abs(scores)).view(np.int64)
    return np.asarray(np.where(upper, ~bits, bits))


@dataclass(frozen=True)
class FloatCounts:
    """Sums of weights by code.

    Args:
        codes: (n,) int64, ascending, without those low bits that were cut off.
        counts: (n, channels) float64.
        shift: how many bits were cut off; 0: nothing is lost.
        limit: most codes there may be.
    """

    codes: np.ndarray
    counts: np.ndarray
    shift: int
    limit: int

    @staticmethod
    def of(codes: np.ndarray, counts: np.ndarray, limit: int) -> FloatCounts:
        """Count rows.

        Args:
            codes: (rows,) of `codes_of_values` or `codes_of_scores`.
            counts: (rows, channels) weights.
            limit: most codes to keep, 2 or more.
        """
        return _cut(*grouped(codes, counts), 0, limit)

    @staticmethod
    def merged(parts: Sequence[FloatCounts]) -> FloatCounts:
        """Lay counts together; all have the same limit and channels."""
        shift = max(p.shift for p in parts)
        codes = np.concatenate([p.codes >> (shift - p.shift) for p in parts])
        counts = np.concatenate([p.counts for p in parts])
        return _cut(*grouped(codes, counts), shift, parts[0].limit)

    def value_ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest number of each bin, for `codes_of_values`; equal where nothing was cut off."""
        negative, low, high = self._magnitudes()
        return np.where(negative, -high, low), np.where(negative, -low, high)

    def scores_ascending(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least score of each bin and the counts, for `codes_of_scores`, from the lowest score up."""
        negative, low, high = self._magnitudes()
        least = np.where(negative, np.maximum(1.0 - high, 0.5), low)  # their bins end at a half
        upper = int(negative.sum())  # their codes come first
        return np.roll(least, -upper), np.roll(self.counts, -upper, axis=0)

    def _magnitudes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        negative = self.codes < 0
        cut = np.where(negative, ~self.codes, self.codes).astype(np.uint64)
        shift = np.uint64(self.shift)
        low = cut << shift
        high = np.minimum(((cut + np.uint64(1)) << shift) - np.uint64(1), np.uint64(_MOST_BITS))
        return negative, low.view(np.float64), high.view(np.float64)


def grouped(codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different codes, ascending, and the sums of their rows of counts."""
    if not len(codes):
        return codes, counts
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    first = np.concatenate([[0], np.flatnonzero(codes[1:] != codes[:-1]) + 1])
    return codes[first], np.add.reduceat(counts[order], first, axis=0)


def _cut(codes: np.ndarray, counts: np.ndarray, shift: int, limit: int) -> FloatCounts:
    """Cut off as few bits as leave no more than `limit` codes; `codes` ascend."""
    if len(codes) > limit:
        low, high = 0, 63 - shift  # cutting none leaves too many, cutting all leaves two
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _different(codes >> middle) <= limit else (middle, high)
        codes, counts = grouped(codes >> high, counts)
        shift += high
    return FloatCounts(codes, counts, shift, limit)


def _different(ascending: np.ndarray) -> int:
    return 1 + int((ascending[1:] != ascending[:-1]).sum())
