"""Which item runs where and when: a pure state machine. Events go in as calls, commands come out.

It knows neither Spark nor sockets nor a clock: whoever drives it passes the time and performs the commands. Items are
numbers here. Those that are over leave nothing behind, so its memory is that of the items under way.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

Verdict = Literal["over", "again"]

DEEP_BELOW = 0.2
"""A slot gets its next lease in advance where one lasts less than so many seconds: a message must not cost a pause."""
MAX_LOSSES = 3
"""An item whose slots have vanished so many times is not tried in another one: it may be what kills them."""
NARROWING = 16
"""A lease whose slot has vanished comes again in so many parts, where nobody knows which item it was."""
MEMORY = 0.3
"""Weight of the latest item in the mean duration, where it took longer than that."""


@dataclass(frozen=True)
class Leasing:
    """How much a lease holds, by what it costs to give one.

    Args:
        seconds: work that one lease is to hold, by the duration of the items so far.
        short: seconds of work that is not worth being shared out: below that, a lease costs more than the slot that it would
            keep busy gains.
        most: items of one lease.
        whole: whether a slot tells of a lease when all of it has ended. So nobody knows at which item a slot was that has
            vanished: those that it had are tried in smaller leases, until one that was alone is blamed.
    """

    seconds: float
    short: float
    most: int
    whole: bool = False


MESSAGES = Leasing(0.05, 0.005, 1000)
"""Leases that are messages to a slot that stays."""
JOBS = Leasing(1.5, 0.3, 4000, whole=True)
"""Leases that are Spark jobs of their own: one costs 0.1 to 0.2 s."""


@dataclass(frozen=True)
class Lease:
    """Run these items in this slot, one after the other."""

    slot: int
    lease: int
    items: tuple[int, ...]


@dataclass(frozen=True)
class Recall:
    """Ask a slot to give back what it has not begun."""

    slot: int


@dataclass(frozen=True)
class Kill:
    """End what a slot runs, at once."""

    slot: int


@dataclass(frozen=True)
class Settle:
    """An item whose slots have vanished is over, without a result."""

    item: int


@dataclass(frozen=True)
class Close:
    """A slot is needed no more."""

    slot: int


Command = Lease | Recall | Kill | Settle | Close


@dataclass
class _Slot:
    leases: dict[int, dict[int, None]] = field(default_factory=dict)  # lease -> its items that are not over, in order
    recalled: bool = False

    @property
    def held(self) -> int:
        return sum(map(len, self.leases.values()))


class Schedule:
    """Items, slots, and what is where.

    Every item ends exactly once: by `ended` with the answer ``"over"``, by `Settle`, or by `cancel`.

    Args:
        retries: how often an item that failed is tried again.
        backoff: seconds before the first retry; doubles with each further one.
        single: one item a lease and none in advance, where what comes next depends on what has ended.
        losses: how often an item whose slot has vanished is given to another one.
        leasing: how much a lease holds.

    Attributes:
        leasing: likewise; may be changed before the first slot.
        mean: seconds an item takes, rather too little than too much; None before the first.
    """

    def __init__(
        self,
        *,
        retries: int = 0,
        backoff: float = 0.0,
        single: bool = False,
        losses: int = MAX_LOSSES,
        leasing: Leasing = MESSAGES,
    ) -> None:
        self.leasing = leasing
        self._most_losses = losses
        self._retries = retries
        self._backoff = backoff
        self._single = single
        self._ready: deque[int] = deque()
        self._delayed: list[tuple[float, int]] = []
        self._slots: dict[int, _Slot] = {}
        self._failures: dict[int, int] = {}
        self._losses: dict[int, int] = {}
        self._suspects: dict[int, int] = {}  # item -> with how many it may be in a lease
        self._next_item = self._next_lease = 0
        self._exhausted = self._cancelled = False
        self.mean: float | None = None

    # what is asked of it

    @property
    def under_way(self) -> int:
        """Items in slots."""
        return sum(s.held for s in self._slots.values())

    @property
    def waiting(self) -> int:
        """Items that are known and in no slot."""
        return len(self._ready) + len(self._delayed)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do, and nothing will come."""
        return self._exhausted and not self.waiting and not self.under_way

    @property
    def slots(self) -> int:
        """Slots that are open."""
        return len(self._slots)

    def hunger(self) -> int:
        """Return how many more items are to be offered now, to keep the open slots busy."""
        if self._exhausted or self._cancelled:
            return 0
        if self._single:
            return max(0, sum(not s.leases for s in self._slots.values()) - len(self._ready))
        return max(0, 2 * self._size() * max(1, len(self._slots)) - len(self._ready))

    def attempts(self, item: int) -> int:
        """Return how often an item that is under way has been tried, this time included."""
        return 1 + self._failures.get(item, 0) + self._losses.get(item, 0)

    def holds(self, slot: int, lease: int, item: int) -> bool:
        """Whether an item is under way in a slot, with a lease."""
        holder = self._slots.get(slot)
        return holder is not None and item in holder.leases.get(lease, ())

    def holder(self, item: int) -> int | None:
        """Return the slot in which an item is under way."""
        return next((n for n, s in self._slots.items() if any(item in items for items in s.leases.values())), None)

    def next_time(self) -> float | None:
        """Return when `tick` has something to do; None where only events can bring that."""
        return self._delayed[0][0] if self._delayed else None

    # events

    def offer(self, count: int) -> list[Command]:
        """Take so many further items; they get the next numbers."""
        if self._cancelled or self._exhausted:
            raise ValueError("items after the end")
        self._ready.extend(range(self._next_item, self._next_item + count))
        self._next_item += count
        return self._assign()

    def exhausted(self) -> list[Command]:
        """Note that no items will come any more."""
        self._exhausted = True
        return self._assign()

    def opened(self, slot: int) -> list[Command]:
        """Note a slot that can take work."""
        if slot in self._slots:
            raise ValueError(f"slot {slot} is open already")
        self._slots[slot] = _Slot()
        return self._assign()

    def closed(self, slot: int) -> list[Command]:
        """Note a slot that is gone. The item that it had at hand counts as lost, the others have not begun.

        Where nobody knows which that was, all of them run again, in smaller leases, and none counts as lost.
        """
        gone = self._slots.pop(slot, None)
        if gone is None:
            return []
        held = [item for items in gone.leases.values() for item in items]
        told: list[Command] = []
        at_hand = next(iter(gone.leases.values()), {})
        if self.leasing.whole and len(at_hand) > 1:
            self._suspects.update(dict.fromkeys(at_hand, max(1, len(at_hand) // NARROWING)))
        elif held and not self._cancelled:
            first = held[0]
            self._losses[first] = self._losses.get(first, 0) + 1
            if self._losses[first] > self._most_losses:
                self._forget(first)
                told.append(Settle(first))
                held = held[1:]
        if not self._cancelled:
            self._ready.extendleft(reversed(held))
        return told + self._assign()

    def ended(self, slot: int, lease: int, item: int, ok: bool, seconds: float, now: float) -> Verdict | None:
        """Note the end of an item in a slot. Call `assign` after the last one of a message.

        Args:
            slot: where it ran.
            lease: with which lease it was given.
            item: its number.
            ok: whether it gave a result.
            seconds: how long it took.
            now: the time.

        Returns:
            ``"over"`` where that is its outcome, ``"again"`` where it will be tried again, and None where the item is not
            this slot's: a late message, of no effect.
        """
        holder = self._slots.get(slot)
        items = holder.leases.get(lease) if holder is not None else None
        if holder is None or items is None or item not in items:
            return None
        del items[item]
        if not items:
            del holder.leases[lease]
            holder.recalled = False
        # Down at once, up slowly: first calls are slow, and too long a lease can be taken back, a short one costs messages.
        known = seconds if self.mean is None else self.mean
        self.mean = min(seconds, known + MEMORY * (seconds - known))
        if ok or self._cancelled or self._failures.get(item, 0) >= self._retries:
            self._forget(item)
            return "over"
        failures = self._failures[item] = self._failures.get(item, 0) + 1
        heapq.heappush(self._delayed, (now + self._backoff * 2.0 ** (failures - 1), item))
        return "again"

    def ended_well(self, slot: int, lease: int, items: Sequence[int], seconds: Sequence[float]) -> list[int]:
        """Note the ends of items that all gave a result: as `ended` does, one after the other.

        Returns:
            For each item how often it was tried, or 0 where it is not this slot's.
        """
        holder = self._slots.get(slot)
        held = holder.leases.get(lease) if holder is not None else None
        if holder is None or held is None:
            return [0] * len(items)
        tries, mean = [], self.mean
        for item, spent in zip(items, seconds, strict=True):
            if item not in held:
                tries.append(0)
                continue
            del held[item]
            if mean is None or spent < mean:
                mean = spent
            else:
                mean += MEMORY * (spent - mean)
            tries.append(self.attempts(item) if self._failures or self._losses else 1)
            self._forget(item)
        self.mean = mean
        if not held:
            del holder.leases[lease]
            holder.recalled = False
        return tries

    def returned(self, slot: int, lease: int, items: list[int]) -> list[Command]:
        """Note what a slot gives back of a lease without having begun it."""
        holder = self._slots.get(slot)
        held = holder.leases.get(lease) if holder is not None else None
        if holder is None or held is None:
            return []
        back = [item for item in items if item in held]
        for item in back:
            del held[item]
        if not held:
            del holder.leases[lease]
            holder.recalled = False
        if not self._cancelled:
            self._ready.extendleft(reversed(back))
        return self._assign()

    def tick(self, now: float) -> list[Command]:
        """Note that time has passed."""
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._delayed)[1])
        return self._assign()

    def assign(self) -> list[Command]:
        """Give work to slots that have room for it."""
        return self._assign()

    def cancel(self) -> list[Command]:
        """End everything: nothing new begins, and what runs is killed."""
        self._cancelled = self._exhausted = True
        self._ready.clear()
        self._delayed.clear()
        busy = [slot for slot, s in self._slots.items() if s.leases]
        for slot in self._slots.values():
            slot.leases.clear()
        return [*(Kill(s) for s in busy), *self._assign()]

    # inside

    def _forget(self, item: int) -> None:
        self._failures.pop(item, None)
        self._losses.pop(item, None)
        self._suspects.pop(item, None)

    def _assign(self) -> list[Command]:
        if self._cancelled:
            return [Close(slot) for slot in self._slots]
        told: list[Command] = []
        for depth in (1, 2):
            if depth == 2 and not self._deep():
                break
            for number, slot in self._slots.items():
                if not self._ready:
                    break
                if len(slot.leases) < depth:
                    told.append(self._lease(number, slot))
        if self.done:
            return [*told, *(Close(s) for s in self._slots)]
        if not self._ready and any(not s.leases for s in self._slots.values()):
            told += self._recall()
        return told

    def _lease(self, number: int, slot: _Slot) -> Lease:
        fair = max(len(self._ready) // (2 * len(self._slots)), int(self.leasing.short / max(self.mean or 1.0, 1e-6)), 1)
        size = min(self._size(), fair, len(self._ready))
        if self._suspects:
            size = self._narrowed(size)
        items = tuple(self._ready.popleft() for _ in range(size))
        self._next_lease += 1
        slot.leases[self._next_lease] = dict.fromkeys(items)
        return Lease(number, self._next_lease, items)

    def _narrowed(self, size: int) -> int:
        """Return how many of the first items may be in one lease, where some are suspects."""
        for place, item in enumerate(islice(self._ready, size)):
            size = min(size, self._suspects.get(item, size))
            if place + 1 >= size:
                break
        return size

    def _size(self) -> int:
        if self._single or self.mean is None:
            return 1
        return max(1, min(self.leasing.most, int(self.leasing.seconds / max(self.mean, 1e-6))))

    def _deep(self) -> bool:
        return not self._single and self.mean is not None and self.mean * self._size() < DEEP_BELOW

    def _recall(self) -> list[Command]:
        """Take from the slot that holds most: a long item must not keep others waiting while slots are idle."""
        held = {n: s.held for n, s in self._slots.items() if not s.recalled}
        most = max(held, key=held.__getitem__, default=None)
        if most is None or held[most] < 2:
            return []
        self._slots[most].recalled = True
        return [Recall(most)]
