"""When a search has stopped getting better. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Plateau:
    """Counts finished trials since the last new best one.

    With several objectives, a trial is a new best if none before is at least as good in all of them.

    Args:
        patience: so many without a new best are a plateau; None: never.
        maximize: for each objective whether more is better.
    """

    def __init__(self, patience: int | None, maximize: Sequence[bool]) -> None:
        self._patience = patience
        self._maximize = tuple(maximize)
        self._front: list[tuple[float, ...]] = []
        self.since = 0

    def note(self, values: Sequence[float] | None) -> None:
        """Take the next finished trial; None where it has no values."""
        cost = None if values is None else tuple(-v if m else v for v, m in zip(values, self._maximize, strict=True))
        if cost is None or any(_covers(best, cost) for best in self._front):
            self.since += 1
            return
        self._front = [best for best in self._front if not _covers(cost, best)] + [cost]
        self.since = 0

    @property
    def reached(self) -> bool:
        """Whether this is a plateau."""
        return self._patience is not None and self.since >= self._patience


def _covers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
