"""The ranks of a gang: where each is, and where its time goes. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from sparkgap.monitor.events import RankProgress

PHASES = {
    "start": "starting: imports, the model, the first rows",
    "data": "waiting for data",
    "convert": "converting columns to tensors",
    "compute": "computing: forward, backward and the optimizer",
    "communicate": "waiting for the other ranks",
    "validate": "validating",
    "checkpoint": "writing checkpoints",
    "write": "handing rows to Spark",
}
"""A rank's main thread is always in one of these; its seconds in all of them add up to the time since it began."""
SHORT = {
    "start": "starting", "data": "waiting for data", "convert": "converting", "compute": "computing",
    "communicate": "waiting for ranks", "validate": "validating", "checkpoint": "checkpointing", "write": "writing",
}  # fmt: skip
"""What a rank does, in a word or three."""
OVER = ("done", "failed")
"""Instead of a phase, at the end."""
MAX_RANKS = 10_000
RECENT_SECONDS = 5.0
"""How fast a rank is "now": over so many seconds."""


@dataclass
class Rank:
    """What is known of one rank.

    Attributes:
        latest: what it said last.
        past: when it had so many rows: (seconds since 1970, rows), the latest few seconds of them.
    """

    latest: RankProgress
    past: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def worked(self) -> dict[str, float]:
        """Seconds by phase, without those of the start."""
        return {phase: spent for phase, spent in self.latest.phases.items() if phase != "start"}

    @property
    def rate(self) -> float:
        """Rows a second: lately while it runs, at its end over all of its work."""
        (began, before), (now, rows) = self.past[0], self.past[-1]
        if self.latest.phase in OVER or now <= began:
            worked = sum(self.worked.values())
            return self.latest.rows / worked if worked > 0 else 0.0
        return (rows - before) / (now - began)

    def share(self, phase: str) -> float:
        """Return the share of its time, since it has started, that a phase took."""
        worked = self.worked
        return worked.get(phase, 0.0) / busy if (busy := sum(worked.values())) > 0 else 0.0


class Ranks:
    """The ranks of a run. A gang that Spark begins anew takes the place of the one before.

    Attributes:
        known: by number.
    """

    def __init__(self) -> None:
        self.known: dict[int, Rank] = {}

    def __bool__(self) -> bool:
        return bool(self.known)

    def note(self, event: RankProgress) -> None:
        """Fold one event in; older news than the latest change nothing."""
        if not 0 <= event.rank < MAX_RANKS:
            return
        if any(_attempt(event) > _attempt(r.latest) and _stage(event) != _stage(r.latest) for r in self.known.values()):
            self.known.clear()
        rank = self.known.get(event.rank)
        if rank is None:
            rank = self.known[event.rank] = Rank(event)
        elif (_attempt(event), event.time) < (_attempt(rank.latest), rank.latest.time):
            return
        elif event.rows < rank.latest.rows:
            rank.past.clear()
        rank.latest = event
        rank.past.append((event.time, event.rows))
        while len(rank.past) > 2 and event.time - rank.past[0][0] > RECENT_SECONDS:
            rank.past.popleft()

    def all(self) -> list[Rank]:
        """Return them by number."""
        return [self.known[number] for number in sorted(self.known)]

    @property
    def rows(self) -> int:
        """Rows of all ranks so far."""
        return sum(rank.latest.rows for rank in self.known.values())

    @property
    def rate(self) -> float:
        """Rows a second of all ranks together."""
        return sum(rank.rate for rank in self.known.values())

    def seconds(self) -> dict[str, float]:
        """Return seconds by phase over all ranks, in the order of `PHASES`."""
        total: Counter[str] = Counter()
        for rank in self.known.values():
            total.update(rank.latest.phases)
        return {phase: total[phase] for phase in PHASES if phase in total}

    @property
    def epochs(self) -> tuple[int, int]:
        """How many epochs all ranks have behind them, and how many there will be; 0 where nobody has said."""
        told = [rank.latest for rank in self.known.values()]
        most = max((t.epochs for t in told), default=0)
        return (min(min(t.epoch for t in told), most), most) if told else (0, 0)


def words_of(phase: str) -> str:
    """Return what a rank does, in a few words."""
    return SHORT.get(phase, phase)


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of phases."""
    total = sum(seconds.values())
    return {phase: spent / total for phase, spent in seconds.items()} if total > 0 else {}


def _stage(event: RankProgress) -> int:
    return event.task.stage if event.task is not None else -1


def _attempt(event: RankProgress) -> int:
    return event.task.attempt if event.task is not None else -1
