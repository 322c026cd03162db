"""Smaller messages: what a rank leaves out of one message stays with it, and goes into the next (error feedback).

Seide et al., "1-Bit stochastic gradient descent and its application to data-parallel distributed training of speech DNNs",
Interspeech 2014; Strom, "Scalable distributed DNN training using commodity GPU cloud computing", Interspeech 2015 (threshold);
Lin et al., "Deep gradient compression", ICLR 2018 (top-k).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sparkgap._errors import ConfigurationError

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group

_LARGEST_HALF = 65504.0


class Compression(abc.ABC):
    """Sums vectors over ranks in smaller messages."""

    @abc.abstractmethod
    def sum_(self, vector: np.ndarray, group: Group) -> np.ndarray:
        """Leave in `vector` what this rank does not send, and return the sum over the ranks of what they send.

        What is sent and what is left add up to the vector, exactly. The sum is the same bits on all ranks.
        """


@dataclass(frozen=True)
class Half(Compression):
    """Numbers of 16 bits; half the size. Sums are rounded to 16 bits too."""

    def sum_(self, vector: np.ndarray, group: Group) -> np.ndarray:
        """See `Compression.sum_`."""
        sent = self.sent(vector, group.world)
        vector -= sent
        group.all_reduce_sum_(sent)
        return sent.astype(vector.dtype)

    def sent(self, vector: np.ndarray, world: int) -> np.ndarray:
        """Return what is sent; cut so that a sum over ranks stays finite. Pure."""
        limit = _LARGEST_HALF / world
        found: np.ndarray = np.clip(vector, -limit, limit).astype(np.float16)
        return found


class Sparse(Compression):
    """Few of the numbers, with their places: eight bytes a number, or twelve of float64."""

    @abc.abstractmethod
    def places(self, vector: np.ndarray) -> np.ndarray:
        """Return the places of the numbers to send, each once. Pure."""

    def sum_(self, vector: np.ndarray, group: Group) -> np.ndarray:
        """See `Compression.sum_`."""
        places = self.places(vector).astype(np.uint32 if len(vector) <= 1 << 32 else np.uint64)
        values = vector[places]
        vector[places] = 0
        total = np.zeros_like(vector)
        for theirs, numbers in _gather_pairs(places, values, group):
            total[theirs] += numbers  # by rank: the same order, hence the same bits, everywhere
        return total


@dataclass(frozen=True)
class TopK(Sparse):
    """The numbers that are largest in magnitude.

    Args:
        ratio: share of the numbers that a message has, above 0 and up to 1.

    Raises:
        ConfigurationError: the ratio is outside that.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigurationError(f"TopK: ratio is {self.ratio}: a share above 0 and up to 1, e.g. 0.01.")

    def places(self, vector: np.ndarray) -> np.ndarray:
        """See `Sparse.places`; at least one, where there are any."""
        count = math.ceil(self.ratio * len(vector))
        if count >= len(vector):
            return np.arange(len(vector))
        found: np.ndarray = np.argpartition(np.abs(vector), len(vector) - count)[len(vector) - count :]
        return found


@dataclass(frozen=True)
class Threshold(Sparse):
    """The numbers whose magnitude is at least a value.

    Args:
        value: above 0; of a change of a parameter.

    Raises:
        ConfigurationError: the value is not above 0.
    """

    value: float

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise ConfigurationError(f"Threshold: value is {self.value}: a number above 0, e.g. 1e-3.")

    def places(self, vector: np.ndarray) -> np.ndarray:
        """See `Sparse.places`."""
        return np.flatnonzero(np.abs(vector) >= self.value)


def compression_of(given: Compression | Literal["fp16"] | None) -> Compression | None:
    """Return the compression that an option names.

    Raises:
        ConfigurationError: it is none.
    """
    if given is None or isinstance(given, Compression):
        return given
    if given == "fp16":
        return Half()
    raise ConfigurationError(f'compression is {given!r}: None, "fp16", TopK(ratio) or Threshold(value).')


def _gather_pairs(places: np.ndarray, values: np.ndarray, group: Group) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return places and values of each rank. Messages are filled up to the longest, as all must have one size."""
    counts = [int(c[0]) for c in group.gather(np.asarray([len(places)], np.int64))]
    item = places.itemsize + values.itemsize
    message = np.zeros(max(counts) * item, np.uint8)
    split = max(counts) * places.itemsize
    message[: places.nbytes] = places.view(np.uint8)
    message[split : split + values.nbytes] = values.view(np.uint8)
    found = []
    for count, theirs in zip(counts, group.gather(message), strict=True):
        ends = count * places.itemsize, split + count * values.itemsize
        found.append((theirs[: ends[0]].copy().view(places.dtype), theirs[split : ends[1]].copy().view(values.dtype)))
    return found
