"""Where the ranks of a gang meet: rounds in which each of them says something and gets what all have said. Pure.

Driver side. No sockets, no clock, no threads: whoever drives it passes questions in, sends the answers that come out, and
asks for `missing` when a deadline has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JOIN = "join"
"""The first round of every gang."""


class OutOfStep(ValueError):
    """A rank asks for what the others do not: the code is not the same on all ranks, or does not do the same."""


@dataclass(frozen=True)
class Answer:
    """What goes to a rank.

    Attributes:
        rank: to whom.
        token: of the question.
        values: what each rank has said, by rank.
    """

    rank: int
    token: Any
    values: list[Any]


@dataclass
class _Round:
    said: dict[int, Any] = field(default_factory=dict)
    tokens: dict[int, Any] = field(default_factory=dict)


class Coordinator:
    """The rounds of one gang.

    Args:
        world: how many ranks there are.
    """

    def __init__(self, world: int) -> None:
        self._world = world
        self._rounds: dict[tuple[str, int], _Round] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._over: set[int] = set()

    def gather(self, rank: int, question: Mapping[str, Any], token: Any) -> list[Answer]:
        """Take what a rank says in the next round of a name; returns the answers to all once the last one has spoken.

        Args:
            rank: who asks.
            question: ``name`` of the round and the ``value``, JSON.
            token: goes back with the answer.

        Raises:
            OutOfStep: this round, or another one, can never come about.
        """
        name = str(question["name"])
        number = self._next.get((name, rank), 0)
        self._next[name, rank] = number + 1
        found = self._rounds.setdefault((name, number), _Round())
        found.said[rank], found.tokens[rank] = question["value"], token
        if len(found.said) < self._world:
            if stuck := self.stuck():
                raise OutOfStep(stuck)
            return []
        del self._rounds[name, number]
        values = [found.said[r] for r in range(self._world)]
        return [Answer(r, found.tokens[r], values) for r in range(self._world)]

    def over(self, rank: int) -> None:
        """Note that a rank has ended."""
        self._over.add(rank)

    def stuck(self) -> str | None:
        """Say which round can never come about: a rank has ended without it, or all wait, for different ones. Else None."""
        for (name, _), found in self._rounds.items():
            gone = sorted(self._over - found.said.keys())
            if gone:
                return (
                    f"{_ranks(sorted(found.said))} at {name!r} for all ranks, but {_ranks(gone, has=True)} ended without "
                    "that. Every rank must do the same steps."
                )
        waiting = {rank for found in self._rounds.values() for rank in found.said}
        if len(waiting) < self._world:
            return None
        where = ", ".join(f"{_ranks(sorted(found.said))} at {name!r}" for (name, _), found in self._rounds.items())
        return f"{where}. Every rank must do the same steps ('leave' is the end of the function)."

    def missing(self, name: str) -> list[int]:
        """Return the ranks that have not come to the first round of a name."""
        return [r for r in range(self._world) if not self._next.get((name, r))]


def _ranks(ranks: list[int], *, has: bool = False) -> str:
    one = len(ranks) == 1
    what = ("has" if one else "have") if has else ("waits" if one else "wait")
    return f"rank{'' if one else 's'} {', '.join(map(str, ranks))} {what}"
